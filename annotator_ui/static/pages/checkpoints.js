/** The checkpoints page: metrics compared with the parent, samples and lineage; training runs. */

import { presetLabel, trainingRunRow } from "../charts/training_runs.js";
import { button, byId, el, replace } from "../lib/dom.js";
import { formatAgo, formatDate, humanize, pluralize, shortId } from "../lib/format.js";
import { read, request } from "../lib/http.js";
import { mainMetricNames, metricLabel, metricValue, moreMetrics } from "../lib/metrics_table.js";
import { poll } from "../lib/polling.js";
import { hasRole, showError, showNotice, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const PERIOD_MS = 5_000;
const MAX_RUNS = 20;
/** Number of ancestors shown in the lineage. */
const MAX_ANCESTORS = 5;

/** @typedef {Map<string, Checkpoint>} CheckpointsById */

installShortcutHelp(new Shortcuts(document));
const me = /** @type {CurrentReviewer | null} */ (await read("/api/me").catch(() => null));
if (me) showSignedIn(me);
let renderedState = "";
const refresh = poll(PERIOD_MS, async () => {
  const [checkpoints, runs] = /** @type {[Checkpoint[], TrainingRun[]]} */ (
    await Promise.all([read("/api/checkpoints"), read("/api/runs")])
  );
  renderRuns(runs);
  const state = JSON.stringify(
    checkpoints.map((checkpoint) => [
      checkpoint.id,
      checkpoint.promoted_at,
      checkpoint.rounds,
      checkpoint.evaluation,
    ]),
  );
  if (state === renderedState) return; // avoid reloading the sample grids
  renderedState = state;
  renderCheckpoints(checkpoints);
});

/** @param {TrainingRun[]} runs */
function renderRuns(runs) {
  byId("runs-empty").hidden = runs.length > 0;
  byId("runs-table").hidden = runs.length === 0;
  const newest = runs.toSorted((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at));
  replace(byId("runs"), newest.slice(0, MAX_RUNS).map(trainingRunRow));
}

/** @param {Checkpoint[]} checkpoints */
function renderCheckpoints(checkpoints) {
  const newest = checkpoints.toSorted(
    (a, b) => Date.parse(b.created_at) - Date.parse(a.created_at),
  );
  /** @type {CheckpointsById} */
  const all = new Map(newest.map((checkpoint) => [checkpoint.id, checkpoint]));
  const active = newest
    .filter((checkpoint) => checkpoint.promoted_at)
    .sort((a, b) => Date.parse(b.promoted_at ?? "") - Date.parse(a.promoted_at ?? ""))[0];
  byId("empty").hidden = newest.length > 0;
  byId("table").hidden = newest.length === 0;
  byId("tiny-note").hidden = !newest.some((checkpoint) => checkpoint.preset === "tiny");

  // Comparison table.
  const metricNames = mainMetricNames(newest);
  replace(
    byId("metric-names"),
    el("th", { scope: "col" }, "Checkpoint"),
    metricNames.map((name) => el("th", { scope: "col", class: "number" }, metricLabel(name))),
  );
  replace(
    byId("metrics"),
    newest.map((checkpoint) => metricsRow(checkpoint, all, metricNames, checkpoint === active)),
  );

  // One card per checkpoint.
  replace(
    byId("cards"),
    newest.map((checkpoint) => checkpointCard(checkpoint, all, checkpoint === active)),
  );
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

/**
 * @param {Checkpoint} checkpoint
 * @param {CheckpointsById} all
 * @param {string[]} metricNames
 * @param {boolean} isActive
 */
function metricsRow(checkpoint, all, metricNames, isActive) {
  const { id, evaluation } = checkpoint;
  const parentEvaluation = parentOf(checkpoint, all)?.evaluation;
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      el("a", { href: `#${id}` }, el("code", {}, shortId(id))),
      isActive ? [" ", activeChip()] : el("small", {}, formatAgo(checkpoint.created_at)),
    ),
    metricNames.map((name) =>
      el("td", { class: "number" }, metricValue(name, evaluation[name], parentEvaluation?.[name])),
    ),
  );
}

/**
 * @param {Checkpoint} checkpoint
 * @param {CheckpointsById} all
 */
function parentOf({ parent }, all) {
  return parent ? all.get(parent) : undefined;
}

function activeChip() {
  return el("span", { class: "chip state-open" }, "active");
}

/**
 * @param {Checkpoint} checkpoint
 * @param {CheckpointsById} all
 * @param {boolean} isActive
 */
function checkpointCard(checkpoint, all, isActive) {
  const { id, evaluation } = checkpoint;
  const promote =
    me && hasRole(me, "trainer") && !isActive
      ? button("Use for the next round", () => promoteCheckpoint(checkpoint), { class: "primary" })
      : null;
  return el(
    "article",
    { class: "card checkpoint", id },
    el("header", {}, el("h2", {}, el("code", {}, shortId(id))), isActive && activeChip(), promote),
    sampleGrid(checkpoint),
    el("dl", { class: "properties" }, properties(checkpoint, all)),
    moreMetrics(evaluation, parentOf(checkpoint, all)?.evaluation),
  );
}

/** @param {Checkpoint} checkpoint */
function sampleGrid({ id, sample_grid_url: url }) {
  if (!url) return el("p", { class: "muted sample-grid" }, "This checkpoint has no sample grid.");
  const alt = `Sample grid of checkpoint ${shortId(id)}`;
  const image = el("img", { src: url, alt, loading: "lazy" });
  return el("a", { href: url, target: "_blank", class: "sample-grid" }, image);
}

/**
 * @param {Checkpoint} checkpoint
 * @param {CheckpointsById} all
 */
function properties(checkpoint, all) {
  const { snapshot, rounds } = checkpoint;
  const roundLinks = rounds.flatMap((id, index) => [
    index > 0 && ", ",
    el("a", { href: `/rounds/${id}` }, `round ${id}`),
  ]);
  const values = {
    Recipe: `${humanize(checkpoint.recipe)}, preset ${presetLabel(checkpoint)}`,
    Snapshot: snapshot
      ? el("a", { href: `/snapshots/${snapshot}` }, el("code", {}, shortId(snapshot)))
      : "none (imported weights)",
    Lineage: lineage(checkpoint, all),
    Rounds: rounds.length ? roundLinks : "none yet",
    Seed: `${checkpoint.seed}, code ${checkpoint.code_version}`,
    Created: formatDate(checkpoint.created_at),
  };
  return Object.entries(values).flatMap(([name, value]) => [
    el("dt", {}, name),
    el("dd", {}, value),
  ]);
}

/**
 * Return links to the ancestors of a checkpoint, from its parent upward.
 * @param {Checkpoint} checkpoint
 * @param {CheckpointsById} all
 */
function lineage(checkpoint, all) {
  /** @type {(Node | string)[]} */
  const links = [];
  let ancestor = checkpoint.parent;
  for (let depth = 0; ancestor && depth < MAX_ANCESTORS; depth += 1) {
    links.push(
      depth ? " ← " : "",
      el("a", { href: `#${ancestor}` }, el("code", {}, shortId(ancestor))),
    );
    ancestor = all.get(ancestor)?.parent ?? null;
  }
  if (!links.length) return [checkpoint.snapshot ? "trained from scratch" : "imported from files"];
  return ancestor ? [...links, " ← …"] : links;
}

/** Use a checkpoint for the next rounds. @param {Checkpoint} checkpoint */
async function promoteCheckpoint({ id, rounds }) {
  try {
    await request("POST", `/api/checkpoints/${id}/promote`);
    await refresh();
    const usage = `It generated ${pluralize(rounds.length, "round")} so far.`;
    showNotice(`Checkpoint ${shortId(id)} is now active.`, usage);
  } catch (error) {
    showError(error);
  }
}
