/** The claimed candidates of this page: the first is on display, the next ones are preloaded. */

import { afterFrame } from "../lib/after_frame.js";
import { sendOnLeaving, Unreachable } from "../lib/http.js";
import { layerImage } from "../lib/layer_image.js";
import { randomId } from "../lib/random_id.js";

/**
 * @typedef {"url" | "small"} ImageSize full size, or thumbnail
 *
 * @typedef {object} QueuedItem
 * @property {ReviewItem} card
 * @property {ImageSize} size size of the images in `images`
 * @property {Map<LayerRole, HTMLImageElement>} images decoded once `state` is "ready"
 * @property {"waiting" | "decoding" | "ready" | "broken"} state
 *
 * @typedef {object} PrefetchPlan
 * @property {ImageSize} size
 * @property {number} target number of candidates to hold
 * @property {number} low request more candidates below this number
 * @property {number} decoded number of candidates to decode ahead; the others are only loaded
 * @property {number} initial number of candidates to hold before the reviewer acts on the page
 */

/**
 * Plan of the single view: 24 candidates last for minutes without a connection, and 8 decoded
 * candidates for a second of the fastest key presses.
 * @type {PrefetchPlan}
 */
export const SINGLE_PLAN = { size: "url", target: 24, low: 22, decoded: 8, initial: 8 };

const MAX_DECODE_ATTEMPTS = 3;
const RETRY_DELAY_MS = 500;
/** Server limits: candidates per response, and ids per request. */
const MAX_CLAIMED_AT_ONCE = 48;
const MAX_IDS = 64;
const PAGE_ID_KEY = "layerloop.page";

export class ReviewQueue extends EventTarget {
  /** @type {QueuedItem[]} */
  items = [];
  /** Whether the latest response had fewer candidates than requested. */
  exhausted = false;
  /** Id of this page: two pages of one reviewer hold different candidates. */
  page = randomId();
  /** Id of the previous page in this tab, whose candidates this page takes over. */
  #previousPage = sessionStorage.getItem(PAGE_ID_KEY);
  #plan = SINGLE_PLAN;
  #active = false;
  #released = false;
  #refilling = false;
  /** Ids changed since the latest request was sent; its response may be outdated for them. */
  #changedIds = new Set();
  #backgroundIndex = 0;
  #post;
  #pendingCandidates;
  #round;
  /** Failed decoding attempts by candidate id. @type {Map<string, number>} */
  #attempts = new Map();

  /**
   * @param {(path: string, body: unknown) => Promise<any>} post
   * @param {() => string[]} pendingCandidates ids of candidates with an unsent decision
   * @param {number | null} round claim only candidates of this round; null for every round
   */
  constructor(post, pendingCandidates, round) {
    super();
    this.#post = post;
    this.#pendingCandidates = pendingCandidates;
    this.#round = round;
    sessionStorage.setItem(PAGE_ID_KEY, this.page);
  }

  /** The first candidate, or null if the queue is empty. */
  get head() {
    return this.items[0] ?? null;
  }

  /** Number of candidates to hold, and the number below which more are requested. */
  get #limits() {
    const { target, low, initial } = this.#plan;
    if (this.#active) return { target, low };
    return { target: Math.min(initial, target), low: Math.min(initial, low) };
  }

  /** Note that the reviewer acts on the page: from now on, hold as many candidates as planned. */
  activate() {
    if (this.#active) return;
    this.#active = true;
    afterFrame(() => this.refill());
  }

  /** Release the leases of an idle page. Candidates stay visible; `refill` claims them again. */
  async release() {
    if (this.#released || !this.items.length) return;
    this.#released = true;
    await this.#post("/api/review/release", this.#releasable).catch(() => (this.#released = false));
  }

  /** Release the leases because the page is being closed. */
  leave() {
    if (this.items.length && !this.#released) {
      sendOnLeaving("/api/review/release", this.#releasable);
    }
  }

  /** Request body that names the candidates without an unsent decision. */
  get #releasable() {
    const pending = new Set(this.#pendingCandidates());
    const candidates = this.items.map((item) => item.card.id).filter((id) => !pending.has(id));
    return { candidates: candidates.slice(0, MAX_IDS), page: this.page };
  }

  /**
   * Switch to the plan of another view.
   * @param {PrefetchPlan} plan
   * @param {string | null} first id of the candidate to move to the front
   */
  setPlan(plan, first = null) {
    if (plan.size !== this.#plan.size) {
      this.items = this.items.map((item) => createItem(item.card, plan.size));
    }
    this.#plan = plan;
    this.items.sort((a, b) => Number(b.card.id === first) - Number(a.card.id === first));
    this.#notifyChange();
    return this.refill();
  }

  /** Return the next background URL of another claimed pair, or null if there is none. */
  nextBackground() {
    const urls = this.items.slice(1).flatMap((item) => item.card.layers.background?.url ?? []);
    this.#backgroundIndex += 1;
    return urls[this.#backgroundIndex % urls.length] ?? null;
  }

  /** Remove candidates that were decided. @param {Set<string>} ids */
  remove(ids) {
    for (const id of ids) this.#changedIds.add(id);
    this.items = this.items.filter((item) => !ids.has(item.card.id));
    const advance = () => {
      this.#preload();
      if (this.items.length < this.#limits.low) this.refill();
    };
    // Decoding another image now would delay the one that is about to be painted.
    if (this.head?.state === "ready") afterFrame(advance);
    else advance();
  }

  /**
   * Put candidates back at the front, because their decisions were undone.
   * @param {{card: ReviewItem, held: QueuedItem | null}[]} rows
   */
  putBack(rows) {
    const ids = new Set(rows.map(({ card }) => card.id));
    for (const id of ids) this.#changedIds.add(id);
    const { size } = this.#plan;
    const restored = rows.map(({ card, held }) =>
      held?.size === size ? held : createItem(card, size),
    );
    this.items = [...restored, ...this.items.filter((item) => !ids.has(item.card.id))];
    this.#notifyChange();
  }

  /** Drop a candidate that another reviewer holds now. @param {string} id */
  drop(id) {
    this.items = this.items.filter((item) => item.card.id !== id);
    this.#notifyChange();
  }

  /**
   * Claim missing candidates and renew the leases of those held.
   * @param {boolean} [renew] send the request even if no candidate is missing
   */
  async refill(renew = false) {
    const { target, low } = this.#limits;
    if (this.#refilling || (this.items.length >= low && !renew)) return;
    this.#refilling = true;
    this.#changedIds.clear();
    try {
      // Report every candidate held here, so that the server renews its lease.
      const heldIds = this.items.map((item) => item.card.id);
      const holding = new Set([...heldIds, ...this.#pendingCandidates().toReversed()]);
      const missing = Math.max(target - this.items.length, 0);
      const free = MAX_IDS - Math.min(holding.size, MAX_IDS);
      const count = Math.min(missing, MAX_CLAIMED_AT_ONCE, free);
      const body = {
        round: this.#round,
        count,
        holding: [...holding].slice(0, MAX_IDS),
        page: this.page,
        previous: this.#previousPage,
      };
      this.#released = false;
      /** @type {ClaimResponse} */
      const response = await this.#post("/api/review/claims", body);

      // Apply the response, except for candidates that changed while it was on its way.
      for (const id of response.lost) if (!this.#changedIds.has(id)) this.drop(id);
      const known = new Set([
        ...this.items.map((item) => item.card.id),
        ...this.#pendingCandidates(),
        ...this.#changedIds,
      ]);
      const claimed = response.candidates.filter((card) => !known.has(card.id));
      this.items.push(...claimed.map((card) => createItem(card, this.#plan.size)));
      this.exhausted = response.candidates.length < count;
      this.dispatchEvent(new CustomEvent("progress", { detail: response.progress }));
      this.#notifyChange();
    } catch (error) {
      this.dispatchEvent(new CustomEvent("error", { detail: error }));
    } finally {
      this.#refilling = false;
    }
  }

  /** Load the images of all candidates in order, and decode those of the first ones. */
  #preload() {
    for (const [index, item] of this.items.entries()) {
      if (!item.images.size) loadImages(item);
      if (item.state === "waiting" && index < this.#plan.decoded) this.#decode(item);
    }
  }

  /** @param {QueuedItem} item */
  async #decode(item) {
    item.state = "decoding";
    try {
      await Promise.all([...item.images.values()].map((image) => image.decode()));
      if (!item.images.size) throw new Unreachable("the candidate has no layers");
      item.state = "ready";
    } catch {
      // Drop the candidate and claim it again with fresh URLs, up to a few times.
      const attempts = (this.#attempts.get(item.card.id) ?? 0) + 1;
      this.#attempts.set(item.card.id, attempts);
      if (attempts >= MAX_DECODE_ATTEMPTS) item.state = "broken";
      else {
        setTimeout(() => {
          this.drop(item.card.id);
          this.refill(true);
        }, RETRY_DELAY_MS * attempts);
      }
    }
    this.#notifyChange();
  }

  #notifyChange() {
    this.#preload();
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * @param {ReviewItem} card
 * @param {ImageSize} size
 * @returns {QueuedItem}
 */
function createItem(card, size) {
  return { card, size, images: new Map(), state: "waiting" };
}

/**
 * Start loading the images of a candidate. The grid shows only the blended image of a pair.
 * @param {QueuedItem} item
 */
function loadImages({ card, size, images }) {
  const { blended } = card.layers;
  for (const role of /** @type {const} */ (["background", "foreground", "blended"])) {
    const layer = card.layers[role];
    if (layer && (size === "url" || !blended || role === "blended")) {
      images.set(role, loadImage(role, layer[size]));
    }
  }
}

/**
 * @param {LayerRole} role
 * @param {string} url
 */
function loadImage(role, url) {
  const image = layerImage({ "data-role": role });
  image.decoding = "sync"; // paint in the frame of the key press, not one frame later
  image.src = url;
  return image;
}
