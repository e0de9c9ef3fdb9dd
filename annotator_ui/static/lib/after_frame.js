/** Defer work until the next frame is painted, so that it does not delay the response to a key. */

/** Fallback for hidden pages, which paint no frames. */
const TIMEOUT_MS = 200;

/**
 * Run a callback after the frame with the current changes is painted.
 * @param {() => void} callback
 */
export function afterFrame(callback) {
  let pending = true;
  const runOnce = () => {
    if (pending) callback();
    pending = false;
  };
  // The first callback runs before the frame is painted, the second at the start of the next one.
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(runOnce)));
  setTimeout(runOnce, TIMEOUT_MS);
}
