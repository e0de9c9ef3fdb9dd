/** Steered prompts of a round: acceptance of both parts, and what earlier decisions say. */

import { byId, el, replace } from "../lib/dom.js";
import { formatCount, formatPercent, humanize, pluralize } from "../lib/format.js";

/** Rows that are shown without opening the list of all. */
const MAX_SHOWN = 10;
/** @type {Record<string, string>} */
const SOURCES = { random: "chosen at random", steered: "steered" };
/** @type {Record<string, string>} */
const REVIEWERS = { person: "people", rule_reviewer: "rule reviewer" };
/** @type {Record<string, string>} */
const GOALS = { accepts: "more accepted samples", learn: "verdicts that are hard to predict" };

/** @param {Steering | null} steering */
export function showSteering(steering) {
  byId("steering-card").hidden = steering === null;
  if (!steering) return;
  const { outcomes, arms, prompts, rounds } = steering;
  replace(byId("steering-summary"), summary(steering));
  replace(byId("steering-outcomes"), outcomes.map(outcomeRow));
  byId("steering-undecided").hidden = outcomes.length > 0;
  byId("steering-reasons").hidden = rounds.length === 0;
  replace(byId("steering-arms"), arms.slice(0, MAX_SHOWN).map(armRow));
  // The element stays, so that a refresh does not close it.
  const rest = [...arms.slice(MAX_SHOWN), ...prompts];
  byId("steering-more").hidden = rest.length === 0;
  replace(byId("steering-more-label"), `${formatCount(rest.length)} more`);
  replace(byId("steering-rest"), rest.map(armRow));
}

/** @param {Steering} steering */
function summary({ settings, random, steered, pool, rounds, decisions, automatic, acceptance }) {
  const all = pluralize(random + steered, "prompt");
  if (!rounds.length) {
    return `All ${all} were chosen at random, since no closed round has decisions yet.`;
  }
  const goal = `${formatCount(steered)} of ${all} were steered for ${GOALS[settings.goal]}`;
  const basis = `by ${pluralize(decisions, "decision")} of round ${rounds.join(", ")}`;
  const by = automatic ? ` (${formatCount(automatic)} by the rule reviewer)` : "";
  const former = acceptance ? `, where ${formatPercent(acceptance.value)} were accepted` : "";
  return (
    `${goal}, ${basis}${by}${former}. The other ${formatCount(random)} were chosen at random ` +
    `from ${pluralize(pool.distinct, "distinct prompt")}: compare rounds by these.`
  );
}

/** @param {Steering["outcomes"][number]} outcome */
function outcomeRow({ source, kind, acceptance }) {
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, SOURCES[source] ?? source),
    el("td", {}, REVIEWERS[kind] ?? kind),
    el("td", { class: "number" }, formatPercent(acceptance.value), interval(acceptance)),
    el("td", { class: "number" }, formatCount(acceptance.n)),
  );
}

/** @param {SteeredArm & { target?: boolean, floor?: number }} row */
function armRow({ arm, before, now, decisions, acceptance, reasons, target, floor }) {
  const least = target && el("small", {}, `target ${formatPercent(floor ?? 0)}`);
  const listed = reasons.map(({ reason, count }) => `${humanize(reason)} ${formatCount(count)}`);
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, arm.replace("=", ": "), least),
    el("td", { class: "number" }, formatPercent(before)),
    el("td", { class: "number" }, formatPercent(now), direction(before, now)),
    acceptance
      ? el("td", { class: "number" }, formatPercent(acceptance.value), interval(acceptance))
      : el("td", { class: "number muted" }, "–"),
    el("td", {}, listed.join(", ") || (decisions ? "none" : "no decisions")),
  );
}

/** Return a share's change as a factor. @param {number} before @param {number} now */
function direction(before, now) {
  return el("small", {}, before > 0 ? `× ${(now / before).toFixed(2)}` : "");
}

/** @param {Interval} interval */
function interval({ low, high }) {
  return el("small", {}, `95% CI ${formatPercent(low)}–${formatPercent(high)}`);
}
