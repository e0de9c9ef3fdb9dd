/** Why a candidate is rejected: one list for keys and fingers. */

import { button, fill, make, part } from "./elements.js";
import { plain } from "./words.js";

/**
 * Number: reject with this reason at once. Shift and number, or a tap: collect it for the reject that follows.
 * @param {Reason[]} reasons
 * @param {import("./desk.js").Desk} desk
 * @param {import("./keys.js").Keys} keys
 */
export function installReasons(reasons, desk, keys) {
  const keyed = reasons.filter((reason) => /^[1-9]$/.test(reason.key));
  const named = new Map(keyed.map((reason) => [reason.key, reason.name]));
  const list = keyed.map((reason) => `${reason.key} ${plain(reason.name)}`).join(", ");
  keys.bind("Decide", [...named.keys()], `Reject for this reason: ${list}`, (event, key) => {
    desk.decide("reject", [...new Set([...desk.reasons, named.get(key) ?? ""])], event.timeStamp);
  });
  keys.bind(
    "Decide",
    [...named.keys()].map((key) => `Shift+${key}`),
    "Add or remove a reason; R then rejects for all of them",
    (_, key) => {
      desk.toggle(named.get(key.slice(-1)) ?? "");
    },
  );
  const show = () =>
    fill(
      part("reasons"),
      reasons.map((reason) => {
        const pressed = desk.reasons.has(reason.name);
        const chip = button("", () => desk.toggle(reason.name), {
          class: "reason",
          "aria-pressed": String(pressed),
          title: reason.label,
        });
        fill(
          chip,
          make("kbd", {}, reason.key),
          make("span", {}, plain(reason.name)),
          pressed && make("span", { class: "tick", "aria-hidden": "true" }, "✓"),
        );
        return make("li", {}, chip);
      }),
    );
  desk.addEventListener("collected", show);
  show();
}
