/** Keeping a page fresh: again and again while somebody looks, more slowly while the server is away. */

import { sayError, say } from "./frame.js";
import { Refusal } from "./request.js";

/**
 * Runs now, then every so many milliseconds while the page is visible; returns a function that runs it at once.
 * @param {number} period
 * @param {() => Promise<void>} run
 */
export function keepFresh(period, run) {
  let timer = 0;
  let failures = 0;
  const turn = async () => {
    clearTimeout(timer);
    try {
      await run();
      if (failures) say("");
      failures = 0;
    } catch (error) {
      failures += 1;
      sayError(error);
      if (error instanceof Refusal) return; // asking again would be refused again
    }
    timer = setTimeout(() => document.hidden || turn(), Math.min(period * 2 ** failures, 60_000));
  };
  document.addEventListener("visibilitychange", () => document.hidden || turn());
  turn();
  return turn;
}
