/** How far people agree in a round that several decide, and what waits for an adjudicator. */

import { fill, make, part } from "./elements.js";
import { keepFresh } from "./live.js";
import { read } from "./request.js";
import { counted, plain } from "./words.js";

const PERIOD_MS = 30_000;

/** Shows the card of agreement where several decide; rarely anew, since its intervals are dear. @param {number} number */
export function followAgreement(number) {
  keepFresh(PERIOD_MS, async () => {
    const told = /** @type {RoundAgreement} */ (await read(`/api/rounds/${number}/agreement`));
    part("agreement-card").hidden = told.consensus.overlap === 1;
    part("consensus").textContent = sentence(told);
    fill(part("agreement"), [{ ...told, reviewers: ["All together"] }, ...told.pairs].map(row));
  });
}

/** @param {RoundAgreement} told */
function sentence({ consensus: { overlap, rule, certainty, rule_reviewer_votes: voice }, adjudicating }) {
  const by = rule === "majority" ? "their majority decides" : "what is known of each decides (Dawid and Skene)";
  const sure = certainty > 0.5 ? `, if it is at least ${Math.round(100 * certainty)} % sure` : "";
  const who = voice ? `${overlap} voices, one of which may be the oracle,` : `${overlap} people`;
  return `${who} decide each candidate, blind; ${by}${sure}. ${counted(adjudicating, "candidate")} for an adjudicator.`;
}

/** @param {Agreement & {reviewers: string[]}} found */
function row({ reviewers, decided_twice: n, agreed, alpha, ac1 }) {
  const alike = agreed === null ? "–" : `${Math.round(100 * agreed)} %`;
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, reviewers.map(plain).join(" and "), make("small", {}, `${counted(n, "candidate")} together`)),
    make("td", { class: "number" }, alike),
    [alpha, ac1].map(cell),
  );
}

/** @param {Coefficient} found */
function cell({ value, low, high }) {
  const interval = low === null || high === null ? null : make("small", {}, `${low.toFixed(2)} to ${high.toFixed(2)}`);
  return make("td", { class: "number" }, value === null ? "–" : value.toFixed(2), interval);
}
