/** What accepts cost people, slice by slice, what the next hour is worth, and whether review may stop. */

import { fill, make, part } from "./elements.js";
import { count, counted, duration, plain } from "./words.js";

/** As price.ENOUGH_SECONDS: looks of fewer seconds say nothing of an hour. */
const ENOUGH_SECONDS = 600;

/** @param {RoundReport["price"]} price */
export function showPrice({ slices, next_hour: hour, stop }) {
  part("price-card").hidden = slices.length === 0;
  fill(part("price"), slices.map(row));
  const looked = slices.reduce((sum, slice) => sum + (slice.seconds ?? 0), 0);
  fill(part("next-hour"), hour ? worth(hour, looked) : "What is ahead is not known: nothing is left, or no look was timed.");
  part("stop").hidden = stop === null;
  fill(part("stop"), make("strong", {}, "Review may stop: "), stop ?? "");
}

/**
 * What an hour would bring, said of no more than is left, and only after as much was seen as a rate needs.
 * @param {NonNullable<RoundReport["price"]["next_hour"]>} hour @param {number} looked seconds
 */
function worth({ looks, left, accepts, certain }, looked) {
  if (looked < ENOUGH_SECONDS) return `What an hour would bring is told after ${duration(ENOUGH_SECONDS)} of looking; so far ${duration(looked)}.`;
  const by = certain ? "by the scores of what is ahead" : "at the rate so far: not all that is ahead has a score";
  if (left < looks) {
    const worthLeft = counted(Math.round((accepts * left) / looks), "accept");
    return `${counted(left, "look")} are left, about ${duration((3600 * left) / looks)}, for about ${worthLeft}, ${by}.`;
  }
  return `An hour of review now: about ${count(Math.round(accepts))} accepts of ${count(Math.round(looks))} looks, ${by}.`;
}

/** @param {RoundReport["price"]["slices"][number]} slice */
function row({ slice, looks, accepted, seconds_per_accept: seconds }) {
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, plain(slice)),
    make("td", { class: "number" }, count(looks)),
    make("td", { class: "number" }, count(accepted)),
    make("td", { class: "number" }, seconds === null ? "–" : duration(seconds)),
  );
}
