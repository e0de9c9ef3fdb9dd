/** The tiles at the top of a round: accepted samples, review time, defect rate and reviewers. */

import { formatCount, formatDuration, formatRate, formatRatio, pluralize } from "../lib/format.js";
import { tile } from "./bars.js";

/** @param {RoundReport} report */
export function roundTiles(report) {
  const { human, defects_per_100: defects, funnel } = report;
  const { rule_reviewer: ruleReviewer, auto_reviewer: autoReviewer } = report;
  const waiting = pluralize(funnel["waiting"] ?? 0, "candidate");
  const tiles = [
    tile("Accepted", formatCount(funnel["accepted"] ?? 0), acceptedNote(report)),
    tile("Review time per accept", formatDuration(human.seconds_per_accept), reviewTimeNote(human)),
    tile(
      "Defects per 100",
      defects.person ? formatRate(defects.person.value) : "–",
      defectNote(defects.person, "people", human.decisions),
    ),
    tile("Review time left", formatDuration(report.seconds_left), `${waiting} waiting`),
  ];
  if (ruleReviewer.decisions) {
    const rated = defects.rule_reviewer;
    const rate = rated && `${formatRate(rated.value)} defects per 100`;
    const note = defectNote(rated, "the rule reviewer", ruleReviewer.decisions);
    const accepted = `accepted of ${formatCount(ruleReviewer.decisions)}`;
    const detail = rated ? `${accepted}; ${rate}, ${note}` : accepted;
    tiles.push(tile("Rule reviewer", formatCount(ruleReviewer.accepted), detail));
  }
  if (autoReviewer.decisions) {
    const decided = `accepted of ${formatCount(autoReviewer.decisions)} decided automatically`;
    const note = `${decided}, within the proven error bounds`;
    tiles.push(tile("Auto-reviewer", formatCount(autoReviewer.accepted), note));
  }
  return tiles;
}

/** @param {RoundReport} report */
function acceptedNote({ human, rule_reviewer: ruleReviewer, funnel }) {
  const decided = funnel["decided"] ?? 0;
  if (decided) {
    const included = ruleReviewer.decisions ? ", including the rule reviewer" : "";
    const rate = formatRatio(funnel["accepted"] ?? 0, decided);
    return `${rate} of ${formatCount(decided)} decided${included}`;
  }
  if (!human.decisions) return "nothing decided yet";
  return `${pluralize(human.decisions, "decision")}, but no candidate has enough of them yet`;
}

/** @param {RoundReport["human"]} human */
function reviewTimeNote({ seconds_per_accept: seconds, decisions }) {
  if (!decisions) return "no human decisions yet";
  const made = pluralize(decisions, "human decision");
  return seconds === null ? `${made}, none accepted yet` : `from ${made}`;
}

/**
 * @param {Interval | null} rate
 * @param {string} reviewer
 * @param {number} decisions number of decisions by this kind of reviewer
 */
function defectNote(rate, reviewer, decisions) {
  if (rate) {
    const interval = `95% CI ${formatRate(rate.low)}–${formatRate(rate.high)}`;
    return `${interval}, n = ${formatCount(rate.n)}`;
  }
  if (!decisions) return `not reviewed by ${reviewer} yet`;
  const made = pluralize(decisions, "decision");
  return `${made} by ${reviewer}, but no random candidate is settled yet`;
}
