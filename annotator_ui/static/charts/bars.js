/** Horizontal bars, state chips and tiles. Every bar is labeled with its number. */

import { el } from "../lib/dom.js";
import { formatCount, humanize } from "../lib/format.js";

/**
 * Return a list of bars.
 * @param {{name: string, value: number, note?: string, tone?: string}[]} rows
 * @param {number} [max] the value of a full bar; the largest value by default
 */
export function bars(rows, max = Math.max(...rows.map((row) => row.value), 1)) {
  return el(
    "ul",
    { class: "bars" },
    rows.map(({ name, value, note, tone }) =>
      el(
        "li",
        { class: tone, "--share": (value / Math.max(max, 1)).toFixed(4) },
        el("span", { class: "name" }, humanize(name)),
        el("span", { class: "bar", "aria-hidden": "true" }),
        el("span", { class: "value" }, formatCount(value), note && el("small", {}, ` ${note}`)),
      ),
    ),
  );
}

/** @type {Record<string, string>} */
const STATE_SYMBOLS = {
  open: "●",
  paused: "❙❙",
  closed: "✓",
  requested: "○",
  idle: "○",
  busy: "●",
  draining: "▽",
  running: "●",
  finished: "✓",
  failed: "!",
};

/** Return a chip with a state in words and a symbol. @param {string} state */
export function stateChip(state) {
  const symbol = el("span", { "aria-hidden": "true" }, `${STATE_SYMBOLS[state] ?? "·"} `);
  return el("span", { class: `chip state-${state}` }, symbol, state);
}

/**
 * Return a tile with one large number.
 * @param {string} name
 * @param {string} value
 * @param {string} [note]
 */
export function tile(name, value, note = "") {
  return el(
    "div",
    { class: "tile" },
    el("dt", {}, name),
    el("dd", {}, value, note && el("small", {}, note)),
  );
}
