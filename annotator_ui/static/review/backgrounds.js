/**
 * Backgrounds behind transparent images. They are the same in every theme, so that two reviewers
 * see the same pixels, and the selection applies to all views.
 */

import { loadPhoto, savePhoto } from "./background_photo.js";
import { drawScene } from "./background_scene.js";

export const PLAIN_BACKGROUNDS = ["checker", "black", "white", "gray", "color"];
export const BACKGROUNDS = [...PLAIN_BACKGROUNDS, "scene", "photo"];
const NAME_KEY = "layerloop.background";
const COLOR_KEY = "layerloop.color";
const DEFAULT_COLOR = "#ff00ff";

export class Backgrounds extends EventTarget {
  name = "checker";
  color = DEFAULT_COLOR;
  /** The reviewer's photo; it never leaves this browser. @type {ImageBitmap | null} */
  photo = null;

  constructor() {
    super();
    const color = localStorage.getItem(COLOR_KEY) ?? "";
    if (/^#[0-9a-f]{6}$/.test(color)) this.color = color;
    const name = localStorage.getItem(NAME_KEY) ?? "";
    if (BACKGROUNDS.includes(name)) this.name = name === "photo" ? "checker" : name;
    loadPhoto().then((photo) => {
      this.photo = photo;
      if (photo && name === "photo" && this.name === "checker") this.select("photo");
    });
  }

  /** Names of the available backgrounds; "photo" is available once there is a photo. */
  get available() {
    return BACKGROUNDS.filter((name) => name !== "photo" || this.photo);
  }

  /** @param {string} name */
  select(name) {
    if (!this.available.includes(name)) return;
    this.name = name;
    localStorage.setItem(NAME_KEY, name);
    this.dispatchEvent(new Event("change"));
  }

  /** Select the next or previous background. @param {number} step */
  cycle(step) {
    const { available } = this;
    const index = (available.indexOf(this.name) + step) % available.length;
    this.select(/** @type {string} */ (available.at(index)));
  }

  /** Select and save a custom color. @param {string} color "#rrggbb" */
  setColor(color) {
    this.color = color;
    localStorage.setItem(COLOR_KEY, color);
    this.select("color");
  }

  /** Select and save a photo. @param {File} file */
  async setPhoto(file) {
    this.photo = await savePhoto(file);
    this.select("photo");
  }

  /**
   * Show the selected background behind the content of an element.
   * @param {HTMLElement} root
   */
  applyTo(root) {
    const canvas = document.createElement("canvas");
    canvas.className = "backdrop";
    root.prepend(canvas);
    const update = () => {
      root.dataset["background"] = this.name;
      root.style.setProperty("--custom-color", this.color);
      const needsCanvas = this.name === "scene" || this.name === "photo";
      canvas.hidden = !needsCanvas;
      if (needsCanvas && root.clientWidth) {
        this.#paint(canvas, root.clientWidth, root.clientHeight);
      }
    };
    this.addEventListener("change", update);
    new ResizeObserver(update).observe(root);
    update();
  }

  /**
   * Paint the scene, or the photo scaled to cover the canvas.
   * @param {HTMLCanvasElement} canvas
   * @param {number} width
   * @param {number} height
   */
  #paint(canvas, width, height) {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    if (!context) return;
    if (this.name === "scene" || !this.photo) return drawScene(context, width, height);
    const scale = Math.max(width / this.photo.width, height / this.photo.height);
    const [photoWidth, photoHeight] = [this.photo.width * scale, this.photo.height * scale];
    const [left, top] = [(width - photoWidth) / 2, (height - photoHeight) / 2];
    context.imageSmoothingQuality = "high";
    context.drawImage(this.photo, left, top, photoWidth, photoHeight);
  }
}
