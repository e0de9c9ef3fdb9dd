/** Training runs as rows: what was asked for, how far it is, what came of it. */

import { stateChip } from "./bars.js";
import { make } from "./elements.js";
import { ago, count, duration, figure, plain, short } from "./words.js";

/** @param {RunRow} run */
export function runRow(run) {
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, plain(run.recipe), make("small", {}, `preset ${presetOf(run)}`)),
    make("td", {}, stateChip(run.state)),
    make("td", {}, far(run)),
    make("td", {}, make("a", { href: `/snapshots/${run.snapshot}` }, make("code", {}, short(run.snapshot)))),
    make(
      "td",
      {},
      run.checkpoint
        ? make("a", { href: `#${run.checkpoint}` }, make("code", {}, short(run.checkpoint)))
        : make("span", { class: "quiet" }, "–"),
    ),
    make("td", {}, took(run)),
  );
}

/** The preset's name, with the numbers that were set otherwise. @param {RunRow | CheckpointRow} made */
export function presetOf({ preset, changes }) {
  const set = Object.entries(changes).map(([name, value]) => `${name} ${value}`);
  return set.length ? `${preset} with ${set.join(", ")}` : preset;
}

/** @param {RunRow} run */
function far(run) {
  if (run.state === "failed") return make("span", { class: "worse" }, run.error ?? "failed without a word");
  if (run.state === "cancelled") return make("span", { class: "quiet" }, run.error ?? "cancelled");
  if (run.state === "requested") return make("span", { class: "quiet" }, "waits for a worker");
  if (run.state === "finished") return make("span", { class: "quiet" }, "done");
  if (!run.progress?.total) return make("span", { class: "quiet" }, "starting");
  const { stage, done, total, metrics } = run.progress;
  const told = Object.entries(metrics)
    .slice(0, 2)
    .map(([name, value]) => `${plain(name)} ${figure(value, 3)}`);
  return [
    make("progress", { max: 1, value: (done / total).toFixed(4), "aria-label": `Run ${short(run.id)}` }),
    make("small", {}, [`${plain(stage)}: ${count(done)} of ${count(total)}`, ...told].join(", ")),
  ];
}

/** @param {RunRow} run */
function took(run) {
  const start = run.started_at ?? run.created_at;
  const seconds =
    run.finished_at && run.started_at ? (Date.parse(run.finished_at) - Date.parse(run.started_at)) / 1000 : null;
  return [
    make("span", { title: start }, ago(start)),
    seconds !== null && make("small", {}, `took ${duration(seconds)}`),
  ];
}
