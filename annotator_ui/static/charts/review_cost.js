/** The review cost of a round: time per accepted sample, yield of the next hour, when to stop. */

import { byId, el, replace } from "../lib/dom.js";
import { formatCount, formatDuration, humanize, pluralize } from "../lib/format.js";

/** Review time needed for an estimate; ENOUGH_SECONDS in curation/selection/review_cost.py. */
const MIN_SECONDS = 600;
const HOUR_SECONDS = 3600;

/** @param {RoundReport["review_cost"]} cost */
export function showReviewCost({ slices, next_hour: nextHour, stop }) {
  byId("cost-card").hidden = slices.length === 0;
  replace(byId("cost"), slices.map(sliceRow));
  const reviewed = slices.reduce((sum, slice) => sum + (slice.seconds ?? 0), 0);
  const unknown = "No estimate: no candidates are left, or no review times were recorded.";
  replace(byId("next-hour"), nextHour ? estimate(nextHour, reviewed) : unknown);
  byId("stop").hidden = stop === null;
  replace(byId("stop"), el("strong", {}, "Review can stop: "), stop ?? "");
}

/**
 * Describe the yield of the next hour of review, or of the remaining candidates if they take less.
 * @param {NonNullable<RoundReport["review_cost"]["next_hour"]>} nextHour
 * @param {number} reviewedSeconds
 */
function estimate({ reviews, left, accepts, certain }, reviewedSeconds) {
  if (reviewedSeconds < MIN_SECONDS) {
    const [needed, reviewed] = [formatDuration(MIN_SECONDS), formatDuration(reviewedSeconds)];
    return `An estimate needs ${needed} of review time (${reviewed} so far).`;
  }
  const basis = certain
    ? "based on the scores of the waiting candidates"
    : "based on the accept rate so far, because some candidates have no score";
  if (left < reviews) {
    const duration = formatDuration((HOUR_SECONDS * left) / reviews);
    const accepted = pluralize(Math.round((accepts * left) / reviews), "accept");
    return `${pluralize(left, "candidate")} left: about ${duration} and ${accepted}, ${basis}.`;
  }
  const accepted = formatCount(Math.round(accepts));
  const reviewed = formatCount(Math.round(reviews));
  return `Next hour: about ${accepted} accepts from ${reviewed} reviews, ${basis}.`;
}

/** @param {RoundReport["review_cost"]["slices"][number]} slice */
function sliceRow({ slice, reviews, accepted, seconds_per_accept: seconds }) {
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, humanize(slice)),
    el("td", { class: "number" }, formatCount(reviews)),
    el("td", { class: "number" }, formatCount(accepted)),
    el("td", { class: "number" }, formatDuration(seconds)),
  );
}
