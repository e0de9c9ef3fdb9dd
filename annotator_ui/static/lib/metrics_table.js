/** Evaluation metrics of checkpoints: labels, values, and the comparison with the parent. */

import { el } from "./dom.js";
import { formatNumber, humanize } from "./format.js";
import { METRICS } from "./metric_definitions.js";

/** Metrics of every training run, listed first; the others come from `layerloop evaluate`. */
const MAIN_METRICS = [...METRICS.keys()].slice(0, [...METRICS.keys()].indexOf("noise_mse") + 1);

/** Return a metric's label with its unit and direction. @param {string} name */
export function metricLabel(name) {
  const metric = METRICS.get(name);
  if (!metric) return el("span", {}, humanize(name));
  const direction = metric.better === "higher" ? "higher is better" : "lower is better";
  return el(
    "span",
    { title: `${metric.description}; ${direction}` },
    metric.label,
    el("small", {}, [metric.unit, direction].filter(Boolean).join(", ")),
  );
}

/**
 * Return a metric's value and its change since the parent checkpoint, with a sign and in words.
 * @param {string} name
 * @param {number | undefined} value
 * @param {number | undefined} parentValue
 */
export function metricValue(name, value, parentValue) {
  if (value === undefined) return el("span", { class: "muted" }, "–");
  if (parentValue === undefined) return el("span", {}, formatNumber(value));
  const difference = value - parentValue;
  const better = METRICS.get(name)?.better;
  const gain = better === "lower" ? -difference : difference;
  const same = Math.abs(difference) <= 1e-9 * Math.max(Math.abs(value), 1);
  const word = same ? "same" : better === undefined ? "changed" : gain > 0 ? "better" : "worse";
  const sign = difference > 0 ? "+" : "−";
  return el(
    "span",
    { class: word },
    formatNumber(value),
    el("small", {}, same ? "same" : `${sign}${formatNumber(Math.abs(difference), 2)} ${word}`),
  );
}

/**
 * Return the names of the main metrics that occur, then of the unknown ones.
 * @param {{evaluation: Record<string, number>}[]} evaluated
 */
export function mainMetricNames(evaluated) {
  const present = new Set(evaluated.flatMap(({ evaluation }) => Object.keys(evaluation)));
  const unknown = [...present].filter((name) => !METRICS.has(name));
  return [...MAIN_METRICS.filter((name) => present.has(name)), ...unknown.sort()];
}

/**
 * Return the remaining metrics in a collapsed table, or null if there are none.
 * @param {Record<string, number>} evaluation
 * @param {Record<string, number> | undefined} parentEvaluation
 */
export function moreMetrics(evaluation, parentEvaluation) {
  const names = [...METRICS.keys()].filter(
    (name) => name in evaluation && !MAIN_METRICS.includes(name),
  );
  if (!names.length) return null;
  const rows = names.map((name) => metricRow(name, evaluation[name], parentEvaluation?.[name]));
  return el(
    "details",
    { class: "more-metrics" },
    el("summary", {}, `${names.length} more metrics`),
    el("table", { class: "compact" }, el("tbody", {}, rows)),
  );
}

/**
 * Return a table row with a metric's label and value.
 * @param {string} name
 * @param {number | undefined} value
 * @param {number | undefined} [parentValue]
 */
export function metricRow(name, value, parentValue) {
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, metricLabel(name)),
    el("td", { class: "number" }, metricValue(name, value, parentValue)),
  );
}
