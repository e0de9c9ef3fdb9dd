/**
 * The viewer: shows one candidate on a background that is independent of the theme. The layers of
 * a pair are shown stacked or side by side.
 */

import { el } from "../lib/dom.js";
import { PanZoom } from "./pan_zoom.js";

export const VIEWS = ["image", "alpha", "faint", "edges"];
export const ZOOMS = ["fit", "1", "2", "4", "8"];
const MARGIN = 24;
/** Screen pixels between separate layers, and for the label of each. */
const GAP = 20;
const LABEL_HEIGHT = 28;
/** Layers in display order: the two inputs, then their blend. */
const SEPARATE_LAYERS = /** @type {const} */ (["foreground", "background", "blended"]);

/** Settings that linked viewers share. */
const LINKED_SETTINGS = /** @type {const} */ (["view", "zoom", "layer", "separate"]);

/** @typedef {"view" | "zoom" | "layer" | "separate" | "comparison"} Setting */

/**
 * @typedef {object} Shown a candidate, or one side of a comparison
 * @property {{id: string, prompt: string}} card
 * @property {Map<LayerRole, HTMLImageElement>} images
 */

export class Viewer extends EventTarget {
  /**
   * Time at which the candidate was painted, on the clock of events; null if none is visible.
   * @type {number | null}
   */
  visibleSince = null;
  #root;
  #stack;
  #panZoom;
  #imageSize = { width: 1, height: 1 };
  /** Size of the viewer, cached because reading it during a key event would force a layout. */
  #viewerSize = { width: 0, height: 0 };

  /**
   * @param {HTMLElement} root
   * @param {HTMLElement} stack element that holds the layers
   */
  constructor(root, stack) {
    super();
    this.#root = root;
    this.#stack = stack;
    this.#panZoom = new PanZoom(
      root,
      () => this.#scale(),
      (zoom) => this.set("zoom", String(zoom)),
      () => {
        this.#layOut();
        this.dispatchEvent(new Event("move"));
      },
    );
    Object.assign(root.dataset, {
      view: "image",
      zoom: "fit",
      layer: "foreground",
      separate: "",
      arrangement: "",
      comparison: "",
    });
    new ResizeObserver(() => {
      this.#viewerSize = { width: root.clientWidth, height: root.clientHeight };
      this.#layOut();
    }).observe(root);
  }

  /** Return the current value of a view setting. @param {Setting} name */
  get(name) {
    return this.#root.dataset[name] ?? "";
  }

  /**
   * Change a view setting.
   * @param {Setting} name
   * @param {string} value
   */
  set(name, value) {
    this.#root.dataset[name] = value;
    if (name === "separate") this.#root.dataset["zoom"] = "fit";
    if (this.get("zoom") === "fit") this.#panZoom.center();
    this.#layOut();
    this.dispatchEvent(new Event("change"));
  }

  /** Position of the images relative to the center, in screen pixels. */
  get position() {
    return { x: this.#panZoom.x, y: this.#panZoom.y };
  }

  /** Take over the view settings and the position of another viewer. @param {Viewer} other */
  follow(other) {
    for (const name of LINKED_SETTINGS) this.#root.dataset[name] = other.get(name);
    Object.assign(this.#panZoom, other.position);
    this.#layOut();
  }

  /**
   * Show the decoded images of a candidate in this frame. View and layer are reset; background and
   * zoom stay as selected.
   * @param {Shown} held
   */
  show(held) {
    const images = [...held.images.values()];
    const main = held.images.get("foreground") ?? images[0];
    this.#imageSize = { width: main?.naturalWidth || 1, height: main?.naturalHeight || 1 };
    const labeled = SEPARATE_LAYERS.filter((role) => images.length > 1 && held.images.has(role));
    this.#stack.replaceChildren(
      ...images,
      ...labeled.map((role) =>
        el("span", { class: "layer-label", "data-of": role }, el("b", {}, role)),
      ),
    );
    Object.assign(this.#root.dataset, {
      candidate: held.card.id,
      layers: String(images.length),
      layer: held.images.has("blended") ? "blended" : "foreground",
      view: "image",
      comparison: "",
    });
    this.#stack.setAttribute("aria-label", `Candidate: ${held.card.prompt}`);
    this.#panZoom.center();
    this.#layOut();

    // The frame that runs this callback paints the candidate; only later keys can refer to it.
    this.visibleSince = null;
    requestAnimationFrame(() => {
      if (this.#root.dataset["candidate"] === held.card.id) this.visibleSince = performance.now();
    });
    this.dispatchEvent(new Event("change"));
  }

  /**
   * Add an extra image below the layers, replacing the previous one of the same role: another
   * background ("other"), or the nearest accepted sample ("nearest").
   * @param {Element} image
   */
  addImage(image) {
    const { role = "" } = /** @type {HTMLElement} */ (image).dataset;
    this.#stack.querySelector(`[data-role="${role}"]`)?.remove();
    this.#stack.prepend(image);
  }

  /**
   * Return the image of a layer of the candidate on display.
   * @param {string} role
   * @returns {HTMLImageElement | null}
   */
  image(role) {
    return this.#stack.querySelector(`img[data-role="${role}"]`);
  }

  /** Zoom around the center. @param {number} factor */
  zoomBy(factor) {
    this.#panZoom.zoomBy(factor);
  }

  /**
   * Pan by screen pixels.
   * @param {number} x
   * @param {number} y
   */
  moveBy(x, y) {
    this.#panZoom.moveBy(x, y);
  }

  /** Remove the candidate. */
  clear() {
    this.visibleSince = null;
    delete this.#root.dataset["candidate"];
    this.#stack.setAttribute("aria-label", "No candidate");
    this.#stack.replaceChildren();
  }

  /** Return screen pixels per image pixel; an integer above 2, so that all pixels are equal. */
  #scale() {
    const zoom = Number(this.get("zoom"));
    if (zoom) return zoom;
    const fit = this.#isSeparate()
      ? Math.max(this.#fitScale(3, 1), this.#fitScale(1, 3))
      : this.#fitScale(1, 1);
    return fit >= 2 ? Math.floor(fit) : Math.max(fit, 0.01);
  }

  /**
   * Return the scale at which a grid of images fits into the viewer.
   * @param {number} columns
   * @param {number} rows
   */
  #fitScale(columns, rows) {
    // Reserve label space on both sides, since the middle image stays centered.
    const labels = this.#isSeparate() ? 2 * LABEL_HEIGHT : 0;
    const width = this.#viewerSize.width - MARGIN - (columns - 1) * GAP;
    const height = this.#viewerSize.height - MARGIN - (rows - 1) * (GAP + LABEL_HEIGHT) - labels;
    return Math.min(
      width / columns / this.#imageSize.width,
      height / rows / this.#imageSize.height,
    );
  }

  #isSeparate() {
    const pair = this.#root.dataset["layers"] === "3";
    return this.get("separate") !== "" && pair && this.get("view") !== "edges";
  }

  /** Apply size, position and arrangement to the layers. */
  #layOut() {
    const scale = this.#scale();
    const { width, height } = this.#imageSize;
    const { x, y } = this.#panZoom;
    this.#stack.style.width = `${width * scale}px`;
    this.#stack.style.height = `${height * scale}px`;
    this.#stack.style.transform = `translate(-50%, -50%) translate(${x}px, ${y}px)`;
    this.#stack.classList.toggle("pixelated", scale >= 1.5);
    const arrangement = this.#fitScale(3, 1) >= this.#fitScale(1, 3) ? "row" : "column";
    this.#root.dataset["arrangement"] = this.#isSeparate() ? arrangement : "";
  }
}
