/** The latest decisions as small pictures with their verdicts, dashed until the server has them; a press takes one back. */

import { inWords } from "./concerns.js";
import { button, fill, make, part } from "./elements.js";
import { counted } from "./words.js";

/** @typedef {import("./history.js").Act} Act */

const MARKS = { accept: "✓", reject: "✕", skip: "»" };
const NAMES = { accept: "accepted", reject: "rejected", skip: "skipped" };
const TOLD = { pending: ", being sent", sent: "", refused: ", not counted" };

/** @param {import("./desk.js").Desk} desk */
export function installTrail(desk) {
  const show = () => {
    part("trail-empty").hidden = desk.history.length > 0;
    fill(
      part("trail"),
      desk.history.toReversed().map((act) => item(act, () => desk.undo(act))),
    );
  };
  desk.addEventListener("history", show);
  show();
}

/** @param {Act} act @param {() => void} undo */
function item(act, undo) {
  const [first] = act.rows;
  if (!first) return null;
  const states = new Set(act.rows.map((row) => row.state));
  const state = states.has("pending") ? "pending" : states.has("sent") ? "sent" : "refused";
  const said = act.rows.length > 1 ? `a sheet of ${counted(act.rows.length, "candidate")}: ${sheetSaid(act.rows)}` : `${rowSaid(first)}: ${first.card.prompt}`;
  const verdict = act.rows.length > 1 ? "sheet" : first.body.verdict;
  const mark = verdict === "sheet" ? String(act.rows.length) : MARKS[verdict];
  const press = button("", undo, { "aria-label": `Undo – ${said}`, title: `Undo – ${said}`, disabled: state === "refused" });
  fill(press, thumbnail(first.card), make("span", { class: "mark", "aria-hidden": "true" }, state === "refused" ? "!" : mark));
  return make("li", { class: `${verdict} ${state}` }, press);
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
