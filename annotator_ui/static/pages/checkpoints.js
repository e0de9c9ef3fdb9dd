/** The checkpoints page: metrics compared with the parent, samples and lineage; training runs. */

import { checkpointLineage } from "../charts/checkpoint_lineage.js";
import { comparisonRow } from "../charts/comparisons.js";
import { presetLabel, trainingRunRow } from "../charts/training_runs.js";
import { button, byId, el, replace } from "../lib/dom.js";
import { formatAgo, formatDate, humanize, pluralize, shortId } from "../lib/format.js";
import { read, request } from "../lib/http.js";
import { readListPage } from "../lib/list_pages.js";
import { mainMetricNames, metricLabel, metricValue, moreMetrics } from "../lib/metrics_table.js";
import { poll } from "../lib/polling.js";
import { hasRole, showError, showNotice, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const PERIOD_MS = 5_000;
const PAGE_SIZE = 20;
/** Number of ancestors shown in the lineage. */
const MAX_ANCESTORS = 5;

/** @typedef {Map<string, Checkpoint>} CheckpointsById */

installShortcutHelp(new Shortcuts(document));
const me = /** @type {CurrentReviewer | null} */ (await read("/api/me").catch(() => null));
if (me) showSignedIn(me);
let renderedState = "";
const refresh = poll(PERIOD_MS, async () => {
  const [checkpoints, runs, comparisons] = /**
   * @type {[Checkpoint[], TrainingRun[], Comparison[]]}
   */ (
    await Promise.all([
      readListPage(byId("pages"), `/api/checkpoints?limit=${PAGE_SIZE}`),
      readListPage(byId("runs-pages"), `/api/runs?limit=${PAGE_SIZE}`, { parameter: "runs" }),
      readListPage(byId("comparisons-pages"), `/api/comparisons?limit=${PAGE_SIZE}`, {
        parameter: "comparisons",
      }),
    ])
  );
  renderRuns(runs);
  renderComparisons(comparisons);
  const state = JSON.stringify(
    checkpoints.map((checkpoint) => [
      checkpoint.id,
      checkpoint.active,
      checkpoint.tainted,
      checkpoint.rounds,
      checkpoint.evaluation,
    ]),
  );
  if (state === renderedState) return; // avoid reloading the sample grids
  renderedState = state;
  renderCheckpoints(checkpoints, await readOthers(checkpoints));
});

/**
 * Read the checkpoints that this page refers to but does not list: parents, to compare with, and
 * the one that the address names.
 * @param {Checkpoint[]} listed
 * @returns {Promise<Checkpoint[]>}
 */
async function readOthers(listed) {
  const known = new Set(listed.map(({ id }) => id));
  const wanted = new Set([location.hash.slice(1), ...listed.map(({ parent }) => parent)]);
  const missing = [...wanted].filter((id) => id && !known.has(id));
  // A parent of another installation does not exist here.
  const found = await Promise.all(
    missing.map((id) => read(`/api/checkpoints/${encodeURIComponent(id ?? "")}`).catch(() => null)),
  );
  return found.filter((checkpoint) => checkpoint !== null);
}

/** @param {TrainingRun[]} runs */
function renderRuns(runs) {
  byId("runs-empty").hidden = runs.length > 0;
  byId("runs-table").hidden = runs.length === 0;
  replace(byId("runs"), runs.map(trainingRunRow));
}

/** @param {Comparison[]} comparisons */
function renderComparisons(comparisons) {
  byId("comparisons-empty").hidden = comparisons.length > 0;
  byId("comparisons-table").hidden = comparisons.length === 0;
  replace(byId("comparisons"), comparisons.map(comparisonRow));
}

/**
 * @param {Checkpoint[]} page newest first
 * @param {Checkpoint[]} others
 */
function renderCheckpoints(page, others) {
  /** @type {CheckpointsById} */
  const all = new Map([...page, ...others].map((checkpoint) => [checkpoint.id, checkpoint]));
  const named = others.filter(({ id }) => id === location.hash.slice(1));
  const newest = [...named, ...page];
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
    newest.map((checkpoint) => metricsRow(checkpoint, all, metricNames)),
  );

  // One card per checkpoint.
  replace(
    byId("cards"),
    newest.map((checkpoint) => checkpointCard(checkpoint, all)),
  );
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

/**
 * @param {Checkpoint} checkpoint
 * @param {CheckpointsById} all
 * @param {string[]} metricNames
 */
function metricsRow(checkpoint, all, metricNames) {
  const { id, evaluation, active } = checkpoint;
  const parentEvaluation = parentOf(checkpoint, all)?.evaluation;
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      el("a", { href: `#${id}` }, el("code", {}, shortId(id))),
      active ? [" ", activeChip()] : el("small", {}, formatAgo(checkpoint.created_at)),
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

function taintedChip() {
  const title = "It was trained on samples that were taken down since.";
  return el("span", { class: "chip state-closed", title }, "samples taken down");
}

/**
 * @param {Checkpoint} checkpoint
 * @param {CheckpointsById} all
 */
function checkpointCard(checkpoint, all) {
  const { id, evaluation, active, tainted } = checkpoint;
  const promote =
    me && hasRole(me, "trainer") && !active && !tainted
      ? button("Use for the next round", () => promoteCheckpoint(checkpoint), { class: "primary" })
      : null;
  return el(
    "article",
    { class: "card checkpoint", id },
    el(
      "header",
      {},
      el("h2", {}, el("code", {}, shortId(id))),
      active && activeChip(),
      tainted && taintedChip(),
      promote,
    ),
    sampleGrid(checkpoint),
    el("dl", { class: "properties" }, properties(checkpoint, all)),
    moreMetrics(evaluation, parentOf(checkpoint, all)?.evaluation),
    checkpointLineage(id),
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
