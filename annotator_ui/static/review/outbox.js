/**
 * The outbox: decisions that are stored in the browser and sent to the server in order. Each entry
 * has an idempotency key, so it can be sent repeatedly, and it is removed only when the server has
 * responded. Entries that wait together are sent as one batch. A decision that the server refuses
 * is kept separately until the reviewer sends it again or discards it.
 */

import { afterFrame } from "../lib/after_frame.js";
import { Refusal, Unreachable } from "../lib/http.js";
import { randomId } from "../lib/random_id.js";
import { OutboxStorage } from "./outbox_storage.js";

/**
 * @typedef {object} Entry
 * @property {"decision" | "undo"} kind
 * @property {string} key idempotency key
 * @property {number} order entries are sent in this order
 * @property {string | null} of undo only: the key of its decision; null for the server's latest
 * @property {any} body
 * @property {ReviewItem} [card] the candidate, for the history after a reload
 * @property {number} [failures] number of internal server errors caused by this entry
 * @property {{message: string, hint: string}} [why] refused entries only: the server's error
 */

const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 15_000;
/** Server limits per request: entries, and characters (with room for multi-byte ones). */
const MAX_BATCH = 48;
const MAX_BODY_LENGTH = 20_000;
/** Number of internal server errors over one entry after which it counts as refused. */
const MAX_FAILURES = 4;
const INTERNAL_ERROR = 500;
const PATHS = { decision: "/api/review/decisions", undo: "/api/review/undo" };
const BATCH_PATHS = {
  decision: "/api/review/decisions/batch",
  undo: "/api/review/undo/batch",
};
const BATCH_FIELDS = { decision: "decisions", undo: "undos" };

export class Outbox extends EventTarget {
  /** Unsent entries, oldest first. @type {Entry[]} */
  entries = [];
  /** Refused decisions, oldest first. @type {Entry[]} */
  refused = [];
  /** Why nothing can be sent at the moment. @type {"" | "offline" | "server" | "signed out"} */
  problem = "";
  #post;
  #unsentStorage;
  #refusedStorage;
  #failures = 0;
  #timer = 0;
  #sending = false;

  /**
   * @param {string} reviewer only entries of this reviewer are sent; the browser may be shared
   * @param {(path: string, body: unknown) => Promise<any>} post
   * @param {Storage} [storage]
   */
  constructor(reviewer, post, storage = localStorage) {
    super();
    this.#post = post;
    this.#unsentStorage = new OutboxStorage(storage, `layerloop.outbox.${reviewer}.`);
    this.#refusedStorage = new OutboxStorage(storage, `layerloop.refused.${reviewer}.`);
    this.entries = this.#unsentStorage.load();
    this.refused = this.#refusedStorage.load();
    addEventListener("online", () => this.flush());
    addEventListener("focus", () => this.flush());
  }

  /**
   * Store a decision or an undo, and send it as soon as possible.
   * @param {Entry["kind"]} kind
   * @param {any} body
   * @param {{of?: string | null, card?: ReviewItem}} [details]
   * @returns {Entry}
   */
  add(kind, body, { of = null, ...details } = {}) {
    const entry = { kind, key: randomId(), order: 0, of, body, ...details };
    // A new decision replaces a refused one of the same candidate.
    for (const old of this.refused) {
      if (kind === "decision" && old.body.candidate === body.candidate) this.drop(old);
    }
    this.#append(entry);
    return entry;
  }

  /** Send a refused decision again, with the same key. @param {Entry} entry */
  retry(entry) {
    this.drop(entry);
    delete entry.why;
    delete entry.failures;
    this.#append(entry);
    this.#emit("retried", { entry });
  }

  /** Discard a refused decision. @param {Entry} entry */
  drop(entry) {
    this.refused = this.refused.filter((other) => other !== entry);
    this.#refusedStorage.remove(entry);
    this.#emit("change", null);
  }

  /** @param {Entry} entry */
  #append(entry) {
    entry.order = Math.max(Date.now(), (this.entries.at(-1)?.order ?? 0) + 1);
    this.entries.push(entry);
    this.#unsentStorage.save(entry);
    this.#emit("change", entry);
    if (!this.#failures) afterFrame(() => this.flush());
  }

  /** Return the ids of the candidates with an unsent decision. @returns {string[]} */
  candidates() {
    const decisions = this.entries.filter((entry) => entry.kind === "decision");
    return decisions.map((entry) => entry.body.candidate);
  }

  /** Send all entries in order; on an error, retry later with exponential backoff. */
  async flush() {
    if (this.#sending) return;
    this.#sending = true;
    clearTimeout(this.#timer);
    try {
      while (this.entries.length) {
        await this.#send(this.#nextBatch());
        this.#failures = 0;
        this.problem = "";
      }
    } catch (error) {
      this.#failures += 1;
      this.problem =
        error instanceof Refusal ? "signed out" : unreachableStatus(error) ? "server" : "offline";
      const delay = Math.min(FIRST_RETRY_MS * 2 ** (this.#failures - 1), MAX_RETRY_MS);
      const jitter = 0.75 + Math.random() / 2;
      this.#timer = setTimeout(() => this.flush(), delay * jitter);
    } finally {
      this.#sending = false;
      this.#emit("change", null);
    }
  }

  /**
   * Return the first entries that fit into one request. They are of one kind; an undo without a
   * known decision is sent on its own.
   */
  #nextBatch() {
    const [first] = this.entries;
    /** @type {Entry[]} */
    const batch = [];
    let length = 0;
    for (const entry of this.entries) {
      length += JSON.stringify(entry.body).length;
      const fits =
        batch.length < MAX_BATCH && length < MAX_BODY_LENGTH && entry.kind === first?.kind;
      const alone = entry.kind === "undo" && entry.body.decision === null;
      if (batch.length && (!fits || alone)) break;
      batch.push(entry);
      if (alone) break;
    }
    return batch;
  }

  /** @param {Entry[]} batch */
  async #send(batch) {
    const [first] = batch;
    if (!first) return;
    const bodies = batch.map((entry) => ({ ...entry.body, key: entry.key }));
    try {
      if (batch.length === 1) {
        this.#settle(first, await this.#post(PATHS[first.kind], bodies[0]));
        return;
      }
      /** @type {BatchResult<any>[]} */
      const results = await this.#post(BATCH_PATHS[first.kind], {
        [BATCH_FIELDS[first.kind]]: bodies,
      });
      for (const [index, entry] of batch.entries()) {
        const result = results[index];
        if (result?.refused) this.#refuse(entry, result.refused);
        else this.#settle(entry, result?.taken);
      }
    } catch (error) {
      await this.#onSendError(error, batch);
    }
  }

  /**
   * Handle a failed request: rethrow temporary errors, and find the entry that causes a final one.
   * @param {unknown} error
   * @param {Entry[]} batch
   */
  async #onSendError(error, batch) {
    const internalError = unreachableStatus(error) === INTERNAL_ERROR;
    const final = error instanceof Refusal && error.status !== 401;
    if (!internalError && !final) throw error;

    // One bad entry fails a whole batch: send the entries one by one.
    const [first] = batch;
    if (batch.length > 1 || !first) {
      for (const entry of batch) await this.#send([entry]);
      return;
    }
    if (error instanceof Refusal) {
      this.#refuse(first, error);
      return;
    }

    // An internal error may be temporary: give up on the entry only after several attempts.
    first.failures = (first.failures ?? 0) + 1;
    this.#unsentStorage.save(first);
    if (first.failures < MAX_FAILURES) throw error;
    const hint = "try again later, or contact your administrator";
    this.#refuse(first, { message: "the server failed repeatedly on this decision", hint });
  }

  /**
   * @param {Entry} entry
   * @param {any} response
   */
  #settle(entry, response) {
    for (const undo of this.#undosOf(entry)) {
      undo.body.decision = response.decision;
      this.#unsentStorage.save(undo);
    }
    this.#remove(entry);
    this.#emit("sent", { entry, response });
  }

  /**
   * @param {Entry} entry
   * @param {{message: string, hint: string}} error
   */
  #refuse(entry, error) {
    const undos = this.#undosOf(entry);
    if (entry.kind === "decision" && !undos.length) {
      const refused = { ...entry, why: { message: error.message, hint: error.hint } };
      this.refused.push(refused);
      this.#refusedStorage.save(refused);
    }
    for (const refused of [entry, ...undos]) {
      this.#remove(refused);
      this.#emit("refused", { entry: refused, error });
    }
  }

  /** @param {Entry} decision */
  #undosOf(decision) {
    return this.entries.filter((entry) => entry.kind === "undo" && entry.of === decision.key);
  }

  /** @param {Entry} entry */
  #remove(entry) {
    this.entries = this.entries.filter((other) => other !== entry);
    this.#unsentStorage.remove(entry);
  }

  /**
   * @param {string} name
   * @param {unknown} detail
   */
  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/**
 * Return the status of a temporary error; 0 if there was no response, or for any other error.
 * @param {unknown} error
 */
function unreachableStatus(error) {
  return error instanceof Unreachable ? error.status : 0;
}
