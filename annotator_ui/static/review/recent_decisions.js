/** Recent decisions as thumbnails with their verdict; a click undoes a decision. */

import { afterFrame } from "../lib/after_frame.js";
import { button, byId, el, replace } from "../lib/dom.js";
import { pluralize } from "../lib/format.js";
import { layerImage } from "../lib/layer_image.js";
import { describeReasons } from "./reason_layers.js";

/**
 * @typedef {import("./history.js").Action} Action
 * @typedef {import("./history.js").Row} Row
 */

const SYMBOLS = { accept: "✓", reject: "✕", skip: "»" };
const VERDICT_LABELS = { accept: "accepted", reject: "rejected", skip: "skipped" };
const STATE_SUFFIXES = { pending: ", sending", sent: "", refused: ", not saved" };

/** @param {import("./session.js").ReviewSession} session */
export function installRecentDecisions(session) {
  /**
   * Rendered items, reused while the states of their rows are unchanged.
   * @type {WeakMap<Action, {states: string, element: HTMLElement}>}
   */
  const rendered = new WeakMap();
  /** @param {Action} action */
  const itemOf = (action) => {
    const states = action.rows.map((row) => row.state).join();
    const before = rendered.get(action);
    if (before?.states === states) return before.element;
    const element = createItem(action, () => session.undo(action));
    rendered.set(action, { states, element });
    return element;
  };
  let scheduled = false;
  const render = () => {
    scheduled = false;
    byId("recent-empty").hidden = session.history.length > 0;
    replace(byId("recent"), session.history.toReversed().map(itemOf));
  };
  session.addEventListener("history", () => {
    if (!scheduled) afterFrame(render);
    scheduled = true;
  });
  render();
}

/**
 * @param {Action} action
 * @param {() => void} undo
 */
function createItem({ rows }, undo) {
  const [first] = /** @type {[Row]} */ (rows);
  const states = new Set(rows.map((row) => row.state));
  const state = states.has("pending") ? "pending" : states.has("sent") ? "sent" : "refused";
  const isGrid = rows.length > 1;
  const summary = isGrid
    ? `grid of ${pluralize(rows.length, "candidate")}: ${describeRows(rows)}`
    : `${describeRow(first)}: ${first.card.prompt}`;
  const label = `Undo: ${summary}`;
  const symbol = isGrid ? String(rows.length) : SYMBOLS[first.body.verdict];
  const disabled = state === "refused";
  const item = button("", undo, { "aria-label": label, title: label, disabled });
  replace(
    item,
    thumbnail(first.card),
    el("span", { class: "mark", "aria-hidden": "true" }, disabled ? "!" : symbol),
  );
  return el("li", { class: `${isGrid ? "stacked" : first.body.verdict} ${state}` }, item);
}

/** Describe a decision: "rejected (halo), sending". @param {Row} row */
export function describeRow({ body, state }) {
  const reasons = describeReasons(body).join(", ");
  return `${VERDICT_LABELS[body.verdict]}${reasons && ` (${reasons})`}${STATE_SUFFIXES[state]}`;
}

/** Summarize the decisions of a grid: "2 accepted, 10 rejected". @param {Row[]} rows */
export function describeRows(rows) {
  const saved = rows.filter((row) => row.state !== "refused");
  const count = (/** @type {string} */ verdict) =>
    saved.filter((row) => row.body.verdict === verdict).length;
  const parts = Object.entries(VERDICT_LABELS).map(
    ([verdict, label]) => count(verdict) && `${count(verdict)} ${label}`,
  );
  const refused = rows.length - saved.length;
  return [...parts, refused && `${refused} not saved`].filter(Boolean).join(", ");
}

/** @param {ReviewItem} card */
function thumbnail(card) {
  const layer = card.layers.blended ?? card.layers.foreground;
  return layerImage({ src: layer?.small, width: 32, height: 32 });
}
