/** Comparison with the nearest accepted sample: in place of the candidate, or as an overlay. */

import { byId } from "../lib/dom.js";
import { pluralize } from "../lib/format.js";
import { layerImage } from "../lib/layer_image.js";

const CACHE_SIZE = 32;

export class Comparison {
  #viewer;
  #current;
  #read;
  /** Responses by candidate id. @type {Map<string, Promise<SimilarSample | null>>} */
  #cache = new Map();
  /** Whether the previous candidate was compared; if so, the next sample is prefetched. */
  #recentlyUsed = false;

  /**
   * @param {import("./viewer.js").Viewer} viewer
   * @param {() => ReviewItem | null} current
   * @param {(path: string) => Promise<any>} read
   */
  constructor(viewer, current, read) {
    this.#viewer = viewer;
    this.#current = current;
    this.#read = read;
    let previous = "";
    viewer.addEventListener("change", () => {
      const card = current();
      byId("nearest").hidden = viewer.get("comparison") === "";
      if (!card || card.id === previous) return;
      previous = card.id;
      if (this.#recentlyUsed) this.#find(card);
      this.#recentlyUsed = false;
    });
  }

  /**
   * Show the sample instead of the candidate ("swap"), over it ("overlay"), or not at all ("").
   * @param {"" | "swap" | "overlay"} mode
   */
  async show(mode) {
    const card = this.#current();
    if (!card) return;
    this.#recentlyUsed = true;
    this.#viewer.set("comparison", mode);
    if (!mode) return;
    byId("nearest").textContent = "Finding the nearest accepted sample…";
    const sample = await this.#find(card).catch(() => undefined);
    if (this.#current()?.id !== card.id) return; // the candidate was decided in the meantime
    byId("nearest").textContent = describe(sample);
    const layer = sample?.layers.blended ?? sample?.layers.foreground;
    if (!layer) return;
    const image = layerImage({ src: layer.url, "data-role": "nearest" });
    await image.decode().catch(() => null);
    if (this.#current()?.id === card.id) this.#viewer.addImage(image);
  }

  /**
   * @param {ReviewItem} card
   * @returns {Promise<SimilarSample | null>}
   */
  #find(card) {
    const path = `/api/review/nearest?candidate=${card.id}`;
    const response = this.#cache.get(card.id) ?? this.#read(path);
    response.catch(() => this.#cache.delete(card.id));
    this.#cache.set(card.id, response);
    for (const id of [...this.#cache.keys()].slice(0, -CACHE_SIZE)) this.#cache.delete(id);
    return response;
  }
}

/** @param {SimilarSample | null | undefined} sample undefined after an error */
function describe(sample) {
  if (sample === undefined) return "The nearest accepted sample is not available.";
  if (sample === null) return "No accepted samples yet.";
  if (sample.bits === null) return `Latest accepted sample: ${sample.caption}`;
  const distance = `${pluralize(sample.bits, "bit")} of 192 apart`;
  return `Nearest accepted sample (${distance}): ${sample.caption}`;
}
