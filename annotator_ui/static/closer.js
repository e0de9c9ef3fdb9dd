/** One candidate of a contact sheet as large as there is room: at once as a contact print, then with all its pixels. */

import { fill, make } from "./elements.js";

export class Closer {
  #root;
  #inner = make("div", { class: "whole" });

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    root.append(this.#inner);
  }

  /** @param {Card} card */
  show(card) {
    const layer = card.layers.blended ?? card.layers.foreground;
    if (!layer) return;
    const addresses = [...new Set([layer.small, layer.url])];
    fill(
      this.#inner,
      addresses.map((src) => make("img", { src, alt: "", draggable: "false" })),
      make("p", {}, card.prompt),
    );
    this.#root.hidden = false;
    // The print has done its part once all pixels have come; below them it would show through where they are clear.
    const last = this.#inner.querySelector("img:last-of-type");
    if (addresses.length > 1 && last instanceof HTMLImageElement)
      last.decode().then(() => this.#inner.querySelector("img:first-of-type")?.remove(), () => null);
  }

  hide() {
    this.#root.hidden = true;
    fill(this.#inner);
  }
}
