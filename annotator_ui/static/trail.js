/** The latest decisions as small pictures with their verdicts, dashed until the server has them; a press takes one back. */

import { afterFrame } from "./after_frame.js";
import { inWords } from "./concerns.js";
import { button, fill, make, part } from "./elements.js";
import { counted } from "./words.js";

/** @typedef {import("./history.js").Act} Act */

const MARKS = { accept: "✓", reject: "✕", skip: "»" };
const NAMES = { accept: "accepted", reject: "rejected", skip: "skipped" };
const TOLD = { pending: ", being sent", sent: "", refused: ", not counted" };

/** @param {import("./desk.js").Desk} desk */
export function installTrail(desk) {
  /** What is shown already, by act and by what is told of it. @type {WeakMap<Act, {told: string, element: HTMLElement}>} */
  const known = new WeakMap();
  /** @param {Act} act */
  const shown = (act) => {
    const told = act.rows.map((row) => row.state).join();
    const before = known.get(act);
    if (before?.told === told) return before.element;
    const element = item(act, () => desk.undo(act));
    known.set(act, { told, element });
    return element;
  };
  let due = false;
  const show = () => {
    due = false;
    part("trail-empty").hidden = desk.history.length > 0;
    fill(part("trail"), desk.history.toReversed().map(shown));
  };
  desk.addEventListener("history", () => {
    if (!due) afterFrame(show);
    due = true;
  });
  show();
}

/** @param {Act} act @param {() => void} undo */
function item({ rows }, undo) {
  const [first] = /** @type {[import("./history.js").Row]} */ (rows);
  const states = new Set(rows.map((row) => row.state));
  const state = states.has("pending") ? "pending" : states.has("sent") ? "sent" : "refused";
  const several = rows.length > 1;
  const said = several
    ? `a sheet of ${counted(rows.length, "candidate")}: ${sheetSaid(rows)}`
    : `${rowSaid(first)}: ${first.card.prompt}`;
  const mark = several ? String(rows.length) : MARKS[first.body.verdict];
  const name = { "aria-label": `Undo – ${said}`, title: `Undo – ${said}` };
  const press = button("", undo, { ...name, disabled: state === "refused" });
  fill(
    press,
    thumbnail(first.card),
    make("span", { class: "mark", "aria-hidden": "true" }, state === "refused" ? "!" : mark),
  );
  return make("li", { class: `${several ? "together" : first.body.verdict} ${state}` }, press);
}

/** A decision in words. @param {import("./history.js").Row} row */
export function rowSaid({ body, state }) {
  const reasons = inWords(body).join(", ");
  return `${NAMES[body.verdict]}${reasons && ` (${reasons})`}${TOLD[state]}`;
}

/** What became of a sheet: "2 accepted, 10 rejected". @param {import("./history.js").Row[]} rows */
export function sheetSaid(rows) {
  const taken = rows.filter((row) => row.state !== "refused");
  const of = (/** @type {string} */ verdict) => taken.filter((row) => row.body.verdict === verdict).length;
  const parts = Object.entries(NAMES).map(([verdict, name]) => of(verdict) && `${of(verdict)} ${name}`);
  const refused = rows.length - taken.length;
  return [...parts, refused && `${refused} not counted`].filter(Boolean).join(", ");
}

/** @param {Card} card */
function thumbnail(card) {
  const layer = card.layers.blended ?? card.layers.foreground;
  return make("img", { src: layer?.small, alt: "", width: 32, height: 32, draggable: "false" });
}
