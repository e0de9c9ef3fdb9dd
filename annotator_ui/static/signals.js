/** Flags and measurements of the candidate, shown only when asked for: a number should not judge before the eye does. */

import { fill, make, part } from "./elements.js";
import { figure, plain } from "./words.js";

/** @param {Card | null} card */
export function showSignals(card) {
  const flags = card?.flags ?? [];
  fill(
    part("flags"),
    flags.length
      ? flags.map((flag) => make("li", { class: "chip" }, plain(flag)))
      : make("li", { class: "quiet" }, "No flags."),
  );
  const rows = Object.entries(card?.signals ?? {});
  fill(
    part("signals"),
    rows.map(([name, value]) => [make("dt", {}, plain(name)), make("dd", {}, figure(value, 3))]).flat(),
  );
}
