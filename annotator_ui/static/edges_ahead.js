/** The edges of the few pictures that are looked at now or next, found by a worker before anybody asks for them. */

import { make } from "./elements.js";

/** @typedef {{canvas: HTMLCanvasElement, share: number, gap: number | null}} Found */

export class EdgesAhead extends EventTarget {
  /** The addresses of pictures, the most urgent first. @type {string[]} */
  #wanted = [];
  /** Of what is wanted and no more, so that nothing grows; null is what cannot be had. @type {Map<string, Found | null>} */
  #known = new Map();
  #busy = false;
  /** @type {Worker | null} */
  #worker = null;

  /** What is known of a picture: undefined while it is looked for, null where it cannot be had. @param {string} address */
  of(address) {
    return this.#known.get(address);
  }

  /** Finds the edges of these pictures, one after the other, and forgets all others. @param {string[]} addresses */
  want(addresses) {
    this.#wanted = addresses;
    for (const known of [...this.#known.keys()]) if (!addresses.includes(known)) this.#known.delete(known);
    this.#next();
  }

  async #next() {
    const address = this.#wanted.find((one) => !this.#known.has(one));
    if (this.#busy || address === undefined) return;
    this.#busy = true;
    const found = await this.#find(address);
    this.#busy = false;
    if (this.#wanted.includes(address)) this.#known.set(address, found);
    this.dispatchEvent(new Event("found"));
    this.#next();
  }

  /** @param {string} address @returns {Promise<Found | null>} */
  async #find(address) {
    const worker = (this.#worker ??= openWorker());
    /** @type {import("./edge_worker.js").Answer | null} */
    const answer = await new Promise((resolve) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = () => {
        this.#worker = null; // it may not have started for want of a connection: another one is tried next time
        resolve(null);
      };
      worker.postMessage(address);
    });
    if (!answer) return null;
    const { bitmap, share, gap } = answer;
    const canvas = make("canvas", { "data-role": "edges", width: bitmap.width, height: bitmap.height });
    canvas.getContext("bitmaprenderer")?.transferFromImageBitmap(bitmap);
    return { canvas, share, gap };
  }
}

const ADDRESS = new URL("./edge_worker.js", import.meta.url).href;
const { trustedTypes } = /** @type {any} */ (globalThis);
/** The only text that the pages' policy (annotator_ui/app.py) lets become code: whatever it is asked for, it is this one. */
const POLICY = trustedTypes?.createPolicy("edge-worker", { createScriptURL: () => ADDRESS });

function openWorker() {
  return new Worker(POLICY?.createScriptURL("") ?? ADDRESS, { type: "module" });
}
