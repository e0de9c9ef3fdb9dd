/**
 * The comparison session: votes on the item on display, sent in order, and their undo. A vote
 * counts for the images that were painted when the key was pressed.
 */

import { Refusal, Unreachable } from "../lib/http.js";
import { randomId } from "../lib/random_id.js";
import { DwellTimer } from "../review/dwell_timer.js";

/**
 * @typedef {object} Vote
 * @property {string} key idempotency key
 * @property {ComparisonItem} item
 * @property {ComparisonChoice} choice
 * @property {number} dwell
 * @property {number | null} number null until the server has it
 *
 * @typedef {object} Entry one request that is sent, or waits
 * @property {string} key
 * @property {string} path
 * @property {() => Record<string, unknown>} body made when it is sent
 * @property {Vote | null} vote the vote that is given or undone; null for one of an earlier page
 * @property {(response: any) => void} onSent
 */

const VOTES = "/api/comparison/votes";
const UNDO = "/api/comparison/undo";
const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 15_000;

export class ComparisonSession extends EventTarget {
  /** Requests that are not answered yet, oldest first. @type {Entry[]} */
  entries = [];
  /** Whether the last request failed for a reason that passes. */
  offline = false;
  /** Votes of this page that stand, oldest first. @type {Vote[]} */
  #votes = [];
  #queue;
  #viewers;
  #post;
  #dwell = new DwellTimer();
  /** @type {import("./queue.js").QueuedComparison | null} */
  #displayed = null;
  #sending = false;

  /**
   * @param {import("./queue.js").ComparisonQueue} queue
   * @param {import("./linked_viewers.js").LinkedViewers} viewers
   * @param {(path: string, body: unknown) => Promise<any>} post
   */
  constructor(queue, viewers, post) {
    super();
    this.#queue = queue;
    this.#viewers = viewers;
    this.#post = post;
    queue.pendingIds = () => this.entries.flatMap((entry) => entry.vote?.item.id ?? []);
    queue.addEventListener("change", () => this.#display());
  }

  /**
   * Vote on the item on display and show the next one in the same frame.
   * @param {ComparisonChoice} choice
   * @param {number} pressedAt time of the key press
   */
  vote(choice, pressedAt) {
    const held = this.#displayed;
    if (!held) return;
    // A key pressed before these images were painted was meant for the previous ones.
    const { visibleSince } = this.#viewers;
    if (visibleSince === null || pressedAt < visibleSince) return this.#emit("too-early", null);
    /** @type {Vote} */
    const vote = {
      key: randomId(),
      item: held.item,
      choice,
      dwell: this.#dwell.elapsed(),
      number: null,
    };
    this.#votes.push(vote);
    this.#send({
      key: vote.key,
      path: VOTES,
      body: () => ({ item: vote.item.id, choice, dwell_ms: vote.dwell }),
      vote,
      onSent: (response) => (vote.number = response.vote),
    });
    this.#queue.advance();
    this.#emit("voted", vote);
  }

  /** Undo the latest vote: its item is shown again at once. */
  undo() {
    const vote = this.#votes.pop() ?? null;
    this.#send({
      key: randomId(),
      path: UNDO,
      // Requests are sent in order, so that the vote has its number by then.
      body: () => ({ vote: vote?.number ?? null }),
      vote,
      onSent: (response) => {
        // Only the server knows a vote of an earlier page.
        if (!vote) this.#queue.putBack(response.item);
      },
    });
    if (vote) this.#queue.putBack(vote.item);
    this.#emit("undone", vote);
  }

  /** @param {Entry} entry */
  #send(entry) {
    this.entries.push(entry);
    this.#emit("change", null);
    this.#flush();
  }

  /** Send all requests in order; after trouble that passes, try again later. */
  async #flush() {
    if (this.#sending) return;
    this.#sending = true;
    let delay = FIRST_RETRY_MS;
    for (let entry = this.entries[0]; entry; entry = this.entries[0]) {
      try {
        entry.onSent(await this.#post(entry.path, { ...entry.body(), key: entry.key }));
      } catch (error) {
        if (error instanceof Unreachable || (error instanceof Refusal && error.status === 401)) {
          this.offline = true;
          this.#emit("change", null);
          await new Promise((resolve) => setTimeout(resolve, delay));
          delay = Math.min(2 * delay, MAX_RETRY_MS);
          continue;
        }
        this.#onRefused(entry);
        this.#emit("refused", { entry, error });
      }
      delay = FIRST_RETRY_MS;
      this.offline = false;
      this.entries.shift();
      this.#emit("change", null);
    }
    this.#sending = false;
  }

  /**
   * Forget a vote that is not stored, or the item of a vote that cannot be undone.
   * @param {Entry} entry
   */
  #onRefused({ path, vote }) {
    if (!vote) return;
    this.#votes = this.#votes.filter((other) => other !== vote);
    if (path === UNDO) this.#queue.remove(vote.item.id);
  }

  /** Display the first item of the queue once it is decoded. */
  #display() {
    const { head } = this.#queue;
    const next = head?.state === "ready" ? head : null;
    if (next !== this.#displayed) {
      this.#displayed = next;
      if (next) this.#viewers.show(next);
      else this.#viewers.clear();
      this.#dwell.start();
    }
    this.#emit("displayed", head);
  }

  /**
   * @param {string} name
   * @param {unknown} detail
   */
  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
