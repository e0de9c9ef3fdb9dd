/** Bars with their numbers beside them; the number says it, the bar only shows it. */

import { make } from "./elements.js";
import { count, plain } from "./words.js";

/**
 * @param {{name: string, value: number, note?: string, tone?: string}[]} rows
 * @param {number} [whole] the value of a full bar; the largest by default
 */
export function bars(rows, whole = Math.max(...rows.map((row) => row.value), 1)) {
  return make(
    "ul",
    { class: "bars" },
    rows.map(({ name, value, note, tone }) =>
      make(
        "li",
        { class: tone, "--share": (value / Math.max(whole, 1)).toFixed(4) },
        make("span", { class: "name" }, plain(name)),
        make("span", { class: "bar", "aria-hidden": "true" }),
        make("span", { class: "value" }, count(value), note && make("small", {}, ` ${note}`)),
      ),
    ),
  );
}

/** A state in words with a mark that is not colour alone. @param {string} state */
export function stateChip(state) {
  const marks = { open: "●", paused: "❙❙", closed: "✓", requested: "○", running: "●", finished: "✓", failed: "!" };
  const mark = /** @type {Record<string, string>} */ (marks)[state] ?? "·";
  return make("span", { class: `chip state-${state}` }, make("span", { "aria-hidden": "true" }, `${mark} `), state);
}

/** One large figure with its name. @param {string} name @param {string} value @param {string} [note] */
export function tile(name, value, note = "") {
  return make("div", { class: "tile" }, make("dt", {}, name), make("dd", {}, value, note && make("small", {}, note)));
}
