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
  const chips = reasons.map((reason) => chip(reason, () => desk.toggle(named(reason) ?? "")));
  fill(part("reasons"), chips.map(({ element }) => element));
  const show = () => {
    const pair = isPair();
    part("concerned").hidden = !pair;
    fill(part("concerned"), pair && `: the ${where(CONCERNED.get(stage.get("layer")))}`);
    for (const one of chips) one.show(desk.reasons, named(one.reason));
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

/** A button that is made once: one that was pressed keeps the focus. @param {Reason} reason @param {() => void} run */
function chip(reason, run) {
  const tick = make("span", { class: "tick" });
  const press = button("", run, { class: "reason", title: reason.label });
  fill(press, make("kbd", {}, reason.key), make("span", {}, plain(reason.name)), tick);
  const element = make("li", {}, press);
  /** @param {Set<string>} collected @param {string | null} name what it would add; null where it does not apply */
  const show = (collected, name) => {
    const of = [...collected].filter((other) => other.split(":")[1] === reason.name);
    const letters = of.map((other) => LETTERS.get(other.split(":")[0] ?? "") ?? "").join(" ");
    const pressed = name !== null && collected.has(name);
    element.hidden = name === null;
    press.setAttribute("aria-pressed", String(pressed));
    tick.textContent = letters || (pressed ? "✓" : "");
    tick.ariaHidden = letters ? null : "true"; // the tick repeats what is pressed, the letters tell of which layers
  };
  return { element, reason, show };
}
