/**
 * The reviewer's progress: decided, accepted, waiting, and the median review time. Decisions are
 * counted immediately; the server's numbers replace the local ones once all decisions are sent.
 */

import { byId, el, replace } from "../lib/dom.js";
import { formatCount, formatDuration, formatRatio } from "../lib/format.js";

/** Number of recent decisions in the median, and the minimum needed to show it. */
const MAX_DWELL_TIMES = 30;
const MIN_DWELL_TIMES = 5;
/** The server caches its counts for some seconds: until then, the local counts are newer. */
const SETTLE_MS = 10_000;

export class Progress {
  /** @type {ClaimProgress | null} */
  #counts = null;
  /** Dwell times of the recent decisions, in milliseconds. @type {number[]} */
  #dwellTimes = [];
  #lastCountedAt = -Infinity;

  /**
   * Take the counts of the server. The reviewer's own counts are taken only once all decisions are
   * sent and the server's cache has expired.
   * @param {ClaimProgress} progress
   * @param {boolean} allSent
   */
  update(progress, allSent) {
    const settled = allSent && performance.now() - this.#lastCountedAt > SETTLE_MS;
    this.#counts =
      this.#counts && !settled ? { ...this.#counts, waiting: progress.waiting } : { ...progress };
    this.#render();
  }

  /**
   * Count a decision (+1) or its undo (-1).
   * @param {DecisionRequest} body
   * @param {1 | -1} sign
   */
  count(body, sign) {
    this.#lastCountedAt = performance.now();
    if (sign > 0 && body.dwell_ms !== null) {
      this.#dwellTimes = [...this.#dwellTimes, body.dwell_ms].slice(-MAX_DWELL_TIMES);
    }
    if (this.#counts && body.verdict !== "skip") {
      this.#counts.mine += sign;
      this.#counts.accepted += body.verdict === "accept" ? sign : 0;
    }
    this.#render();
  }

  /** Median of the recent dwell times in seconds, or null if there are too few. */
  get #medianSeconds() {
    if (this.#dwellTimes.length < MIN_DWELL_TIMES) return null;
    const sorted = this.#dwellTimes.toSorted((a, b) => a - b);
    return (sorted[Math.floor(sorted.length / 2)] ?? 0) / 1000;
  }

  #render() {
    const counts = this.#counts;
    if (!counts) return;
    const acceptRate = counts.mine ? ` ${formatRatio(counts.accepted, counts.mine)}` : "";
    replace(
      byId("progress"),
      item("Decided", formatCount(counts.mine)),
      item("Accepted", formatCount(counts.accepted), acceptRate),
      item("Waiting", formatCount(counts.waiting)),
      item("Median time", formatDuration(this.#medianSeconds)),
    );
  }
}

/**
 * @param {string} name
 * @param {string} value
 * @param {string} [note]
 */
function item(name, value, note = "") {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value, note && el("small", {}, note)));
}
