/** The lightbox: one candidate of the grid in large, first as a thumbnail, then in full size. */

import { el, replace } from "../lib/dom.js";
import { layerImage } from "../lib/layer_image.js";

export class Lightbox {
  #root;
  #content = el("div", { class: "whole" });

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    root.append(this.#content);
  }

  /** @param {ReviewItem} card */
  show(card) {
    const layer = card.layers.blended ?? card.layers.foreground;
    if (!layer) return;
    const urls = [...new Set([layer.small, layer.url])];
    replace(
      this.#content,
      urls.map((src) => layerImage({ src })),
      el("p", {}, card.prompt),
    );
    this.#root.hidden = false;

    // Once the full image is loaded, the thumbnail would show through its transparent pixels.
    const last = this.#content.querySelector("img:last-of-type");
    if (urls.length > 1 && last instanceof HTMLImageElement) {
      last.decode().then(
        () => this.#content.querySelector("img:first-of-type")?.remove(),
        () => null,
      );
    }
  }

  hide() {
    this.#root.hidden = true;
    replace(this.#content);
  }
}
