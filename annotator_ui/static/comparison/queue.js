/** The claimed items of this page: the first is on display, the next ones are loaded ahead. */

import { layerImage } from "../lib/layer_image.js";
import { sendOnLeaving } from "../lib/http.js";

/**
 * @typedef {object} QueuedComparison
 * @property {ComparisonItem} item
 * @property {Map<LayerRole, HTMLImageElement>} left
 * @property {Map<LayerRole, HTMLImageElement>} right
 * @property {"decoding" | "ready"} state
 */

/** Number of items to hold, and number below which more are claimed. */
const TARGET = 6;
const LOW = 4;
/** Largest number of held items that the server takes. */
const MAX_HELD = 16;
const RETRY_MS = 2_000;

export class ComparisonQueue extends EventTarget {
  /** @type {QueuedComparison[]} */
  items = [];
  /** Whether the latest response had fewer items than were requested. */
  exhausted = false;
  /** Returns the ids of items with a vote that is not sent yet. @type {() => string[]} */
  pendingIds = () => [];
  #post;
  #number;
  #refilling = false;
  /** Number of votes and undos so far, by which an outdated count of the server is recognized. */
  #changes = 0;
  /** Items that the response under way may still name although they have a vote. */
  #voted = new Set();

  /**
   * @param {(path: string, body: unknown) => Promise<any>} post
   * @param {number | null} number claim only items of this comparison; null for every one
   */
  constructor(post, number) {
    super();
    this.#post = post;
    this.#number = number;
  }

  /** The first item, or null if the queue is empty. */
  get head() {
    return this.items[0] ?? null;
  }

  /** Remove the first item, because it has a vote. */
  advance() {
    this.#changes += 1;
    this.#voted.add(this.items.shift()?.item.id);
    this.#notify();
    if (this.items.length < LOW) this.refill();
  }

  /** Put an item back at the front, because its vote was undone. @param {ComparisonItem} item */
  putBack(item) {
    this.#changes += 1;
    this.#voted.delete(item.id);
    this.items = [this.#load(item), ...this.items.filter((other) => other.item.id !== item.id)];
    this.#notify();
  }

  /** Remove an item that cannot be voted on. @param {string} id */
  remove(id) {
    this.items = this.items.filter(({ item }) => item.id !== id);
    this.#notify();
  }

  /** Claim more items, and renew the leases of those that the page holds. */
  async refill() {
    if (this.#refilling) return;
    this.#refilling = true;
    try {
      const count = Math.max(TARGET - this.items.length, 0);
      const pending = this.pendingIds();
      const changes = this.#changes;
      this.#voted = new Set(pending);
      const holding = [...this.items.map(({ item }) => item.id), ...pending].slice(0, MAX_HELD);
      const body = { comparison: this.#number, count, holding };
      /** @type {ComparisonClaims} */
      const { items, progress } = await this.#post("/api/comparison/claims", body);
      const known = new Set(this.items.map(({ item }) => item.id));
      const claimed = items.filter(({ id }) => !known.has(id) && !this.#voted.has(id));
      this.items.push(...claimed.map((item) => this.#load(item)));
      this.exhausted = items.length < count;
      // Counts from before a vote of this page would be shown as those after it.
      if (!pending.length && changes === this.#changes) {
        this.dispatchEvent(new CustomEvent("progress", { detail: progress }));
      }
      this.#notify();
    } catch (error) {
      this.dispatchEvent(new CustomEvent("error", { detail: error }));
    } finally {
      this.#refilling = false;
    }
  }

  /** Release the items because the page is being closed. */
  leave() {
    const items = this.items.map(({ item }) => item.id);
    if (items.length) sendOnLeaving("/api/comparison/release", { items });
  }

  /**
   * Start loading the images of an item.
   * @param {ComparisonItem} item
   * @returns {QueuedComparison}
   */
  #load(item) {
    /** @type {QueuedComparison} */
    const held = {
      item,
      left: loadSide(item.left),
      right: loadSide(item.right),
      state: "decoding",
    };
    const images = [...held.left.values(), ...held.right.values()];
    Promise.all(images.map((image) => image.decode())).then(
      () => {
        held.state = "ready";
        this.#notify();
      },
      // Its URLs may have expired: claim it again.
      () => setTimeout(() => this.#drop(held), RETRY_MS),
    );
    return held;
  }

  /** @param {QueuedComparison} held */
  #drop(held) {
    this.items = this.items.filter((other) => other !== held);
    this.#notify();
    this.refill();
  }

  #notify() {
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * @param {Partial<Record<LayerRole, LayerImage>>} layers
 * @returns {Map<LayerRole, HTMLImageElement>}
 */
function loadSide(layers) {
  const images = new Map();
  for (const role of /** @type {const} */ (["background", "foreground", "blended"])) {
    const layer = layers[role];
    if (!layer) continue;
    const image = layerImage({ "data-role": role });
    image.decoding = "sync"; // paint in the frame of the key press, not one frame later
    image.src = layer.url;
    images.set(role, image);
  }
  return images;
}
