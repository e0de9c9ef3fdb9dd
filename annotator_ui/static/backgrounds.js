/** What lies behind pictures, the same in every theme: two people must see the same pixels. Chosen once, for all views. */

import { keepPhoto, readPhoto } from "./photo.js";
import { drawScene } from "./scene.js";

export const PLAIN = ["checker", "black", "white", "grey", "colour"];
export const BACKGROUNDS = [...PLAIN, "scene", "photo"];
const REMEMBERED = "layerloop.background";
const REMEMBERED_COLOUR = "layerloop.colour";
const FIRST_COLOUR = "#ff00ff";

export class Backgrounds extends EventTarget {
  name = "checker";
  colour = FIRST_COLOUR;
  /** The reviewer's own photograph; it never leaves this browser. @type {ImageBitmap | null} */
  photo = null;

  constructor() {
    super();
    const colour = localStorage.getItem(REMEMBERED_COLOUR) ?? "";
    if (/^#[0-9a-f]{6}$/.test(colour)) this.colour = colour;
    const name = localStorage.getItem(REMEMBERED) ?? "";
    if (BACKGROUNDS.includes(name)) this.name = name === "photo" ? "checker" : name;
    readPhoto().then((photo) => {
      this.photo = photo;
      if (photo && name === "photo" && this.name === "checker") this.choose("photo");
    });
  }

  /** Those that can be chosen: without a photograph, all others. */
  get all() {
    return BACKGROUNDS.filter((name) => name !== "photo" || this.photo);
  }

  /** @param {string} name */
  choose(name) {
    if (!this.all.includes(name)) return;
    this.name = name;
    localStorage.setItem(REMEMBERED, name);
    this.dispatchEvent(new Event("change"));
  }

  /** @param {number} step */
  turn(step) {
    const { all } = this;
    this.choose(/** @type {string} */ (all.at((all.indexOf(this.name) + step) % all.length)));
  }

  /** Any colour, remembered. @param {string} colour "#rrggbb" */
  mix(colour) {
    this.colour = colour;
    localStorage.setItem(REMEMBERED_COLOUR, colour);
    this.choose("colour");
  }

  /** Takes a photograph from a file, into this browser alone. @param {File} file */
  async take(file) {
    this.photo = await keepPhoto(file);
    this.choose("photo");
  }

  /**
   * Keeps this background behind what an element shows.
   * @param {HTMLElement} root
   */
  lieBehind(root) {
    const canvas = document.createElement("canvas");
    canvas.className = "behind";
    root.prepend(canvas);
    const paint = () => {
      root.dataset["background"] = this.name;
      root.style.setProperty("--own-colour", this.colour);
      const drawn = this.name === "scene" || this.name === "photo";
      canvas.hidden = !drawn;
      if (drawn && root.clientWidth) this.#paint(canvas, root.clientWidth, root.clientHeight);
    };
    this.addEventListener("change", paint);
    new ResizeObserver(paint).observe(root);
    paint();
  }

  /** @param {HTMLCanvasElement} canvas @param {number} width @param {number} height */
  #paint(canvas, width, height) {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    if (!context) return;
    if (this.name === "scene" || !this.photo) return drawScene(context, width, height);
    const scale = Math.max(width / this.photo.width, height / this.photo.height);
    const [across, down] = [this.photo.width * scale, this.photo.height * scale];
    context.imageSmoothingQuality = "high";
    context.drawImage(this.photo, (width - across) / 2, (height - down) / 2, across, down);
  }
}
