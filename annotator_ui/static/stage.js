/** Where one candidate is shown, on a background that never depends on the theme; a pair's layers as one, or apart. */

import { make } from "./elements.js";
import { Pan } from "./pan.js";

export const VIEWS = ["picture", "alpha", "faint", "edges"];
export const ZOOMS = ["fit", "1", "2", "4", "8"];
const MARGIN = 24;
/** Between layers that are moved apart, and beside each for its name: screen pixels. */
const GAP = 20;
const NAMED = 28;
/** From left to right, or from above: the two that are blended, then their blend. */
const APART = /** @type {const} */ (["foreground", "background", "blended"]);

/** @typedef {"view" | "zoom" | "layer" | "apart" | "beside"} Way */

export class Stage extends EventTarget {
  /** When the candidate was painted, on the clock of events; null while nothing can be judged. @type {number | null} */
  visibleSince = null;
  #root;
  #sheet;
  #pan;
  #natural = { width: 1, height: 1 };
  /** As it was measured last: asking for it while a key is handled would lay the page out twice. */
  #room = { width: 0, height: 0 };

  /** @param {HTMLElement} root @param {HTMLElement} sheet */
  constructor(root, sheet) {
    super();
    this.#root = root;
    this.#sheet = sheet;
    this.#pan = new Pan(
      root,
      () => this.#scale(),
      (zoom) => this.set("zoom", String(zoom)),
      () => this.#place(),
    );
    Object.assign(root.dataset, { view: "picture", zoom: "fit", layer: "foreground", apart: "", way: "", beside: "" });
    new ResizeObserver(() => {
      this.#room = { width: root.clientWidth, height: root.clientHeight };
      this.#place();
    }).observe(root);
  }

  /** How it is looked at now. @param {Way} name */
  get(name) {
    return this.#root.dataset[name] ?? "";
  }

  /** @param {Way} name @param {string} value */
  set(name, value) {
    this.#root.dataset[name] = value;
    if (name === "apart") this.#root.dataset["zoom"] = "fit";
    if (this.get("zoom") === "fit") this.#pan.centre();
    this.#place();
    this.dispatchEvent(new Event("change"));
  }

  /**
   * Shows decoded images in this frame, as the picture and in the middle; background and zoom stay as chosen.
   * @param {import("./tray.js").Held} held
   */
  show(held) {
    const images = [...held.images.values()];
    const main = held.images.get("foreground") ?? images[0];
    this.#natural = { width: main?.naturalWidth || 1, height: main?.naturalHeight || 1 };
    const named = APART.filter((role) => images.length > 1 && held.images.has(role));
    this.#sheet.replaceChildren(
      ...images,
      ...named.map((role) => make("span", { class: "named", "data-of": role }, make("b", {}, role))),
    );
    this.#root.dataset["layers"] = String(images.length);
    Object.assign(this.#root.dataset, { candidate: held.card.id, view: "picture", beside: "" });
    this.#root.dataset["layer"] = held.images.has("blended") ? "blended" : "foreground";
    this.#sheet.setAttribute("aria-label", `Candidate: ${held.card.prompt}`);
    this.#pan.centre();
    this.#place();
    this.visibleSince = null;
    // Painted at the end of the frame that runs this callback: only a key pressed after that can mean this candidate.
    requestAnimationFrame(() => {
      if (this.#root.dataset["candidate"] === held.card.id) this.visibleSince = performance.now();
    });
    this.dispatchEvent(new Event("change"));
  }

  /** Lays a picture under the layers: another background ("other"), or the sample to compare with ("nearest"). @param {Element} picture */
  lay(picture) {
    const { role = "" } = /** @type {HTMLElement} */ (picture).dataset;
    this.#sheet.querySelector(`[data-role="${role}"]`)?.remove();
    this.#sheet.prepend(picture);
  }

  /** The picture of a layer of the candidate that is shown. @param {string} role @returns {HTMLImageElement | null} */
  picture(role) {
    return this.#sheet.querySelector(`img[data-role="${role}"]`);
  }

  /** Zooms around the middle. @param {number} factor */
  zoomBy(factor) {
    this.#pan.zoomBy(factor);
  }

  /** Moves the picture, in screen pixels. @param {number} x @param {number} y */
  moveBy(x, y) {
    this.#pan.moveBy(x, y);
  }

  /** Shows nothing. */
  clear() {
    this.visibleSince = null;
    delete this.#root.dataset["candidate"];
    this.#sheet.setAttribute("aria-label", "No candidate");
    this.#sheet.replaceChildren();
  }

  /** Screen pixels per pixel of the layer; whole numbers above one, so that every pixel is equally large. */
  #scale() {
    const chosen = Number(this.get("zoom"));
    if (chosen) return chosen;
    const fit = this.#isApart() ? Math.max(this.#fit(3, 1), this.#fit(1, 3)) : this.#fit(1, 1);
    return fit >= 2 ? Math.floor(fit) : Math.max(fit, 0.01);
  }

  /** The scale at which so many pictures fit beside and below each other. @param {number} across @param {number} down */
  #fit(across, down) {
    const named = this.#isApart() ? 2 * NAMED : 0; // on both sides, since the middle picture stays in the middle
    const width = this.#room.width - MARGIN - (across - 1) * GAP;
    const height = this.#room.height - MARGIN - (down - 1) * (GAP + NAMED) - named;
    return Math.min(width / across / this.#natural.width, height / down / this.#natural.height);
  }

  #isApart() {
    return this.get("apart") !== "" && this.#root.dataset["layers"] === "3" && this.get("view") !== "edges";
  }

  #place() {
    const scale = this.#scale();
    const { width, height } = this.#natural;
    this.#sheet.style.width = `${width * scale}px`;
    this.#sheet.style.height = `${height * scale}px`;
    this.#sheet.style.transform = `translate(-50%, -50%) translate(${this.#pan.x}px, ${this.#pan.y}px)`;
    this.#sheet.classList.toggle("pixelated", scale >= 1.5);
    const way = this.#fit(3, 1) >= this.#fit(1, 3) ? "across" : "down";
    this.#root.dataset["way"] = this.#isApart() ? way : "";
  }
}
