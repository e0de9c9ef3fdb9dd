/** What accepts cost people, slice by slice, what the next hour is worth, and whether review may stop. */

import { fill, make, part } from "./elements.js";
import { count, duration, plain } from "./words.js";

/** @param {RoundReport["price"]} price */
export function showPrice({ slices, next_hour: hour, stop }) {
  part("price-card").hidden = slices.length === 0;
  fill(part("price"), slices.map(row));
  const ahead = hour && [
    `An hour of review now: about ${count(Math.round(hour.accepts))} accepts of ${count(Math.round(hour.looks))} looks`,
    hour.certain ? ", by the scores of what is ahead." : ", at the rate so far: not all that is ahead has a score.",
  ];
  fill(part("next-hour"), ...(ahead ?? ["Nothing is ahead, or nobody has looked yet."]));
  part("stop").hidden = stop === null;
  fill(part("stop"), make("strong", {}, "Review may stop: "), stop ?? "");
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
