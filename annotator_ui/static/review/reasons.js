/** Reject reasons, by keys and by buttons. In a pair, a reason refers to the layer on display. */

import { button, byId, el, replace } from "../lib/dom.js";
import { humanize } from "../lib/format.js";
import { REASON_LAYERS, withLayer } from "./reason_layers.js";

const LAYER_LETTERS = new Map([
  ["foreground", "F"],
  ["background", "G"],
  ["blended", "M"],
]);
const SINGLE = { view: "single" };

/** Return the reasons with a digit key, by key. @param {Reason[]} reasons */
export function reasonsByKey(reasons) {
  const keyed = reasons.filter(({ key }) => /^[0-9]$/.test(key));
  return new Map(keyed.map((reason) => [reason.key, reason]));
}

/** Return the keys and names of reasons for a help text. @param {Map<string, Reason>} byKey */
export function reasonList(byKey) {
  return [...byKey.values()].map((reason) => `${reason.key} ${humanize(reason.name)}`).join(", ");
}

/**
 * Install the reason list. A digit rejects with this reason immediately; Shift and a digit, or a
 * click, selects the reason for the next reject.
 * @param {Reason[]} reasons
 * @param {import("./session.js").ReviewSession} session
 * @param {import("../lib/shortcuts.js").Shortcuts} shortcuts
 * @param {import("./viewer.js").Viewer} viewer
 * @param {() => ReviewItem | null} current
 */
export function installReasons(reasons, session, shortcuts, viewer, current) {
  const isPair = () => current()?.kind === "pair";
  /** @param {Reason | undefined} reason @returns {string | null} null if it does not apply */
  const qualify = (reason) => {
    if (!reason || (reason.pairs_only && !isPair())) return null;
    const layer = (!reason.pairs_only && REASON_LAYERS.get(viewer.get("layer"))) || "blended";
    return withLayer(reason.name, isPair() ? layer : "");
  };
  bindReasonKeys(reasons, session, shortcuts, qualify);

  const items = reasons.map((reason) =>
    createItem(reason, () => session.toggleReason(qualify(reason) ?? "")),
  );
  replace(
    byId("reasons"),
    items.map(({ element }) => element),
  );
  const update = () => {
    const pair = isPair();
    const layer = REASON_LAYERS.get(viewer.get("layer")) ?? "whole image";
    byId("reason-layer").hidden = !pair;
    replace(byId("reason-layer"), pair && ` (${layer})`);
    for (const item of items) item.render(session.reasons, qualify(item.reason));
  };
  session.addEventListener("reasons", update);
  session.addEventListener("displayed", update);
  viewer.addEventListener("change", update);
  update();
}

/**
 * @param {Reason[]} reasons
 * @param {import("./session.js").ReviewSession} session
 * @param {import("../lib/shortcuts.js").Shortcuts} shortcuts
 * @param {(reason: Reason | undefined) => string | null} qualify
 */
function bindReasonKeys(reasons, session, shortcuts, qualify) {
  const byKey = reasonsByKey(reasons);
  const digits = [...byKey.keys()];
  const rejectHelp = `Reject with a reason: ${reasonList(byKey)} (pairs only)`;
  shortcuts.bind(
    "Decide",
    digits,
    rejectHelp,
    (event, key) => {
      const reason = qualify(byKey.get(key));
      if (!reason) return;
      session.decide("reject", [...new Set([...session.reasons, reason])], event.timeStamp);
    },
    SINGLE,
  );
  const selectHelp = "Select or deselect a reason for R; in a pair, for the layer on display";
  shortcuts.bind(
    "Decide",
    digits.map((key) => `Shift+${key}`),
    selectHelp,
    (_, key) => {
      const reason = qualify(byKey.get(key.slice(-1)));
      if (reason) session.toggleReason(reason);
    },
    SINGLE,
  );
}

/**
 * Create the list item of a reason. It is created once, so that its button keeps the focus.
 * @param {Reason} reason
 * @param {() => void} onClick
 */
function createItem(reason, onClick) {
  const check = el("span", { class: "check" });
  const toggle = button("", onClick, { class: "reason", title: reason.label });
  replace(toggle, el("kbd", {}, reason.key), el("span", {}, humanize(reason.name)), check);
  const element = el("li", {}, toggle);
  /**
   * @param {Set<string>} selected
   * @param {string | null} qualified the reason with its layer; null if it does not apply
   */
  const render = (selected, qualified) => {
    const same = [...selected].filter((other) => other.split(":")[1] === reason.name);
    const letters = same
      .map((other) => LAYER_LETTERS.get(other.split(":")[0] ?? "") ?? "")
      .join(" ");
    const pressed = qualified !== null && selected.has(qualified);
    element.hidden = qualified === null;
    toggle.setAttribute("aria-pressed", String(pressed));
    check.textContent = letters || (pressed ? "✓" : "");
    // A check mark repeats aria-pressed; the layer letters carry information of their own.
    check.ariaHidden = letters ? null : "true";
  };
  return { element, reason, render };
}
