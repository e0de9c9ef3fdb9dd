/** Statistics of one reviewer: volume, speed, agreement, detected defects, and signs of fatigue. */

import { el, replace } from "../lib/dom.js";
import {
  formatAgo,
  formatCount,
  formatDuration,
  formatNumber,
  formatPercent,
  formatRate,
  humanize,
  pluralize,
} from "../lib/format.js";
import { tile } from "./bars.js";
import { detectionChart } from "./detection_curve.js";

const UNKNOWN = "not enough data";
const CURVES_HELP =
  "Measured on gold candidates: candidates with a known verdict, mixed into the review queue. " +
  "The line shows the reject rate by severity. The dot marks the severity at which 50% are " +
  "noticed; the band is its 95% confidence interval. Obvious defects have severity 0.6 or more.";

/**
 * @param {Element} root
 * @param {ReviewerStats} stats
 */
export function showReviewerStats(root, stats) {
  const paused =
    stats.paused !== null &&
    el("p", { class: "note" }, `Reviewing is paused: ${stats.paused}. An engineer can resume it.`);
  const curves = stats.gold.curves.length
    ? el("div", { class: "curves" }, stats.gold.curves.map(detectionChart))
    : el("p", { class: "empty" }, "Not enough data yet.");
  replace(
    root,
    paused,
    el("dl", { class: "tiles" }, tiles(stats)),
    el(
      "section",
      { class: "card" },
      el("h2", {}, "Defects noticed by severity"),
      el("p", { class: "muted" }, CURVES_HELP),
      curves,
    ),
    el(
      "section",
      { class: "card details-card" },
      el("h2", {}, "Details"),
      el("dl", { class: "properties" }, details(stats)),
    ),
  );
}

/** Format a proportion as a whole percentage; a dash if unknown. @param {Interval | null} share */
export function wholePercent(share) {
  return share === null ? "–" : `${Math.round(100 * share.value)}%`;
}

/** @param {ReviewerStats} stats */
function tiles(stats) {
  const { decisions, hours, decisions_per_hour: rate, dwell_ms: dwell, agreement, gold } = stats;
  const { undone, accepted, as_of: asOf } = stats;
  const median = dwell.median === null ? "–" : formatDuration(dwell.median / 1000);
  const p90 = dwell.p90 === null ? "" : `90% under ${formatDuration(dwell.p90 / 1000)}`;
  const ac1 = agreement.ac1.value === null ? "" : `; AC1 ${agreement.ac1.value.toFixed(2)}`;
  const time = formatDuration(hours * 3600);
  const found = [
    tile("Decisions", formatCount(decisions), `in ${time}; ${wholePercent(accepted)} accepted`),
    ...(asOf === null ? [] : [tile("Computed", formatAgo(asOf), "from time to time")]),
    tile(
      "Decisions per hour",
      formatRate(rate),
      rate === null ? "needs 10 minutes of review" : "of active review time",
    ),
    tile("Median time", median, p90),
    tile("Agreement", wholePercent(agreement.alike), interval(agreement.alike) + ac1),
    tile("Defects noticed", wholePercent(gold.noticed), interval(gold.noticed)),
    tile("Clean accepted", wholePercent(gold.clean_accepted), interval(gold.clean_accepted)),
    tile("Undone", wholePercent(undone), interval(undone)),
  ];
  if (stats.not_counted) {
    const note = "in Label Studio: late or unreadable";
    found.push(tile("Not counted", formatCount(stats.not_counted), note));
  }
  return found;
}

/** @param {Interval | null} share */
function interval(share) {
  if (share === null) return UNKNOWN;
  const [low, high] = [Math.round(100 * share.low), Math.round(100 * share.high)];
  return `95% CI ${low}–${high}%, n = ${formatCount(share.n)}`;
}

/** @param {ReviewerStats} stats */
function details({ signs }) {
  const { run, quick, dwell_change_per_hour: change } = signs;
  const { missed_early: early, missed_late: late } = signs;
  const runText =
    run &&
    `${pluralize(run.longest, humanize(run.verdict))} in a row; ` +
      `${formatNumber(run.expected, 2)} expected by chance, ` +
      `probability of a run this long: ${probability(run.chance)}`;
  const changeText =
    change &&
    `${signedPercent(change.value)} per hour ` +
      `(95% CI ${signedPercent(change.low)} to ${signedPercent(change.high)})`;
  const withInterval = (/** @type {Interval | null} */ share) =>
    share && `${wholePercent(share)} (${interval(share)})`;
  /** @type {[string, string | null][]} */
  const rows = [
    ["Longest run of one verdict", runText],
    ["Decided in under 300 ms", withInterval(quick)],
    ["Change in review time during a session", changeText || "needs a session of 1 hour"],
    ["Obvious defects missed, first 30 minutes", withInterval(early)],
    ["Obvious defects missed, later", withInterval(late)],
  ];
  return rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value ?? UNKNOWN)]);
}

/** @param {number} chance */
function probability(chance) {
  return chance < 0.0001 ? "below 0.01%" : formatPercent(chance);
}

/** @param {number} change */
function signedPercent(change) {
  return `${change < 0 ? "−" : "+"}${Math.round(100 * Math.abs(change))}%`;
}
