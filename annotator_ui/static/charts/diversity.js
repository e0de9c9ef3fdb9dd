/** The diversity of what a round drew: figures with intervals, beside the seeds and round one. */

import { byId, el, replace } from "../lib/dom.js";
import { formatCount, formatNumber } from "../lib/format.js";

/** @typedef {NonNullable<RoundReport["diversity"]>} Diversity */

const DIGITS = 3;
/** @type {Record<Diversity["figures"][number]["name"], [string, string]>} */
const FIGURES = {
  vendi: ["Vendi score", "effective number of different images"],
  distance: ["Mean distance", "of two images in the embedding"],
  recall: ["Recall", "share of seeds with a similar image"],
};

/**
 * @param {RoundReport["diversity"]} diversity
 * @param {string | null} answer what a loop did about it
 */
export function showDiversity(diversity, answer) {
  byId("diversity-card").hidden = diversity === null;
  if (diversity === null) return;
  const { figures, first_round: first, size, candidates, needed, lost } = diversity;
  byId("diversity-table").hidden = figures.length === 0;
  byId("diversity-first").textContent = first === null ? "" : `Times round ${first}`;
  replace(
    byId("diversity"),
    figures.map((figure) => row(figure)),
  );
  byId("diversity-note").textContent = figures.length
    ? `Of ${size} images, estimated from ${formatCount(candidates)} drawn ones, with 95% intervals.`
    : `Not measured: ${formatCount(candidates)} images were drawn, ${needed} are needed.`;
  byId("diversity-lost").hidden = !lost && answer === null;
  byId("diversity-lost").textContent =
    answer ?? "Diversity is lost: the Vendi score fell by more than 10%, and by more than chance.";
}

/** @param {Diversity["figures"][number]} figure */
function row({ name, seeds, ratio, ...own }) {
  const [label, meaning] = FIGURES[name];
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, label, el("small", {}, meaning)),
    el("td", { class: "number" }, withInterval(own)),
    el("td", { class: "number" }, seeds === null ? "–" : formatNumber(seeds, DIGITS)),
    el("td", { class: "number" }, ratio && withInterval(ratio)),
  );
}

/** @param {{ value: number, low: number, high: number }} estimate */
function withInterval({ value, low, high }) {
  const ends = `${formatNumber(low, DIGITS)}–${formatNumber(high, DIGITS)}`;
  return [formatNumber(value, DIGITS), el("small", {}, ends)];
}
