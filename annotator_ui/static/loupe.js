/** A magnifier on a held key: the layers under the pointer, several times larger, with the view and background they have. */

import { make } from "./elements.js";

const SIDE = 280;
/** Times larger than on the stage. */
const POWER = 4;

export class Loupe {
  #root;
  #sheet;
  /** Where the pointer was last, in the stage's own pixels; the middle until it comes. @type {{x: number, y: number} | null} */
  #at = null;
  /** @type {HTMLElement | null} */
  #glass = null;

  /** @param {HTMLElement} root @param {HTMLElement} sheet */
  constructor(root, sheet) {
    this.#root = root;
    this.#sheet = sheet;
    root.addEventListener("pointermove", (event) => {
      const box = root.getBoundingClientRect();
      this.#at = { x: event.clientX - box.left, y: event.clientY - box.top };
      this.#place();
    });
  }

  get open() {
    return this.#glass !== null;
  }

  /** Holds the glass over the picture. */
  show() {
    this.hide();
    const copy = /** @type {HTMLElement} */ (this.#sheet.cloneNode(true));
    copy.removeAttribute("id");
    const canvas = this.#sheet.querySelector("canvas");
    const copied = copy.querySelector("canvas");
    if (canvas) copied?.getContext("2d")?.drawImage(canvas, 0, 0); // a cloned canvas is empty
    this.#glass = make("div", { class: "loupe", "aria-hidden": "true", "--side": `${SIDE}px` }, copy);
    this.#root.append(this.#glass);
    this.#place();
  }

  hide() {
    this.#glass?.remove();
    this.#glass = null;
  }

  #place() {
    const glass = this.#glass;
    const copy = glass?.firstElementChild;
    if (!glass || !(copy instanceof HTMLElement)) return;
    const { x, y } = this.#at ?? { x: this.#root.clientWidth / 2, y: this.#root.clientHeight / 2 };
    glass.style.transform = `translate(${x - SIDE / 2}px, ${y - SIDE / 2}px)`;
    const box = this.#root.getBoundingClientRect();
    const sheet = this.#sheet.getBoundingClientRect();
    const from = { x: (x - (sheet.left - box.left)) * POWER, y: (y - (sheet.top - box.top)) * POWER };
    copy.style.width = `${sheet.width * POWER}px`;
    copy.style.height = `${sheet.height * POWER}px`;
    copy.style.transform = `translate(${SIDE / 2 - from.x}px, ${SIDE / 2 - from.y}px)`;
    copy.classList.add("pixelated");
  }
}
