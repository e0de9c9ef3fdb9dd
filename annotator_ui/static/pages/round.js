/** The page of one round: summary, funnel, statistics, and the actions pause, resume and close. */

import { followAgreement } from "../charts/agreement.js";
import { bars, stateChip } from "../charts/bars.js";
import { showDiversity } from "../charts/diversity.js";
import { showGates } from "../charts/gates.js";
import { showReviewCost } from "../charts/review_cost.js";
import { roundTiles } from "../charts/round_tiles.js";
import { comparisonRows } from "../charts/trend.js";
import { showSteering } from "../charts/steering.js";
import { button, byId, el, replace } from "../lib/dom.js";
import {
  formatAgo,
  formatCount,
  formatDate,
  formatDuration,
  formatNumber,
  formatPercent,
  formatRatio,
  humanize,
  kindLabel,
  shortId,
} from "../lib/format.js";
import { read, request } from "../lib/http.js";
import { mainMetricNames, metricRow } from "../lib/metrics_table.js";
import { poll } from "../lib/polling.js";
import { hasRole, showError, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const PERIOD_MS = 3_000;
/** Keys of the funnel in the report: its steps in order, and the candidates outside of it. */
const FUNNEL_STEPS = ["requested", "generated", "shown", "decided", "accepted"];
const OUTSIDE_FUNNEL = ["refused", "unshown", "waiting", "rejected", "failed"];
/**
 * Labels that differ from the key in the report.
 * @type {Record<string, string>}
 */
const FUNNEL_LABELS = { unshown: "not selected" };
/** @type {Record<string, string>} */
const JOB_LABELS = { drawings: "image generation", screenings: "screening" };
/** @type {Record<string, string>} */
const REVIEWER_KINDS = { rule_reviewer: "rule reviewer", auto_reviewer: "auto-reviewer" };

const roundId = Number(location.pathname.split("/").at(-1));
installShortcutHelp(new Shortcuts(document));
const me = /** @type {CurrentReviewer | null} */ (await read("/api/me").catch(() => null));
if (me) showSignedIn(me);
followAgreement(roundId);
const refresh = poll(PERIOD_MS, async () => render(await read(`/api/rounds/${roundId}`)));

/** @param {RoundReport} report */
function render(report) {
  const { round } = report;
  byId("report").hidden = false;

  // Header.
  document.title = `Round ${round.id} · Layerloop`;
  replace(byId("title"), `Round ${round.id} `, stateChip(round.state));
  replace(byId("summary"), summary(round));
  renderStalled(report.waiting_work);
  renderPauses(report.pauses);
  renderActions(round);
  replace(byId("tiles"), ...roundTiles(report));

  // Candidates.
  renderFunnel(report.funnel);
  renderFailures(round.id, report.failures);
  replace(
    byId("refusals"),
    report.refusals.length
      ? bars(report.refusals.map(({ signal, count }) => ({ name: signal, value: count })))
      : muted("Screening refused no candidates."),
  );
  renderReasons(report.reasons);
  byId("signals-card").hidden = report.signals.length === 0;
  replace(byId("signals"), report.signals.map(signalRow));

  showDiversity(report.diversity, report.diversity_guard);
  byId("comparisons-card").hidden = report.comparisons.length === 0;
  replace(byId("comparisons"), comparisonRows(report.comparisons));

  // Reviewers, cost and automatic decisions.
  replace(byId("reviewers"), report.human.reviewers.map(reviewerRow));
  byId("reviewers-empty").hidden = report.human.reviewers.length > 0;
  showReviewCost(report.review_cost);
  showGates(report.gates, round.id);
  showSteering(report.steering);

  // Evaluation of the round's checkpoint.
  const names = mainMetricNames([report]);
  byId("evaluation-card").hidden = names.length === 0;
  replace(
    byId("evaluation"),
    names.map((name) => metricRow(name, report.evaluation[name])),
  );
}

/** @param {RoundReport["funnel"]} funnel */
function renderFunnel(funnel) {
  const count = (/** @type {string} */ name) => funnel[name] ?? 0;
  const total = Math.max(...FUNNEL_STEPS.map(count), 1);
  const steps = FUNNEL_STEPS.map((name) => ({
    name,
    value: count(name),
    tone: name,
    note: formatRatio(count(name), total),
  }));
  const outside = OUTSIDE_FUNNEL.map((name) => ({
    name: FUNNEL_LABELS[name] ?? name,
    value: count(name),
    tone: name,
  }));
  replace(byId("funnel"), bars(steps, total));
  replace(byId("outside-funnel"), bars(outside, total));
}

/**
 * Warn about jobs that wait although no worker is running.
 * @param {RoundReport["waiting_work"]} jobs
 */
function renderStalled(jobs) {
  const kinds = Object.entries(jobs).map(
    ([kind, waiting]) => `${JOB_LABELS[kind] ?? humanize(kind)} (${formatCount(waiting)})`,
  );
  byId("stalled").hidden = kinds.length === 0;
  replace(
    byId("stalled"),
    `No worker has claimed these jobs for over a minute: ${kinds.join(", ")}. Start workers with `,
    el("code", {}, "layerloop worker --queue gpu"),
    " and ",
    el("code", {}, "layerloop worker --queue cpu"),
    ".",
  );
}

/** Show what workers wait for. @param {string[]} pauses */
function renderPauses(pauses) {
  byId("pauses").hidden = pauses.length === 0;
  replace(byId("pauses"), `Workers wait and try again: ${pauses.join("; ")}.`);
}

/**
 * Show why candidates failed, and the command that tries them again.
 * @param {number} id
 * @param {RoundReport["failures"]} failures
 */
function renderFailures(id, failures) {
  const reasons = Object.entries(failures);
  byId("failures-card").hidden = reasons.length === 0;
  const rows = reasons.map(([name, value]) => ({ name, value, tone: "failed" }));
  replace(byId("failures"), bars(rows));
  replace(byId("retry"), el("code", {}, `layerloop round retry ${id}`), " tries them again.");
}

/**
 * Show the reject reasons of people and of the rule reviewer separately.
 * @param {RoundReport["reasons"]} reasons
 */
function renderReasons(reasons) {
  const rowsOf = (/** @type {string} */ kind) =>
    reasons
      .filter((row) => row.kind === kind)
      .map(({ layer, reason, count }) => ({
        name: layer ? `${layer}: ${reason}` : reason,
        value: count,
      }));
  const [people, ruleReviewer] = [rowsOf("person"), rowsOf("rule_reviewer")];
  replace(
    byId("reasons"),
    people.length ? bars(people) : muted("No reasons yet."),
    ruleReviewer.length > 0 && [el("h3", {}, "Rule reviewer"), bars(ruleReviewer)],
  );
}

/** Return the summary line of a round. @param {RoundSummary} round */
function summary(round) {
  const { checkpoint, opened_at: opened, closed_at: closed } = round;
  const source = checkpoint
    ? [
        `${kindLabel(round.kind)} generated by checkpoint `,
        el("a", { href: `/checkpoints#${checkpoint}` }, el("code", {}, shortId(checkpoint))),
      ]
    : ["review of imported images"];
  const quota = `, quota ${formatCount(round.quota)}`;
  const openedText = `, opened ${formatAgo(opened)} (${formatDate(opened)})`;
  const closedText = closed ? `, closed ${formatAgo(closed)}` : "";

  // Review policy: the share of candidates for human review, and further non-zero settings.
  const { kind = "", share, ...settings } = round.policy ?? {};
  const shareText =
    typeof share === "number"
      ? `; ${formatPercent(share, 3)} of screened candidates go to human review (${kind})`
      : "";
  const settingTexts = Object.entries(settings)
    .filter(([, value]) => value !== 0)
    .map(([name, value]) => `; ${humanize(name)} ${String(value)}`);
  return [...source, quota, openedText, closedText, shareText, ...settingTexts, "."];
}

/** @param {RoundReport["human"]["reviewers"][number]} reviewer */
function reviewerRow({ name, kind, decisions, accepted, median_dwell_ms: median }) {
  const kindNote = kind !== "person" && el("small", {}, REVIEWER_KINDS[kind] ?? kind);
  const dwell = median === null ? "–" : formatDuration(median / 1000);
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, name, kindNote),
    el("td", { class: "number" }, formatCount(decisions)),
    el("td", { class: "number" }, formatCount(accepted)),
    el("td", { class: "number" }, dwell),
  );
}

/** @param {RoundReport["signals"][number]} signal */
function signalRow({ name, low, median, high }) {
  const cells = [low, median, high].map((value) =>
    el("td", { class: "number" }, formatNumber(value, 3)),
  );
  return el("tr", {}, el("th", { scope: "row" }, humanize(name)), cells);
}

/** @param {string} text */
function muted(text) {
  return el("p", { class: "muted" }, text);
}

/**
 * Show the actions of the current state. The buttons are replaced only when the state changes, so
 * that a refresh never removes a button that is about to be clicked.
 * @param {RoundSummary} round
 */
function renderActions(round) {
  const actions = byId("actions");
  if (!me || actions.dataset["state"] === round.state) return;
  actions.dataset["state"] = round.state;
  if (!hasRole(me, "engineer")) return;
  const dialog = byId("close-dialog", HTMLDialogElement);
  byId("close-cancel").onclick = () => dialog.close();
  byId("close-confirm").onclick = () => {
    dialog.close();
    act("close");
  };
  const reviewUrl = `/review?round=${round.id}`;
  replace(
    actions,
    round.state === "open" && el("a", { href: reviewUrl, class: "button" }, "Review"),
    round.state === "open" && button("Pause", () => act("pause")),
    round.state === "paused" && button("Resume", () => act("resume"), { class: "primary" }),
    round.state !== "closed" && button("Close…", () => dialog.showModal()),
  );
}

/** @param {"pause" | "resume" | "close"} action */
async function act(action) {
  await request("POST", `/api/rounds/${roundId}/${action}`).catch(showError);
  await refresh();
}
