/** Gates of automatic decisions: the proven error bound of each, and the result of its audit. */

import { byId, el, replace } from "../lib/dom.js";
import { formatCount, formatPercent } from "../lib/format.js";

/** @typedef {RoundReport["gates"][number]} Gate */

/**
 * @param {Gate[]} gates
 * @param {number} round
 */
export function showGates(gates, round) {
  const shown = gates.filter((gate) => gate.stands || gate.contradicted);
  byId("gates-card").hidden = shown.length === 0;
  replace(byId("gates"), shown.map(gateRow));
  const closed = shown.filter((gate) => gate.contradicted);
  byId("gates-closed").hidden = closed.length === 0;
  const command = el("code", {}, `layerloop round revert-auto ${round}`);
  replace(
    byId("gates-closed"),
    closed.map(describeClosed),
    closed.length > 0 && ["To revert its decisions: ", command],
  );
}

/** Return the population in which a gate's errors are counted. @param {Gate} gate */
function errorBase({ verdict }) {
  return verdict === "reject" ? "of acceptable candidates rejected" : "of accepts are defective";
}

/** @param {Gate} gate */
function gateRow(gate) {
  const { id, verdict, share, budget, audit, contradicted } = gate;
  const bound = verdict === "reject" ? gate.lost.high : gate.wrong.high;
  const state = contradicted ? "closed after audit" : "open";
  const audited = `${formatCount(audit.errors)} of ${formatCount(audit.judged)} wrong`;
  const lowerBound = audit.errors > 0 && el("small", {}, `at least ${formatPercent(audit.low)}`);
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      `${id}: ${verdict}s ${formatPercent(share)}`,
      el("small", {}, state),
    ),
    el("td", { class: "number" }, `≤ ${formatPercent(bound)}`, el("small", {}, errorBase(gate))),
    el("td", { class: "number" }, formatPercent(budget)),
    el("td", { class: "number" }, audited, lowerBound),
  );
}

/** @param {Gate} gate */
function describeClosed(gate) {
  const { id, verdict, budget, audit } = gate;
  const counts = `${formatCount(audit.errors)} of ${formatCount(audit.judged)}`;
  const errors = `${counts} audited ${verdict}s were wrong`;
  const bound = `at least ${formatPercent(audit.low)} ${errorBase(gate)}`;
  const limits = `${bound}, limit ${formatPercent(budget)}`;
  return `Gate ${id} was closed: ${errors} (${limits}). It makes no further decisions. `;
}
