/** Gates: beyond which scores the machine decides, what was proven of its errors, and what people's audit says of it. */

import { fill, make, part } from "./elements.js";
import { count, figure, plain } from "./words.js";

/** @param {RoundReport["gates"]} gates @param {number} round */
export function showGates(gates, round) {
  const told = gates.filter((gate) => gate.stands || gate.contradicted);
  part("gates-card").hidden = told.length === 0;
  fill(part("gates"), told.map(row));
  const closed = told.filter((gate) => gate.contradicted);
  part("gates-closed").hidden = closed.length === 0;
  fill(part("gates-closed"), closed.map(farewell), closed.length > 0 && make("code", {}, `layerloop round revert-auto ${round}`));
}

/** What a gate's errors are counted among. @param {RoundReport["gates"][number]} gate */
function among({ verdict }) {
  return verdict === "reject" ? "of the acceptable lost" : "of its accepts bad";
}

/** @param {RoundReport["gates"][number]} gate */
function row(gate) {
  const { id, verdict, share, budget, audit, contradicted } = gate;
  const proven = verdict === "reject" ? gate.lost.high : gate.wrong.high;
  const what = `${count(audit.errors)} of ${count(audit.judged)} wrong`;
  const sure = audit.errors > 0 && make("small", {}, `at least ${percent(audit.low)}`);
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, `${id}: ${verdict}s ${percent(share)}`, make("small", {}, contradicted ? "closed by its audit" : "open")),
    make("td", { class: "number" }, `≤ ${percent(proven)}`, make("small", {}, among(gate))),
    make("td", { class: "number" }, percent(budget)),
    make("td", { class: "number" }, what, sure),
  );
}

/** @param {RoundReport["gates"][number]} gate */
function farewell(gate) {
  const { id, verdict, budget, audit } = gate;
  const found = `${count(audit.errors)} of ${count(audit.judged)} audited ${plain(verdict)}s were wrong`;
  const proof = `at least ${percent(audit.low)} ${among(gate)}, where ${percent(budget)} may be`;
  return `Gate ${id} has closed itself: ${found}, ${proof}. The machine decides nothing more by it; what it decided stands until it is taken back: `;
}

/** @param {number} share */
function percent(share) {
  return `${figure(100 * share, 2)} %`;
}
