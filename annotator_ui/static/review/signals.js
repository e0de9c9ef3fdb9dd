/** Flags and screening signals of a candidate, collapsed so that they do not bias the reviewer. */

import { byId, el, replace } from "../lib/dom.js";
import { formatNumber, humanize } from "../lib/format.js";

/** @param {ReviewItem | null} item */
export function showSignals(item) {
  const flags = item?.flags ?? [];
  replace(
    byId("flags"),
    flags.length
      ? flags.map((flag) => el("li", { class: "chip" }, humanize(flag)))
      : el("li", { class: "muted" }, "No flags"),
  );
  replace(
    byId("signals"),
    Object.entries(item?.signals ?? {}).flatMap(([name, value]) => [
      el("dt", {}, humanize(name)),
      el("dd", {}, formatNumber(value, 3)),
    ]),
  );
}
