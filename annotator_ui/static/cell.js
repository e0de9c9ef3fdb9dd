/** One candidate of a contact sheet, with the mark it bears: said in words, by a sign and by a frame, never by colour alone. */

import { told } from "./concerns.js";
import { make } from "./elements.js";
import { plain } from "./words.js";

/**
 * @typedef {object} Mark
 * @property {boolean} good
 * @property {Set<string>} reasons
 * @property {"reject" | "skip"} others
 * @property {boolean} focusable
 */

export class Cell {
  held;
  element;
  #sign = make("span", { class: "sign", "aria-hidden": "true" });

  /** @param {import("./tray.js").Held} held */
  constructor(held) {
    this.held = held;
    this.element = make("div", { role: "option", class: "cell", tabindex: -1, "data-candidate": held.card.id });
    this.element.append(make("div", { class: "print" }, ...held.images.values()), this.#sign);
  }

  get id() {
    return this.held.card.id;
  }

  /** @param {Mark} mark */
  show({ good, reasons, others, focusable }) {
    const { card, state } = this.held;
    const why = told([...reasons]).reasons.map(plain).join(", "); // of a pair they concern the blended one that is shown
    const left = others === "reject" ? "not marked" : "left for later";
    const said = state !== "ready" ? "not to be seen" : good ? "good" : why ? `rejected: ${why}` : left;
    const mark = state !== "ready" ? state : good ? "good" : why ? "bad" : "";
    this.element.setAttribute("aria-selected", String(good));
    this.element.setAttribute("aria-label", `${card.prompt}, ${said}`);
    this.element.title = card.prompt;
    this.element.tabIndex = focusable ? 0 : -1;
    this.element.dataset["mark"] = mark;
    const signs = new Map([["good", "✓"], ["bad", `✕ ${why}`], ["broken", "cannot be shown"]]);
    this.#sign.textContent = signs.get(mark) ?? "";
    const print = this.element.firstElementChild;
    if (print && !print.childElementCount) print.append(...this.held.images.values());
  }
}
