/** The figures of a checkpoint's evaluation: told, compared with the one before, and chosen for a table. */

import { make } from "./elements.js";
import { KNOWN } from "./measures.js";
import { figure, plain } from "./words.js";

/** Those that every training measures, first in the table above; the others come of the command that evaluates. */
const MAIN = [...KNOWN.keys()].slice(0, [...KNOWN.keys()].indexOf("noise_mse") + 1);

/** @param {string} name */
export function labelOf(name) {
  const known = KNOWN.get(name);
  if (!known) return make("span", {}, plain(name));
  const arrow = known.better === "higher" ? "higher is better" : "lower is better";
  return make(
    "span",
    { title: `${known.means}; ${arrow}` },
    known.label,
    make("small", {}, [known.unit, arrow].filter(Boolean).join(", ")),
  );
}

/**
 * A figure's value and what became of it since the parent, in words and with its sign.
 * @param {string} name @param {number | undefined} value @param {number | undefined} before
 */
export function compared(name, value, before) {
  if (value === undefined) return make("span", { class: "quiet" }, "–");
  if (before === undefined) return make("span", {}, figure(value));
  const difference = value - before;
  const better = KNOWN.get(name)?.better;
  const gain = better === "lower" ? -difference : difference;
  const same = Math.abs(difference) <= 1e-9 * Math.max(Math.abs(value), 1);
  const word = same ? "same" : better === undefined ? "changed" : gain > 0 ? "better" : "worse";
  const sign = difference > 0 ? "+" : "−";
  return make(
    "span",
    { class: word },
    figure(value),
    make("small", {}, same ? "same" : `${sign}${figure(Math.abs(difference), 2)} ${word}`),
  );
}

/**
 * The names of the main figures there are, then of those that nobody here knows.
 * @param {{evaluation: Record<string, number>}[]} evaluated
 */
export function figureNames(evaluated) {
  const present = new Set(evaluated.flatMap(({ evaluation }) => Object.keys(evaluation)));
  return [...MAIN.filter((name) => present.has(name)), ...[...present].filter((name) => !KNOWN.has(name)).sort()];
}

/**
 * The other figures, folded; nothing where there are none.
 * @param {Record<string, number>} evaluation @param {Record<string, number> | undefined} before the parent's
 */
export function moreFigures(evaluation, before) {
  const names = [...KNOWN.keys()].filter((name) => name in evaluation && !MAIN.includes(name));
  if (!names.length) return null;
  const rows = names.map((name) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, labelOf(name)),
      make("td", { class: "number" }, compared(name, evaluation[name], before?.[name])),
    ),
  );
  return make(
    "details",
    { class: "more-figures" },
    make("summary", {}, `${names.length} more figures`),
    make("table", { class: "compact" }, make("tbody", {}, rows)),
  );
}
