/** What accepts cost people, slice by slice, what the next hour is worth, and whether review may stop. */

import { fill, make, part } from "./elements.js";
import { count, counted, duration, plain } from "./words.js";

/** @param {RoundReport["price"]} price */
export function showPrice({ slices, next_hour: hour, stop }) {
  part("price-card").hidden = slices.length === 0;
  fill(part("price"), slices.map(row));
  fill(part("next-hour"), hour ? worth(hour) : "Nothing is ahead, or nobody has looked yet.");
  part("stop").hidden = stop === null;
  fill(part("stop"), make("strong", {}, "Review may stop: "), stop ?? "");
}

/** @param {NonNullable<RoundReport["price"]["next_hour"]>} hour */
function worth({ looks, left, accepts, certain }) {
  const rate = `about ${count(Math.round(accepts))} accepts of ${count(Math.round(looks))} looks`;
  const end = left < looks ? `; ${counted(left, "look")} are left, for about ${counted(Math.round((accepts * left) / looks), "accept")}` : "";
  const by = certain ? ", by the scores of what is ahead" : ", at the rate so far: not all that is ahead has a score";
  return `An hour of review now: ${rate}${end}${by}.`;
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
