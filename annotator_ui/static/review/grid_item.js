/** One candidate of the grid. A label, a badge and a border show its mark, not color alone. */

import { el } from "../lib/dom.js";
import { humanize } from "../lib/format.js";
import { splitReasons } from "./reason_layers.js";

/**
 * @typedef {object} ItemState
 * @property {boolean} marked
 * @property {Set<string>} reasons
 * @property {"reject" | "skip"} unmarkedVerdict
 * @property {boolean} focusable
 */

export class GridItem {
  held;
  element;
  #badge = el("span", { class: "badge", "aria-hidden": "true" });

  /** @param {import("./queue.js").QueuedItem} held */
  constructor(held) {
    this.held = held;
    this.element = el("div", {
      role: "option",
      class: "grid-item",
      tabindex: -1,
      "data-candidate": held.card.id,
    });
    const images = el("div", { class: "grid-image" }, ...held.images.values());
    this.element.append(images, this.#badge);
  }

  get id() {
    return this.held.card.id;
  }

  /** @param {ItemState} state */
  render({ marked, reasons, unmarkedVerdict, focusable }) {
    const { card, state } = this.held;
    // The layer is left out: in the grid, a reason always refers to the blended image.
    const reasonText = splitReasons([...reasons])
      .reasons.map(humanize)
      .join(", ");

    let mark = "";
    let label = unmarkedVerdict === "reject" ? "unmarked" : "left for later";
    if (state !== "ready") [mark, label] = [state, "not available"];
    else if (marked) [mark, label] = ["good", "good"];
    else if (reasonText) [mark, label] = ["bad", `rejected: ${reasonText}`];

    this.element.setAttribute("aria-selected", String(marked));
    this.element.setAttribute("aria-label", `${card.prompt}, ${label}`);
    this.element.title = card.prompt;
    this.element.tabIndex = focusable ? 0 : -1;
    this.element.dataset["mark"] = mark;
    const badges = new Map([
      ["good", "✓"],
      ["bad", `✕ ${reasonText}`],
      ["broken", "failed to load"],
    ]);
    this.#badge.textContent = badges.get(mark) ?? "";
    const images = this.element.firstElementChild;
    if (images && !images.childElementCount) images.append(...this.held.images.values());
  }
}
