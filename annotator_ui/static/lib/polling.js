/** Polling: refresh a page while it is visible, with exponential backoff on errors. */

import { showError, showNotice } from "./shell.js";
import { Refusal } from "./http.js";

const MAX_PERIOD_MS = 60_000;

/**
 * Run a refresh now and then periodically while the page is visible.
 * @param {number} periodMs
 * @param {() => Promise<void>} refresh
 * @returns {() => Promise<void>} refreshes immediately
 */
export function poll(periodMs, refresh) {
  let timer = 0;
  let failures = 0;
  const run = async () => {
    clearTimeout(timer);
    try {
      await refresh();
      if (failures) showNotice("");
      failures = 0;
    } catch (error) {
      failures += 1;
      showError(error);
      if (error instanceof Refusal) return; // the next request would be refused too
    }
    timer = setTimeout(
      () => document.hidden || run(),
      Math.min(periodMs * 2 ** failures, MAX_PERIOD_MS),
    );
  };
  document.addEventListener("visibilitychange", () => document.hidden || run());
  run();
  return run;
}
