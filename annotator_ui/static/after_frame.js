/** What may wait until a frame is shown: nothing takes the processor from the picture that a key has asked for. */

/** A page that nobody sees has no frames. */
const LATEST_MS = 200;

/** Runs it after the frame that shows what has been changed by now. @param {() => void} run */
export function afterFrame(run) {
  let due = true;
  const once = () => {
    if (due) run();
    due = false;
  };
  // The first callback runs before that frame is drawn, the second one when the next frame begins.
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(once)));
  setTimeout(once, LATEST_MS);
}
