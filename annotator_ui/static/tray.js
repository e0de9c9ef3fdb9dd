/** The candidates this page holds: the first is shown, the next ones are fetched and decoded before they are needed. */

import { Unreachable } from "./request.js";

/**
 * @typedef {object} Held
 * @property {Card} card
 * @property {Map<LayerRole, HTMLImageElement>} images decoded when `state` is "ready"
 * @property {"decoding" | "ready" | "broken"} state
 */

export const AHEAD = 12;
const REFILL_BELOW = 10;
const DECODE_TRIES = 3;
/** The most ids the server takes at once. */
const MOST_HOLDING = 64;

export class Tray extends EventTarget {
  /** @type {Held[]} */
  held = [];
  /** Whether the server had less to give than was asked for, the last time. */
  dry = false;
  #filling = false;
  /** Taken or put back since the server was last asked: of these its answer may be older than what the page knows. */
  #touched = new Set();
  #turn = 0;
  #post;
  #inOutbox;
  #round;
  /** @type {Map<string, number>} */
  #tries = new Map();

  /**
   * @param {(path: string, body: unknown) => Promise<any>} post
   * @param {() => string[]} inOutbox the candidates with a decision on its way
   * @param {number | null} round only candidates of this round; null for all
   */
  constructor(post, inOutbox, round) {
    super();
    this.#post = post;
    this.#inOutbox = inOutbox;
    this.#round = round;
  }

  /** The candidate to be shown, if any. */
  get head() {
    return this.held[0] ?? null;
  }

  /** The address of a background of another pair that is held, each time the next one; null where there is none. */
  elsewhere() {
    const addresses = this.held.slice(1).flatMap((held) => held.card.layers.background?.url ?? []);
    this.#turn += 1;
    return addresses[this.#turn % addresses.length] ?? null;
  }

  /** Takes the first candidate out, because it is decided. */
  take() {
    const first = this.held.shift() ?? null;
    if (first) this.#touched.add(first.card.id);
    if (this.held.length < REFILL_BELOW) queueMicrotask(() => this.fill());
    return first;
  }

  /** Puts a candidate in front, because its decision was undone. @param {Held} held */
  putBack(held) {
    this.#touched.add(held.card.id);
    this.held = [held, ...this.held.filter((other) => other.card.id !== held.card.id)];
    this.#changed();
  }

  /** Puts a candidate in front that the server handed back. @param {Card} card */
  putBackCard(card) {
    this.putBack(this.#hold(card));
  }

  /** Lets a candidate go, because it is somebody else's now. @param {string} id */
  drop(id) {
    this.held = this.held.filter((held) => held.card.id !== id);
    this.#changed();
  }

  /** Asks for candidates, and keeps the lease on those held; @param {boolean} [renew] even when none are missing. */
  async fill(renew = false) {
    const missing = AHEAD - this.held.length;
    if (this.#filling || (missing <= AHEAD - REFILL_BELOW && !renew)) return;
    this.#filling = true;
    this.#touched.clear();
    try {
      const holding = new Set([...this.held.map((held) => held.card.id), ...this.#inOutbox().toReversed()]);
      const body = { round: this.#round, count: Math.max(missing, 0), holding: [...holding].slice(0, MOST_HOLDING) };
      const answer = /** @type {TrayAnswer} */ (await this.#post("/api/review/tray", body));
      for (const id of answer.lost) if (!this.#touched.has(id)) this.drop(id);
      const known = new Set([...this.held.map((held) => held.card.id), ...this.#inOutbox(), ...this.#touched]);
      const fresh = answer.candidates.filter((card) => !known.has(card.id));
      this.held.push(...fresh.map((card) => this.#hold(card)));
      this.dry = fresh.length < missing;
      this.dispatchEvent(new CustomEvent("progress", { detail: answer.progress }));
      this.#changed();
    } catch (error) {
      this.dispatchEvent(new CustomEvent("trouble", { detail: error }));
    } finally {
      this.#filling = false;
    }
  }

  /** @param {Card} card @returns {Held} */
  #hold(card) {
    const images = new Map();
    for (const role of /** @type {const} */ (["background", "foreground", "blended"])) {
      const layer = card.layers[role];
      if (layer) images.set(role, loadImage(role, layer));
    }
    /** @type {Held} */
    const held = { card, images, state: "decoding" };
    this.#decode(held);
    return held;
  }

  /** @param {Held} held */
  async #decode(held) {
    try {
      await Promise.all([...held.images.values()].map((image) => image.decode()));
      if (!held.images.size) throw new Unreachable("the candidate has no layers");
      held.state = "ready";
    } catch {
      // Let go of it: the server hands it back with fresh addresses, until trying again has become pointless.
      const tries = (this.#tries.get(held.card.id) ?? 0) + 1;
      this.#tries.set(held.card.id, tries);
      if (tries >= DECODE_TRIES) held.state = "broken";
      else setTimeout(() => (this.drop(held.card.id), this.fill(true)), 500 * tries);
    }
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** @param {LayerRole} role @param {LayerAddress} layer */
function loadImage(role, layer) {
  const image = new Image();
  image.dataset["role"] = role;
  image.alt = "";
  image.draggable = false;
  image.decoding = "sync"; // shown in the frame of the key, not one later
  image.src = layer.url;
  return image;
}
