/** The empty state of the review page: rounds and training runs that are in progress. */

import { byId, el, replace } from "../lib/dom.js";
import { formatCount, humanize, pluralize, shortId } from "../lib/format.js";
import { request } from "../lib/http.js";

/**
 * Update the empty state. Data that this reviewer may not read is left out.
 * @param {number | null} roundFilter the round shown on this page; null for every round
 * @param {boolean} idle whether the reviewer is away, so that no candidates are claimed
 */
export async function updateEmptyState(roundFilter, idle) {
  const [rounds, runs] = await Promise.all([
    /** @type {Promise<RoundSummary[]>} */ (
      request("GET", "/api/rounds?state=open&state=paused").catch(() => [])
    ),
    /** @type {Promise<TrainingRun[]>} */ (request("GET", "/api/runs?limit=20").catch(() => [])),
  ]);
  const shown = rounds.filter((round) => roundFilter === null || round.id === roundFilter);
  const waiting = shown.reduce((sum, round) => sum + (round.own?.waiting ?? 0), 0);
  const scope = roundFilter === null ? "" : ` in round ${roundFilter}`;
  byId("empty-title").textContent = waiting
    ? `${pluralize(waiting, "candidate")} to review${scope}`
    : `You are all caught up${scope}`;
  byId("empty-text").textContent = emptyText(
    waiting,
    idle,
    rounds.some((round) => round.state === "open"),
  );
  replace(byId("activity"), [
    ...rounds.flatMap((round) => roundItems(round, shown.includes(round))),
    ...runs.flatMap(runItems),
  ]);
  byId("empty-note").hidden = !runs.some((run) => run.preset === "tiny");
}

/**
 * @param {number} waiting
 * @param {boolean} idle
 * @param {boolean} anyOpen whether any round is open
 */
function emptyText(waiting, idle, anyOpen) {
  if (idle) return "This page is paused after a period of inactivity. Press any key to continue.";
  if (waiting) return "They will appear here in a moment.";
  return anyOpen
    ? "New candidates appear here as soon as they are ready."
    : "No round is open. Candidates appear here when an engineer opens a round.";
}

/** Show that the server refuses to hand out candidates; the error message says why. */
export function showReviewingPaused() {
  byId("empty-title").textContent = "You can't review at the moment";
  byId("empty-text").textContent =
    "See the message at the top of the page. Candidates appear here once the problem is resolved.";
  replace(byId("activity"));
}

/**
 * Return the activity of a round.
 * @param {RoundSummary} round
 * @param {boolean} shown whether this page shows candidates of the round
 */
function roundItems(round, shown) {
  if (round.state === "paused") {
    const detail = "no new candidates; those on display can still be decided";
    return [activityItem(`Round ${round.id} is paused`, detail, null)];
  }
  if (round.state !== "open") return [];
  const { counts, quota } = round;
  const waiting = round.own?.waiting ?? 0;
  const links = waiting && !shown ? [roundLink(round.id, waiting)] : [];

  const toGenerate = (counts["requested"] ?? 0) + (counts["generating"] ?? 0);
  const toScreen = counts["generated"] ?? 0;
  if (toGenerate) {
    const done = quota - toGenerate;
    const detail = `${formatCount(done)} of ${formatCount(quota)} candidates`;
    return [...links, activityItem(`Generating round ${round.id}`, detail, done / quota)];
  }
  if (toScreen) {
    const detail = `${pluralize(toScreen, "candidate")} to go`;
    return [...links, activityItem(`Screening round ${round.id}`, detail, null)];
  }
  if (links.length || !shown || waiting) return links;
  const decided = round.own?.mine ?? 0;
  if (!decided) return [];
  return [
    activityItem(`Round ${round.id} is open`, `${formatCount(decided)} decided by you`, null),
  ];
}

/**
 * @param {number} id
 * @param {number} waiting
 */
function roundLink(id, waiting) {
  const link = el("a", { href: `/review?round=${id}` }, `Round ${id}`);
  const detail = el("span", { class: "muted" }, `${formatCount(waiting)} to review`);
  return el("li", {}, el("span", {}, link), detail);
}

/** @param {TrainingRun} run */
function runItems(run) {
  if (run.state === "requested") {
    const name = `Training ${humanize(run.recipe)}, preset ${run.preset}`;
    return [activityItem(name, "waiting for a worker", null)];
  }
  if (run.state !== "running") return [];
  const { stage, done, total } = run.progress ?? { stage: "starting", done: 0, total: 0 };
  const progress = total ? `: ${formatCount(done)} of ${formatCount(total)}` : "";
  const name = `Training on snapshot ${shortId(run.snapshot)}, preset ${run.preset}`;
  return [activityItem(name, humanize(stage) + progress, total ? done / total : null)];
}

/**
 * @param {string} name
 * @param {string} detail
 * @param {number | null} fraction null for no progress bar
 */
function activityItem(name, detail, fraction) {
  const bar =
    fraction === null
      ? null
      : el("progress", { max: 1, value: fraction.toFixed(4), "aria-label": name });
  return el("li", {}, el("span", {}, name), el("span", { class: "muted" }, detail), bar);
}
