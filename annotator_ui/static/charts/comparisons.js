/** Comparisons in words and links: the sides, and shares with their intervals. */

import { el } from "../lib/dom.js";
import { formatDate, formatPercent, pluralize, shortId } from "../lib/format.js";

/** Return a link to the checkpoint of a side. @param {ComparedSide} side */
export function sideLabel({ checkpoint, method }) {
  const link = el("a", { href: `/checkpoints#${checkpoint}` }, el("code", {}, shortId(checkpoint)));
  return el("span", {}, link, method === "matted" && " matted");
}

/** @param {ShareWithInterval} share */
export function shareText({ value }) {
  return value === null ? "–" : formatPercent(value);
}

/** Return the row of a comparison in a list. @param {Comparison} comparison */
export function comparisonRow(comparison) {
  const { id, items, votes, state } = comparison;
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, el("a", { href: `/comparisons/${id}` }, `Comparison ${id}`)),
    el("td", {}, sideLabel(comparison.a)),
    el("td", {}, sideLabel(comparison.b)),
    el("td", {}, `${pluralize(items, "item")}, ${pluralize(votes, "vote")} each`),
    el("td", {}, state),
    el("td", {}, formatDate(comparison.created_at)),
  );
}
