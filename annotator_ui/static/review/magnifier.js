/** The magnifier: an enlarged copy of the layers under the pointer, shown while a key is held. */

import { el } from "../lib/dom.js";

/** Diameter in pixels. */
const SIZE = 280;
const MAGNIFICATION = 4;

export class Magnifier {
  #root;
  #stack;
  /**
   * Latest pointer position relative to the viewer; null until the pointer moves.
   * @type {{x: number, y: number} | null}
   */
  #pointer = null;
  /** @type {HTMLElement | null} */
  #lens = null;

  /**
   * @param {HTMLElement} root
   * @param {HTMLElement} stack
   */
  constructor(root, stack) {
    this.#root = root;
    this.#stack = stack;
    root.addEventListener("pointermove", (event) => {
      const box = root.getBoundingClientRect();
      this.#pointer = { x: event.clientX - box.left, y: event.clientY - box.top };
      this.#position();
    });
  }

  get visible() {
    return this.#lens !== null;
  }

  show() {
    this.hide();
    const copy = /** @type {HTMLElement} */ (this.#stack.cloneNode(true));
    copy.removeAttribute("id");
    // A cloned canvas is empty, so its content is copied.
    const canvas = this.#stack.querySelector("canvas");
    const canvasCopy = copy.querySelector("canvas");
    if (canvas) canvasCopy?.getContext("2d")?.drawImage(canvas, 0, 0);
    const attributes = { class: "magnifier", "aria-hidden": "true", "--size": `${SIZE}px` };
    this.#lens = el("div", attributes, copy);
    this.#root.append(this.#lens);
    this.#position();
  }

  hide() {
    this.#lens?.remove();
    this.#lens = null;
  }

  /** Move the lens to the pointer, and the enlarged copy inside it to the matching position. */
  #position() {
    const copy = this.#lens?.firstElementChild;
    if (!this.#lens || !(copy instanceof HTMLElement)) return;
    const center = { x: this.#root.clientWidth / 2, y: this.#root.clientHeight / 2 };
    const { x, y } = this.#pointer ?? center;
    this.#lens.style.transform = `translate(${x - SIZE / 2}px, ${y - SIZE / 2}px)`;
    const box = this.#root.getBoundingClientRect();
    const stack = this.#stack.getBoundingClientRect();
    const offsetX = (x - (stack.left - box.left)) * MAGNIFICATION;
    const offsetY = (y - (stack.top - box.top)) * MAGNIFICATION;
    copy.style.width = `${stack.width * MAGNIFICATION}px`;
    copy.style.height = `${stack.height * MAGNIFICATION}px`;
    copy.style.transform = `translate(${SIZE / 2 - offsetX}px, ${SIZE / 2 - offsetY}px)`;
    copy.classList.add("pixelated");
  }
}
