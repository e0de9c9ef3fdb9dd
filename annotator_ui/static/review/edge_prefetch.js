/** Prefetches edge maps: a worker computes them for the current and the next image in advance. */

import { el } from "../lib/dom.js";

/** @typedef {{canvas: HTMLCanvasElement, share: number, difference: number | null}} EdgeMap */

export class EdgePrefetch extends EventTarget {
  /** URLs of the requested images, the most urgent first. @type {string[]} */
  #requested = [];
  /**
   * Results of the requested images only, so that the cache stays small; null after an error.
   * @type {Map<string, EdgeMap | null>}
   */
  #results = new Map();
  #busy = false;
  /** @type {Worker | null} */
  #worker = null;

  /**
   * Return the edge map of an image: undefined while it is computed, null after an error.
   * @param {string} url
   */
  get(url) {
    return this.#results.get(url);
  }

  /** Compute the edge maps of these images in order; drop all others. @param {string[]} urls */
  request(urls) {
    this.#requested = urls;
    for (const url of [...this.#results.keys()]) {
      if (!urls.includes(url)) this.#results.delete(url);
    }
    this.#computeNext();
  }

  async #computeNext() {
    const url = this.#requested.find((requested) => !this.#results.has(requested));
    if (this.#busy || url === undefined) return;
    this.#busy = true;
    const result = await this.#compute(url);
    this.#busy = false;
    if (this.#requested.includes(url)) this.#results.set(url, result);
    this.dispatchEvent(new Event("result"));
    this.#computeNext();
  }

  /**
   * @param {string} url
   * @returns {Promise<EdgeMap | null>}
   */
  async #compute(url) {
    const worker = (this.#worker ??= createWorker());
    /** @type {import("./edge_worker.js").EdgeResult | null} */
    const result = await new Promise((resolve) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = () => {
        this.#worker = null; // the worker failed to load, so the next request starts a new one
        resolve(null);
      };
      worker.postMessage(url);
    });
    if (!result) return null;
    const { bitmap, share, difference } = result;
    const { width, height } = bitmap;
    const canvas = el("canvas", { "data-role": "edges", width, height });
    canvas.getContext("bitmaprenderer")?.transferFromImageBitmap(bitmap);
    return { canvas, share, difference };
  }
}

const WORKER_URL = new URL("./edge_worker.js", import.meta.url).href;
const { trustedTypes } = /** @type {any} */ (globalThis);
/**
 * The only Trusted Types policy that the Content Security Policy allows (annotator_ui/app.py). It
 * always returns the URL of this worker.
 */
const POLICY = trustedTypes?.createPolicy("edge-worker", { createScriptURL: () => WORKER_URL });

function createWorker() {
  return new Worker(POLICY?.createScriptURL("") ?? WORKER_URL, { type: "module" });
}
