/** Where one candidate is shown, on a background that never depends on the theme. */

import { Pan } from "./pan.js";

export const BACKGROUNDS = ["checker", "black", "white", "grey", "colour"];
export const VIEWS = ["picture", "alpha", "faint"];
export const ZOOMS = ["fit", "1", "2", "4", "8"];
const MARGIN = 24;
const REMEMBERED = "layerloop.background";

export class Stage extends EventTarget {
  /** When the candidate was painted, on the clock of events; null while nothing can be judged. @type {number | null} */
  visibleSince = null;
  #root;
  #sheet;
  #pan;
  #natural = { width: 1, height: 1 };

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
    const remembered = localStorage.getItem(REMEMBERED) ?? "";
    root.dataset["background"] = BACKGROUNDS.includes(remembered) ? remembered : "checker";
    Object.assign(root.dataset, { view: "picture", zoom: "fit", layer: "foreground" });
    new ResizeObserver(() => this.#place()).observe(root);
  }

  /** Background, view, zoom or layer, as they are now. @param {"background" | "view" | "zoom" | "layer"} name */
  get(name) {
    return this.#root.dataset[name] ?? "";
  }

  /** @param {"background" | "view" | "zoom" | "layer"} name @param {string} value */
  set(name, value) {
    this.#root.dataset[name] = value;
    if (name === "background") localStorage.setItem(REMEMBERED, value);
    if (name === "zoom" && value === "fit") this.#pan.centre();
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
    this.#sheet.replaceChildren(...images);
    Object.assign(this.#root.dataset, { candidate: held.card.id, view: "picture" });
    this.#root.dataset["layer"] = held.images.has("blended") ? "blended" : "foreground";
    this.#root.setAttribute("aria-label", `Candidate: ${held.card.prompt}`);
    this.#pan.centre();
    this.#place();
    this.visibleSince = null;
    // Painted at the end of the frame that runs this callback: only a key pressed after that can mean this candidate.
    requestAnimationFrame(() => {
      if (this.#root.dataset["candidate"] === held.card.id) this.visibleSince = performance.now();
    });
    this.dispatchEvent(new Event("change"));
  }

  /** Shows nothing. */
  clear() {
    this.visibleSince = null;
    delete this.#root.dataset["candidate"];
    this.#root.setAttribute("aria-label", "No candidate");
    this.#sheet.replaceChildren();
  }

  /** Screen pixels per pixel of the layer; whole numbers above one, so that every pixel is equally large. */
  #scale() {
    const chosen = Number(this.get("zoom"));
    if (chosen) return chosen;
    const { clientWidth, clientHeight } = this.#root;
    const fit = Math.min((clientWidth - MARGIN) / this.#natural.width, (clientHeight - MARGIN) / this.#natural.height);
    return fit >= 2 ? Math.floor(fit) : Math.max(fit, 0.01);
  }

  #place() {
    const scale = this.#scale();
    const { width, height } = this.#natural;
    this.#sheet.style.width = `${width * scale}px`;
    this.#sheet.style.height = `${height * scale}px`;
    this.#sheet.style.transform = `translate(-50%, -50%) translate(${this.#pan.x}px, ${this.#pan.y}px)`;
    this.#sheet.classList.toggle("pixelated", scale >= 1.5);
  }
}
