/** The candidates this page holds: the first is shown, the next ones are fetched and decoded before they are needed. */

import { afterFrame } from "./after_frame.js";
import { newKey } from "./identity.js";
import { sendOnLeaving, Unreachable } from "./request.js";

/**
 * @typedef {"url" | "small"} Size
 * @typedef {object} Held
 * @property {Card} card
 * @property {Size} size which of the pictures `images` are
 * @property {Map<LayerRole, HTMLImageElement>} images decoded when `state` is "ready"
 * @property {"waiting" | "decoding" | "ready" | "broken"} state
 * @typedef {object} Plan
 * @property {Size} size
 * @property {number} ahead how many candidates are held
 * @property {number} low the server is asked for more below this
 * @property {number} decoded how many of them are decoded ahead; the others are only loaded
 * @property {number} first how many are held until somebody acts on the page
 */

/** One by one: enough for some minutes without a connection, and pictures decoded for a second of the fastest keys. */
export const SINGLE = /** @type {Plan} */ ({ size: "url", ahead: 24, low: 22, decoded: 8, first: 8 });
const DECODE_TRIES = 3;
/** The most candidates the server gives, and ids it takes, at once. */
const MOST_AT_ONCE = 48;
const MOST_HOLDING = 64;
const PAGE = "layerloop.page";

export class Tray extends EventTarget {
  /** @type {Held[]} */
  held = [];
  /** Whether the server had less to give than was asked for, the last time. */
  dry = false;
  /** This page's own id: two pages of one reviewer hold different candidates. */
  page = newKey();
  /** The page before this one in the same tab: what it held, or was given too late to return, is taken over. */
  #previous = sessionStorage.getItem(PAGE);
  #plan = SINGLE;
  #acted = false;
  #released = false;
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
    sessionStorage.setItem(PAGE, this.page);
  }

  /** How many candidates this page should hold, and below which number it asks for more. */
  get #wanted() {
    const { ahead, low, first } = this.#plan;
    return this.#acted ? { ahead, low } : { ahead: Math.min(first, ahead), low: Math.min(first, low) };
  }

  /** Notes that somebody acts on the page: from now on it holds as many as its view needs. */
  wake() {
    if (this.#acted) return;
    this.#acted = true;
    afterFrame(() => this.fill());
  }

  /** Returns what this page holds, because nobody is at it; it is shown still, and asked for again with `fill`. */
  async release() {
    if (this.#released || !this.held.length) return;
    this.#released = true;
    await this.#post("/api/review/release", this.#unused).catch(() => (this.#released = false));
  }

  /** Returns what this page holds, because it is left. */
  leave() {
    if (this.held.length && !this.#released) sendOnLeaving("/api/review/release", this.#unused);
  }

  /** What is held without a decision on its way. */
  get #unused() {
    const onTheirWay = new Set(this.#inOutbox());
    const candidates = this.held.map((held) => held.card.id).filter((id) => !onTheirWay.has(id));
    return { candidates: candidates.slice(0, MOST_HOLDING), page: this.page };
  }

  /** The candidate to be shown, if any. */
  get head() {
    return this.held[0] ?? null;
  }

  /** Holds candidates for another view from now on. @param {Plan} plan @param {string | null} first the candidate to begin with */
  follow(plan, first = null) {
    if (plan.size !== this.#plan.size) this.held = this.held.map((held) => open(held.card, plan.size));
    this.#plan = plan;
    this.held.sort((a, b) => Number(b.card.id === first) - Number(a.card.id === first));
    this.#changed();
    return this.fill();
  }

  /** The address of a background of another pair that is held, each time the next one; null where there is none. */
  elsewhere() {
    const addresses = this.held.slice(1).flatMap((held) => held.card.layers.background?.url ?? []);
    this.#turn += 1;
    return addresses[this.#turn % addresses.length] ?? null;
  }

  /** Takes candidates out, because they are decided. @param {Set<string>} ids */
  take(ids) {
    for (const id of ids) this.#touched.add(id);
    this.held = this.held.filter((held) => !ids.has(held.card.id));
    const advance = () => {
      this.#advance();
      if (this.held.length < this.#wanted.low) this.fill();
    };
    // To decode another picture now would take the processor from the one that is shown next.
    if (this.head?.state === "ready") afterFrame(advance);
    else advance();
  }

  /** Puts candidates in front, because their decisions were undone. @param {{card: Card, held: Held | null}[]} rows */
  putBack(rows) {
    const ids = new Set(rows.map(({ card }) => card.id));
    for (const id of ids) this.#touched.add(id);
    const { size } = this.#plan;
    const back = rows.map(({ card, held }) => (held?.size === size ? held : open(card, size)));
    this.held = [...back, ...this.held.filter((held) => !ids.has(held.card.id))];
    this.#changed();
  }

  /** Lets a candidate go, because it is somebody else's now. @param {string} id */
  drop(id) {
    this.held = this.held.filter((held) => held.card.id !== id);
    this.#changed();
  }

  /** Asks for candidates, and keeps the lease on those held; @param {boolean} [renew] even when none are missing. */
  async fill(renew = false) {
    const { ahead, low } = this.#wanted;
    const missing = ahead - this.held.length;
    if (this.#filling || (this.held.length >= low && !renew)) return;
    this.#filling = true;
    this.#touched.clear();
    try {
      const holding = new Set([...this.held.map((held) => held.card.id), ...this.#inOutbox().toReversed()]);
      const count = Math.min(Math.max(missing, 0), MOST_AT_ONCE, MOST_HOLDING - Math.min(holding.size, MOST_HOLDING));
      const body = { round: this.#round, count, holding: [...holding].slice(0, MOST_HOLDING), page: this.page, previous: this.#previous };
      this.#released = false;
      const answer = /** @type {TrayAnswer} */ (await this.#post("/api/review/claims", body));
      for (const id of answer.lost) if (!this.#touched.has(id)) this.drop(id);
      const known = new Set([...this.held.map((held) => held.card.id), ...this.#inOutbox(), ...this.#touched]);
      const fresh = answer.candidates.filter((card) => !known.has(card.id));
      this.held.push(...fresh.map((card) => open(card, this.#plan.size)));
      this.dry = answer.candidates.length < count;
      this.dispatchEvent(new CustomEvent("progress", { detail: answer.progress }));
      this.#changed();
    } catch (error) {
      this.dispatchEvent(new CustomEvent("trouble", { detail: error }));
    } finally {
      this.#filling = false;
    }
  }

  /** Loads what is held in its order, and decodes the first of it. */
  #advance() {
    for (const [index, held] of this.held.entries()) {
      if (!held.images.size) load(held);
      if (held.state === "waiting" && index < this.#plan.decoded) this.#decode(held);
    }
  }

  /** @param {Held} held */
  async #decode(held) {
    held.state = "decoding";
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
    this.#advance();
    this.dispatchEvent(new Event("change"));
  }
}

/** @param {Card} card @param {Size} size @returns {Held} */
function open(card, size) {
  return { card, size, images: new Map(), state: "waiting" };
}

/** Begins to load the pictures of a candidate; of a pair's contact print the blended one alone. @param {Held} held */
function load({ card, size, images }) {
  const { blended } = card.layers;
  for (const role of /** @type {const} */ (["background", "foreground", "blended"])) {
    const layer = card.layers[role];
    if (layer && (size === "url" || !blended || role === "blended")) images.set(role, loadImage(role, layer[size]));
  }
}

/** @param {LayerRole} role @param {string} address */
function loadImage(role, address) {
  const image = new Image();
  image.dataset["role"] = role;
  image.alt = "";
  image.draggable = false;
  image.decoding = "sync"; // shown in the frame of the key, not one later
  image.src = address;
  return image;
}
