/** The rounds page: rounds with their state and progress, newest first. */

import { stateChip } from "../charts/bars.js";
import { loopStep } from "../charts/loops.js";
import { trendCharts } from "../charts/trend.js";
import { byId, el, replace } from "../lib/dom.js";
import { formatAgo, formatCount, formatRatio, kindLabel, shortId } from "../lib/format.js";
import { read } from "../lib/http.js";
import { readListPage } from "../lib/list_pages.js";
import { poll } from "../lib/polling.js";
import { hasRole, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const PERIOD_MS = 4_000;
const TREND_PERIOD_MS = 30_000;
const PAGE_SIZE = 50;
/** Candidate states, by their part in the progress of a round. */
const DECIDED = ["accepted", "rejected"];
const WAITING = ["waiting", "showing"];
const NEVER_REVIEWED = ["refused", "unshown", "failed", "withdrawn", "removed"];

installShortcutHelp(new Shortcuts(document));
const me = /** @type {CurrentReviewer | null} */ (await read("/api/me").catch(() => null));
if (me) showSignedIn(me);
const canOpen = me !== null && hasRole(me, "engineer");
const isAnnotator = me !== null && !canOpen;
if (canOpen) poll(TREND_PERIOD_MS, async () => showTrend(await read("/api/rounds/trend")));
poll(PERIOD_MS, async () => {
  if (canOpen) await showLoops();
  const rounds = /** @type {RoundSummary[]} */ (
    await readListPage(byId("pages"), `/api/rounds?limit=${PAGE_SIZE}`)
  );
  byId("empty").hidden = rounds.length > 0;
  byId("table").hidden = rounds.length === 0;
  byId("decided-head").textContent = isAnnotator ? "Decided by me" : "Decided";
  byId("accepted-head").textContent = isAnnotator ? "Accepted by me" : "Accepted";
  byId("waiting-head").textContent = isAnnotator ? "Waiting for me" : "Waiting";
  replace(byId("rows"), rounds.map(row));
});

/** Show the trend of each kind of rounds, once there are two. @param {RoundTrend} trend */
function showTrend({ rounds, comparisons }) {
  const kinds = [...new Set(rounds.map(({ kind }) => kind))];
  const shown = kinds.flatMap((kind) => {
    const own = rounds.filter((round) => round.kind === kind);
    const ids = own.map(({ round }) => round);
    const compared = comparisons.filter(({ round }) => ids.includes(round));
    const charts = trendCharts(own, compared);
    if (own.length < 2 || charts.length === 0) return [];
    const heading = kinds.length > 1 && el("h3", {}, kindLabel(kind));
    return [heading, el("div", { class: "curves" }, charts)];
  });
  byId("trend").hidden = shown.length === 0;
  replace(byId("trend-charts"), shown);
}

/** Show the loops that have not ended, with their step, or why they do not go on. */
async function showLoops() {
  const loops = /** @type {LoopSummary[]} */ (await read("/api/loops"));
  const active = loops.filter(({ state }) => !["finished", "cancelled"].includes(state));
  byId("loops").hidden = active.length === 0;
  replace(byId("loop-list"), active.map(loopItem));
}

/** @param {LoopSummary} loop */
function loopItem(loop) {
  const stopped = [`turn ${loop.turn} of ${loop.rounds}: `, loop.reason];
  return el(
    "li",
    {},
    el("a", { href: `/loops/${loop.id}` }, `Loop ${loop.id}`),
    " ",
    stateChip(loop.state),
    " ",
    loop.state === "running" ? loopStep(loop) : stopped,
  );
}

/**
 * Return content as a link if the reviewer may open its target.
 * @param {string} href
 * @param {string | HTMLElement} content
 */
function linkIfAllowed(href, content) {
  return canOpen ? el("a", { href }, content) : content;
}

/**
 * Return the progress of a round: for annotators their own, for other roles that of everyone.
 * @param {RoundSummary} round
 */
function progress(round) {
  const count = (/** @type {string[]} */ states) =>
    states.reduce((sum, state) => sum + (round.counts[state] ?? 0), 0);
  const refused = count(["refused"]);
  if (isAnnotator) {
    const { waiting, mine, accepted } = round.own ?? { waiting: 0, mine: 0, accepted: 0 };
    return { decided: mine, total: mine + waiting, accepted, waiting, refused };
  }
  return {
    decided: count(DECIDED),
    total: count(Object.keys(round.counts)) - count(NEVER_REVIEWED),
    accepted: count(["accepted"]),
    waiting: count(WAITING),
    refused,
  };
}

/** @param {RoundSummary} round */
function row(round) {
  const { decided, total, accepted, waiting, refused } = progress(round);
  const isImport = round.purpose === "seeds";
  const checkpoint = round.checkpoint
    ? linkIfAllowed(`/checkpoints#${round.checkpoint}`, el("code", {}, shortId(round.checkpoint)))
    : el("span", { class: "muted" }, isImport ? "imported" : "–");
  const progressBar = el("progress", {
    max: 1,
    value: total ? (decided / total).toFixed(4) : "0",
    "aria-label": `Progress of round ${round.id}`,
  });
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      linkIfAllowed(`/rounds/${round.id}`, `Round ${round.id}`),
      el("small", {}, isImport ? "imported images" : kindLabel(round.kind)),
    ),
    el("td", {}, stateChip(round.state)),
    el(
      "td",
      {},
      progressBar,
      el("small", {}, `${formatCount(decided)} of ${formatCount(total)} decided`),
    ),
    el(
      "td",
      { class: "number" },
      formatCount(accepted),
      decided > 0 && el("small", {}, formatRatio(accepted, decided)),
    ),
    el("td", { class: "number" }, formatCount(waiting)),
    el("td", { class: "number" }, formatCount(refused)),
    el("td", {}, checkpoint),
    el("td", {}, el("span", { title: round.opened_at }, formatAgo(round.opened_at))),
  );
}
