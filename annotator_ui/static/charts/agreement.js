/** Agreement of the reviewers of a round with overlap, and the candidates awaiting adjudication. */

import { byId, el, replace } from "../lib/dom.js";
import { formatAgo, formatRatio, humanize, pluralize } from "../lib/format.js";
import { read } from "../lib/http.js";
import { poll } from "../lib/polling.js";

/** A long period, because the confidence intervals are expensive to compute. */
const PERIOD_MS = 30_000;

/** Show and refresh the agreement of a round. @param {number} round */
export function followAgreement(round) {
  poll(PERIOD_MS, async () => {
    const report = /** @type {RoundAgreement} */ (await read(`/api/rounds/${round}/agreement`));
    byId("agreement-card").hidden = report.consensus.overlap === 1;
    byId("consensus").textContent = describeConsensus(report);
    const total = { ...report, reviewers: ["All reviewers"] };
    replace(byId("agreement"), [total, ...report.pairs].map(agreementRow));
  });
}

/** @param {RoundAgreement} report */
function describeConsensus({ consensus, adjudicating, as_of: asOf }) {
  const { overlap, rule, certainty, rule_reviewer_votes: withRuleReviewer } = consensus;
  const who = withRuleReviewer ? "reviewers (may include the rule reviewer)" : "reviewers";
  const by = rule === "majority" ? "majority vote" : "Dawid–Skene estimate";
  const minimum = certainty > 0.5 ? ` with at least ${formatRatio(certainty, 1)} certainty` : "";
  return (
    `${overlap} ${who} per candidate, blind. Consensus by ${by}${minimum}. ` +
    `${pluralize(adjudicating, "candidate")} awaiting adjudication.` +
    (asOf === null ? "" : ` Computed ${formatAgo(asOf)}.`)
  );
}

/** @param {Agreement & {reviewers: string[]}} row */
function agreementRow({ reviewers, decided_twice: n, agreed, alpha, ac1 }) {
  const names = reviewers.map(humanize).join(" and ");
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, names, el("small", {}, `${pluralize(n, "shared candidate")}`)),
    el("td", { class: "number" }, agreed === null ? "–" : formatRatio(agreed, 1)),
    [alpha, ac1].map(coefficientCell),
  );
}

/** @param {Coefficient} coefficient */
function coefficientCell({ value, low, high }) {
  const interval =
    low === null || high === null
      ? null
      : el("small", {}, `${low.toFixed(2)} to ${high.toFixed(2)}`);
  return el("td", { class: "number" }, value === null ? "–" : value.toFixed(2), interval);
}
