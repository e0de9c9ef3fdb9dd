/** What keys and buttons do with a contact sheet. */

import { Closer } from "./closer.js";
import { concerning } from "./concerns.js";
import { fillChoices } from "./choices.js";
import { fill, make, part } from "./elements.js";
import { SIZES } from "./contact.js";
import { counted, plain } from "./words.js";

const VIEWS = ["picture", "alpha", "faint"];
const HERE = { where: "sheet" };
const OTHERS = /** @type {const} */ ([["reject", "rejected"], ["skip", "left for later"]]);

/**
 * @param {import("./contact.js").Contact} contact
 * @param {import("./keys.js").Keys} keys
 * @param {Reason[]} reasons
 */
export function installSheet(contact, keys, reasons) {
  const root = part("contact");
  root.dataset["view"] = "picture";
  /** @param {string} group @param {string[]} names @param {string} help @param {import("./keys.js").Run} run @param {boolean} [repeats] */
  const bind = (group, names, help, run, repeats = false) => keys.bind(group, names, help, run, { ...HERE, repeats });
  bindMoves(contact, bind);
  bind("Sheet", ["Space"], "Mark as good, or not", () => contact.toggle());
  bind("Sheet", ["a"], "Mark all", () => contact.markAll(true));
  bind("Sheet", ["n"], "Mark none", () => contact.markAll(false));
  bindReasons(contact, bind, reasons);
  const others = () => contact.setOthers(contact.others === "reject" ? "skip" : "reject");
  bind("Sheet", ["w"], "What happens to the others: rejected, or left for later", others);
  bind("Sheet", ["Enter"], "Submit the whole sheet: the marked ones are accepted", (event) => contact.submit(event.timeStamp));
  bind("Sheet", ["+", "="], "Fewer and larger", () => step(contact, -1));
  bind("Sheet", ["-"], "More and smaller", () => step(contact, 1));
  bind("Look", ["v"], "Next view: picture, alpha as grey, faint alpha", () => {
    root.dataset["view"] = VIEWS[(VIEWS.indexOf(root.dataset["view"] ?? "") + 1) % VIEWS.length] ?? "picture";
  });
  const closer = new Closer(part("closer"));
  const look = () => contact.held && closer.show(contact.held.card);
  keys.bind("Look", ["l"], "Hold: look closely at the one with the cursor", look, { ...HERE, release: () => closer.hide() });
  part("submit").addEventListener("click", (event) => contact.submit(event.timeStamp));
  part("mark-all").addEventListener("click", () => contact.markAll(true));
  part("mark-none").addEventListener("click", () => contact.markAll(false));
  const showOthers = fillChoices(part("others"), OTHERS, (verdict) => contact.setOthers(verdict === "skip" ? "skip" : "reject"));
  const sizes = SIZES.map(String).map((size) => /** @type {const} */ ([size, size]));
  const showSize = fillChoices(part("sheet-sizes"), sizes, (size) => contact.resize(Number(size)));
  const show = () => {
    showSheet(contact);
    showOthers(contact.others);
    showSize(String(contact.size));
  };
  contact.addEventListener("change", show);
  show();
}

/** @typedef {(group: string, names: string[], help: string, run: import("./keys.js").Run, repeats?: boolean) => void} Bind */

/** @param {import("./contact.js").Contact} contact @param {Bind} bind */
function bindMoves(contact, bind) {
  /** @param {KeyboardEvent} event */
  const by = (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -contact.columns, ArrowDown: contact.columns };
    return steps[/** @type {keyof typeof steps} */ (event.key)] ?? 0;
  };
  const arrows = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"];
  bind("Sheet", arrows, "Move", (event) => contact.move(by(event)), true);
  const shifted = arrows.map((name) => `Shift+${name}`);
  bind("Sheet", shifted, "Mark all from here to there", (event) => contact.move(by(event), true), true);
  bind("Sheet", ["Home", "End"], "To the first, to the last", (_, key) => contact.move(key === "Home" ? -contact.size : contact.size));
}

/** @param {import("./contact.js").Contact} contact @param {Bind} bind @param {Reason[]} reasons */
function bindReasons(contact, bind, reasons) {
  const keyed = new Map(reasons.filter(({ key }) => /^[0-9]$/.test(key)).map((reason) => [reason.key, reason]));
  const list = [...keyed.values()].map((reason) => `${reason.key} ${plain(reason.name)}`).join(", ");
  bind("Sheet", [...keyed.keys()], `Reject this one for a reason, or no longer: ${list} (of pairs)`, (_, key) => {
    const reason = keyed.get(key);
    const pair = contact.held?.card.kind === "pair";
    if (reason && (pair || !reason.pairs_only)) contact.object(concerning(reason.name, pair ? "blended" : ""));
  });
}

/** @param {import("./contact.js").Contact} contact @param {number} by */
function step(contact, by) {
  const size = SIZES[SIZES.indexOf(contact.size) + by];
  if (size) contact.resize(size);
}

/** @param {import("./contact.js").Contact} contact */
function showSheet(contact) {
  const { accept, reject, skip } = contact.counts;
  const parts = [`Accept ${accept}`, reject && `reject ${reject}`, skip && `leave ${skip}`].filter(Boolean);
  fill(part("submit"), make("span", {}, parts.join(", ")), make("kbd", {}, "⏎"));
  part("submit").toggleAttribute("disabled", accept + reject + skip === 0);
  part("contact").setAttribute("aria-label", `Contact sheet of ${counted(accept + reject + skip, "candidate")}`);
}
