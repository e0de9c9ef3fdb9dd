/** One reviewer's figures: how much and how fast, what they notice, and what may speak of stamping or fatigue. */

import { tile } from "./bars.js";
import { chart } from "./curve.js";
import { fill, make } from "./elements.js";
import { count, counted, duration, figure, plain, rate } from "./words.js";

/** @param {Element} place @param {Standing} standing */
export function showStanding(place, standing) {
  fill(
    place,
    standing.paused !== null &&
      make("p", { class: "note" }, `Reviewing is paused: ${standing.paused}. An engineer lifts it.`),
    make("dl", { class: "tiles" }, tiles(standing)),
    make(
      "section",
      { class: "card" },
      make("h2", {}, "What is noticed, by how grave a defect is"),
      make(
        "p",
        { class: "quiet" },
        "From candidates with a known verdict that are hidden among the others. The line is the share rejected; the mark, how grave a defect is that is noticed half of the time, with its 95 % interval. Plain ones, counted above, are from 0.6 on.",
      ),
      standing.gold.curves.length
        ? make("div", { class: "curves" }, standing.gold.curves.map(chart))
        : make("p", { class: "empty" }, "Nothing is known yet."),
    ),
    make("section", { class: "card facts-card" }, make("h2", {}, "Facts"), make("dl", { class: "facts" }, facts(standing))),
  );
}

/** A share in whole percent; a dash where it is unknown. @param {Share | null} share */
export function percent(share) {
  return share === null ? "–" : `${Math.round(100 * share.value)} %`;
}

/** @param {Standing} standing */
function tiles(standing) {
  const { decisions, hours, decisions_per_hour: pace, dwell_ms: dwell, agreement, gold, undone, accepted } = standing;
  const look = dwell.median === null ? "–" : duration(dwell.median / 1000);
  const most = dwell.p90 === null ? "" : `nine of ten under ${duration(dwell.p90 / 1000)}`;
  return [
    tile("Decisions", count(decisions), `in ${duration(hours * 3600)}; ${percent(accepted)} accepted`),
    tile("Decisions an hour", rate(pace), pace === null ? "told after ten minutes" : "while at the desk"),
    tile("Median look", look, most),
    tile("As others said", percent(agreement.alike), between(agreement.alike) + ac1(agreement.ac1)),
    tile("Defects noticed", percent(gold.noticed), between(gold.noticed)),
    tile("Clean accepted", percent(gold.clean_accepted), between(gold.clean_accepted)),
    tile("Undone", percent(undone), between(undone)),
    ...(standing.not_counted
      ? [tile("Not counted", count(standing.not_counted), "at Label Studio: too late, or not readable")]
      : []),
  ];
}

/** @param {Share | null} share */
function between(share) {
  if (share === null) return "not known yet";
  return `95 %: ${Math.round(100 * share.low)} to ${Math.round(100 * share.high)} %, of ${count(share.n)}`;
}

/** @param {{value: number | null}} found */
function ac1(found) {
  return found.value === null ? "" : `; AC1 ${found.value.toFixed(2)}`;
}

/** @param {Standing} standing */
function facts({ facts: { run, quick, dwell_change_per_hour: change, missed_early: early, missed_late: late } }) {
  const rows = [
    [
      "Longest run of one verdict",
      run === null
        ? "not known yet"
        : `${counted(run.longest, plain(run.verdict))}; coins of the same share bring about ${figure(run.expected, 2)}, and one as long in ${chance(run.chance)}`,
    ],
    ["Looks under 300 ms", quick === null ? "not known yet" : `${percent(quick)} (${between(quick)})`],
    [
      "A look, hour by hour of a sitting",
      change === null
        ? "told once a sitting has lasted an hour"
        : `${signed(change.value)} an hour (95 %: ${signed(change.low)} to ${signed(change.high)})`,
    ],
    ["Plain defects missed, first half hour", early === null ? "not known yet" : `${percent(early)} (${between(early)})`],
    ["Plain defects missed, later", late === null ? "not known yet" : `${percent(late)} (${between(late)})`],
  ];
  return rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
}

/** @param {number} share */
function chance(share) {
  return share < 0.0001 ? "less than 1 of 10,000 tries" : `${figure(100 * share, 2)} of 100 tries`;
}

/** @param {number} change */
function signed(change) {
  return `${change < 0 ? "−" : "+"}${Math.round(100 * Math.abs(change))} %`;
}
