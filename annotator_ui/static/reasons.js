/** Why a candidate is rejected: one list for keys and fingers. Of a pair, a reason concerns the layer that is looked at. */

import { concerning, CONCERNED } from "./concerns.js";
import { button, fill, make, part } from "./elements.js";
import { plain } from "./words.js";

const LETTERS = new Map([
  ["foreground", "F"],
  ["background", "G"],
  ["blended", "M"],
]);

const ONE = { where: "single" };

/**
 * Number: reject with this reason at once. Shift and number, or a tap: collect it for the reject that follows.
 * @param {Reason[]} reasons
 * @param {import("./desk.js").Desk} desk
 * @param {import("./keys.js").Keys} keys
 * @param {import("./stage.js").Stage} stage
 * @param {() => Card | null} shown
 */
export function installReasons(reasons, desk, keys, stage, shown) {
  const keyed = new Map(reasons.filter(({ key }) => /^[0-9]$/.test(key)).map((reason) => [reason.key, reason]));
  const list = [...keyed.values()].map((reason) => `${reason.key} ${plain(reason.name)}`).join(", ");
  const isPair = () => shown()?.kind === "pair";
  /** @param {Reason | undefined} reason */
  const named = (reason) => {
    if (!reason || (reason.pairs_only && !isPair())) return null;
    const layer = (!reason.pairs_only && CONCERNED.get(stage.get("layer"))) || "blended";
    return concerning(reason.name, isPair() ? layer : "");
  };
  keys.bind("Decide", [...keyed.keys()], `Reject for this reason: ${list} (of pairs)`, (event, key) => {
    const name = named(keyed.get(key));
    if (name) desk.decide("reject", [...new Set([...desk.reasons, name])], event.timeStamp);
  }, ONE);
  keys.bind(
    "Decide",
    [...keyed.keys()].map((key) => `Shift+${key}`),
    "Add or remove a reason; R then rejects for all of them. Of pairs it concerns the layer that is shown",
    (_, key) => {
      const name = named(keyed.get(key.slice(-1)));
      if (name) desk.toggle(name);
    },
    ONE,
  );
  const show = () => {
    const pair = isPair();
    part("concerned").hidden = !pair;
    fill(part("concerned"), pair && `: the ${where(CONCERNED.get(stage.get("layer")))}`);
    fill(
      part("reasons"),
      reasons.filter((reason) => pair || !reason.pairs_only).map((reason) => chip(reason, named(reason) ?? "", desk)),
    );
  };
  desk.addEventListener("collected", show);
  desk.addEventListener("shown", show);
  stage.addEventListener("change", show);
  show();
}

/** @param {string | undefined} layer */
function where(layer) {
  return layer ?? "whole picture";
}

/** @param {Reason} reason @param {string} name @param {import("./desk.js").Desk} desk */
function chip(reason, name, desk) {
  const pressed = desk.reasons.has(name);
  const of = [...desk.reasons].filter((other) => other.split(":")[1] === reason.name);
  const letters = of.map((other) => LETTERS.get(other.split(":")[0] ?? "") ?? "").join(" ");
  const element = button("", () => desk.toggle(name), {
    class: "reason",
    "aria-pressed": String(pressed),
    title: reason.label,
  });
  fill(
    element,
    make("kbd", {}, reason.key),
    make("span", {}, plain(reason.name)),
    letters && make("span", { class: "tick" }, letters),
    !letters && pressed && make("span", { class: "tick", "aria-hidden": "true" }, "✓"),
  );
  return make("li", {}, element);
}
