/** The line of progress: what I decided and accepted, what waits for me and how fast, counted on at once and set right when all is quiet. */

import { fill, make, part } from "./elements.js";
import { count, duration } from "./words.js";

const LATEST = 30;
const ENOUGH = 5;
/** The server may remember its figures for some seconds: until then, what was counted here is newer. */
const SETTLED_MS = 10_000;

export class Pace {
  /** @type {TrayProgress | null} */
  #told = null;
  /** @type {number[]} milliseconds looked at, for the latest decisions */
  #dwells = [];

  #countedAt = -Infinity;

  /**
   * What the server says. Of what is counted here, only once all is quiet: it may not know the latest decisions yet.
   * @param {TrayProgress} told @param {boolean} quiet whether no decision is on its way
   */
  settle(told, quiet) {
    const settled = quiet && performance.now() - this.#countedAt > SETTLED_MS;
    this.#told = this.#told && !settled ? { ...this.#told, waiting: told.waiting } : { ...told };
    this.#show();
  }

  /** @param {DecisionBody} body @param {1 | -1} sign */
  count(body, sign) {
    this.#countedAt = performance.now();
    if (sign > 0 && body.dwell_ms !== null) this.#dwells = [...this.#dwells, body.dwell_ms].slice(-LATEST);
    if (!this.#told || body.verdict === "skip") return this.#show();
    this.#told.mine += sign;
    this.#told.accepted += body.verdict === "accept" ? sign : 0;
    this.#show();
  }

  /** Seconds of the median look among the latest; null until there are enough of them. */
  get #medianLook() {
    if (this.#dwells.length < ENOUGH) return null;
    const sorted = this.#dwells.toSorted((a, b) => a - b);
    return (sorted[Math.floor(sorted.length / 2)] ?? 0) / 1000;
  }

  #show() {
    const told = this.#told;
    if (!told) return;
    const share = told.mine ? ` ${Math.round((100 * told.accepted) / told.mine)} %` : "";
    const look = this.#medianLook;
    fill(
      part("pace"),
      item("By me", count(told.mine)),
      item("I accepted", count(told.accepted), share),
      item("Waiting", count(told.waiting)),
      item("A look", look === null ? "–" : duration(look)),
    );
  }
}

/** @param {string} name @param {string} value @param {string} [more] */
function item(name, value, more = "") {
  return make("div", {}, make("dt", {}, name), make("dd", {}, value, more && make("small", {}, more)));
}
