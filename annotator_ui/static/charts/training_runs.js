/** Table rows of training runs: configuration, progress and resulting checkpoint. */

import { el } from "../lib/dom.js";
import {
  formatAgo,
  formatCount,
  formatDuration,
  formatNumber,
  humanize,
  shortId,
} from "../lib/format.js";
import { stateChip } from "./bars.js";

/** @param {TrainingRun} run */
export function trainingRunRow(run) {
  const snapshot = el("code", {}, shortId(run.snapshot));
  const checkpoint = run.checkpoint
    ? el("a", { href: `#${run.checkpoint}` }, el("code", {}, shortId(run.checkpoint)))
    : el("span", { class: "muted" }, "–");
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      el("a", { href: `/runs/${run.id}` }, humanize(run.recipe)),
      el("small", {}, `preset ${presetLabel(run)}`),
    ),
    el("td", {}, stateChip(run.state)),
    el("td", {}, progress(run)),
    el("td", {}, el("a", { href: `/snapshots/${run.snapshot}` }, snapshot)),
    el("td", {}, checkpoint),
    el("td", {}, timing(run)),
  );
}

/**
 * Return the preset's name with its overridden values.
 * @param {TrainingRun | Checkpoint} run
 */
export function presetLabel({ preset, changes }) {
  const overrides = Object.entries(changes).map(([name, value]) => `${name} ${value}`);
  return overrides.length ? `${preset} with ${overrides.join(", ")}` : preset;
}

/** @param {TrainingRun} run */
function progress(run) {
  const muted = (/** @type {string} */ text) => el("span", { class: "muted" }, text);
  if (run.state === "failed") return el("span", { class: "worse" }, run.error ?? "unknown error");
  if (run.state === "cancelled") return muted(run.error ?? "cancelled");
  if (run.state === "paused") return muted(run.error ?? "paused");
  if (run.state === "requested") return muted(run.error ?? "waiting for a worker");
  if (run.state === "finished") return muted("done");
  return runProgress(run);
}

/** Return the progress of a running run as a bar with a line of text. @param {TrainingRun} run */
export function runProgress(run) {
  if (!run.progress?.total) return el("span", { class: "muted" }, "starting");
  const { stage, done, total, metrics } = run.progress;
  const values = Object.entries(metrics)
    .slice(0, 2)
    .map(([name, value]) => `${humanize(name)} ${formatNumber(value, 3)}`);
  const steps = `${humanize(stage)}: ${formatCount(done)} of ${formatCount(total)}`;
  const label = `Run ${shortId(run.id)}`;
  return [
    el("progress", { max: 1, value: (done / total).toFixed(4), "aria-label": label }),
    el("small", {}, [steps, ...values].join(", ")),
  ];
}

/** @param {TrainingRun} run */
function timing({ created_at: created, started_at: started, finished_at: finished }) {
  const start = started ?? created;
  const seconds = finished && started ? (Date.parse(finished) - Date.parse(started)) / 1000 : null;
  return [
    el("span", { title: start }, formatAgo(start)),
    seconds !== null && el("small", {}, `took ${formatDuration(seconds)}`),
  ];
}
