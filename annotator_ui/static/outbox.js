/**
 * Decisions on their way: kept in the browser before the page moves on, sent in order, and let go only when the
 * server has answered. Sending one twice is harmless, since the server knows its key. Those that wait together, a
 * contact sheet's or a lost connection's, go out together and are answered one by one. A decision that the server
 * refuses is set aside until the person sends it again or drops it; the others go out.
 */

import { afterFrame } from "./after_frame.js";
import { newKey } from "./identity.js";
import { Refusal, Unreachable } from "./request.js";

/**
 * @typedef {object} Entry
 * @property {"decision" | "undo"} kind
 * @property {string} key makes it one decision, however often it is sent
 * @property {number} order entries are sent in this order
 * @property {string | null} of the key of the decision that an undo takes back; null for the server's latest
 * @property {any} body
 * @property {Card} [card] what a decision is about, for whoever looks back after a reload
 * @property {number} [failures] how often the server broke over it
 * @property {{message: string, hint: string}} [why] of those set aside: what the server said
 */

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
/** What the server takes at once: entries, and characters with a reserve for those that need several bytes. */
const MOST_TOGETHER = 48;
const LARGEST_BODY = 20_000;
/** Internal errors of the server over one entry alone, after which that entry is the cause. */
const MOST_FAILURES = 4;
const INTERNAL_ERROR = 500;
const KEY_LENGTH = 36;
const PATHS = { decision: "/api/review/decisions", undo: "/api/review/undo" };
const SEVERAL = { decision: "decisions", undo: "undos" };

export class Outbox extends EventTarget {
  /** @type {Entry[]} */
  entries = [];
  /** Decisions that were refused, oldest first. @type {Entry[]} */
  aside = [];
  /** Why nothing goes out at the moment. @type {"" | "offline" | "server" | "signed out"} */
  trouble = "";
  #prefix;
  #asidePrefix;
  #post;
  #storage;
  #failures = 0;
  #timer = 0;
  #sending = false;

  /**
   * @param {string} reviewer only this reviewer's decisions are sent: another may have used this browser before
   * @param {(path: string, body: unknown) => Promise<any>} post
   * @param {Storage} [storage]
   */
  constructor(reviewer, post, storage = localStorage) {
    super();
    this.#prefix = `layerloop.outbox.${reviewer}.`;
    this.#post = post;
    this.#storage = storage;
    this.#asidePrefix = `layerloop.aside.${reviewer}.`;
    this.entries = this.#read(this.#prefix);
    this.aside = this.#read(this.#asidePrefix);
    addEventListener("online", () => this.flush());
    addEventListener("focus", () => this.flush());
  }

  /**
   * Keeps a decision or an undo, at once and on disk, then sends it when it can.
   * @param {Entry["kind"]} kind @param {any} body @param {{of?: string | null, card?: Card}} [about]
   * @returns {Entry}
   */
  add(kind, body, { of = null, ...about } = {}) {
    const entry = { kind, key: newKey(), order: 0, of, body, ...about };
    // A new decision on a candidate takes the place of one that was refused.
    for (const old of this.aside) if (kind === "decision" && old.body.candidate === body.candidate) this.drop(old);
    this.#append(entry);
    return entry;
  }

  /** Sends again what was set aside, under the same key. @param {Entry} entry */
  retry(entry) {
    this.drop(entry);
    delete entry.why;
    delete entry.failures;
    this.#append(entry);
    this.#tell("retried", { entry });
  }

  /** Forgets what was set aside. @param {Entry} entry */
  drop(entry) {
    this.aside = this.aside.filter((other) => other !== entry);
    this.#storage.removeItem(this.#asidePrefix + entry.key);
    this.#tell("change", null);
  }

  /** @param {Entry} entry */
  #append(entry) {
    entry.order = Math.max(Date.now(), (this.entries.at(-1)?.order ?? 0) + 1);
    this.entries.push(entry);
    this.#keep(this.#prefix, entry);
    this.#tell("change", entry);
    if (!this.#failures) afterFrame(() => this.flush()); // the next picture comes first
  }

  /** The candidates that have a decision on its way. @returns {string[]} */
  candidates() {
    return this.entries.filter((entry) => entry.kind === "decision").map((entry) => entry.body.candidate);
  }

  /** Sends what waits, in order, until all is sent or something is in the way. */
  async flush() {
    if (this.#sending) return;
    this.#sending = true;
    clearTimeout(this.#timer);
    try {
      while (this.entries.length) {
        await this.#send(this.#together());
        this.#failures = 0;
        this.trouble = "";
      }
    } catch (error) {
      this.#failures += 1;
      this.trouble = error instanceof Refusal ? "signed out" : statusOf(error) ? "server" : "offline";
      const wait = Math.min(FIRST_WAIT_MS * 2 ** (this.#failures - 1), LONGEST_WAIT_MS) * (0.75 + Math.random() / 2);
      this.#timer = setTimeout(() => this.flush(), wait);
    } finally {
      this.#sending = false;
      this.#tell("change", null);
    }
  }

  /** The first entries that one request can carry: of one kind, each undo knowing its decision unless it is alone. */
  #together() {
    const [first] = this.entries;
    /** @type {Entry[]} */
    const together = [];
    let size = 0;
    for (const entry of this.entries) {
      size += JSON.stringify(entry.body).length;
      const fits = together.length < MOST_TOGETHER && size < LARGEST_BODY && entry.kind === first?.kind;
      const alone = entry.kind === "undo" && entry.body.decision === null;
      if (together.length && (!fits || alone)) break;
      together.push(entry);
      if (alone) break;
    }
    return together;
  }

  /** @param {Entry[]} together */
  async #send(together) {
    const [first] = together;
    if (!first) return;
    const bodies = together.map((entry) => ({ ...entry.body, key: entry.key }));
    try {
      if (together.length === 1) return this.#settle(first, await this.#post(PATHS[first.kind], bodies[0]));
      const path = `${PATHS[first.kind]}/several`;
      const answers = /** @type {Told<any>[]} */ (await this.#post(path, { [SEVERAL[first.kind]]: bodies }));
      for (const [index, entry] of together.entries()) {
        const answer = answers[index];
        if (answer?.refused) this.#refuse(entry, answer.refused);
        else this.#settle(entry, answer?.taken);
      }
    } catch (error) {
      const broke = statusOf(error) === INTERNAL_ERROR;
      if (!broke && (!(error instanceof Refusal) || error.status === 401)) throw error;
      if (together.length > 1) {
        for (const entry of together) await this.#send([entry]); // what is wrong with one is not wrong with the others
        return;
      }
      if (error instanceof Refusal) return this.#refuse(first, error);
      first.failures = (first.failures ?? 0) + 1;
      this.#keep(this.#prefix, first);
      if (first.failures < MOST_FAILURES) throw error;
      const hint = "try again later, or tell whoever looks after the server";
      this.#refuse(first, { message: "the server failed over it again and again", hint });
    }
  }

  /** @param {Entry} entry @param {any} answer */
  #settle(entry, answer) {
    for (const undo of this.#undosOf(entry)) {
      undo.body.decision = answer.decision;
      this.#keep(this.#prefix, undo);
    }
    this.#remove(entry);
    this.#tell("sent", { entry, answer });
  }

  /** @param {Entry} entry @param {{message: string, hint: string}} error */
  #refuse(entry, error) {
    const undos = this.#undosOf(entry);
    if (entry.kind === "decision" && !undos.length) {
      const aside = { ...entry, why: { message: error.message, hint: error.hint } };
      this.aside.push(aside);
      this.#keep(this.#asidePrefix, aside);
    }
    for (const refused of [entry, ...undos]) {
      this.#remove(refused);
      this.#tell("refused", { entry: refused, error });
    }
  }

  /** @param {Entry} decision */
  #undosOf(decision) {
    return this.entries.filter((entry) => entry.kind === "undo" && entry.of === decision.key);
  }

  /** What is stored under a prefix, in order; what cannot be read is left alone. @param {string} prefix */
  #read(prefix) {
    /** @type {Entry[]} */
    const found = [];
    for (const name of Object.keys(this.#storage)) {
      // Nothing but a key may follow: else "ann" would send what "ann.lee" decided.
      if (!name.startsWith(prefix) || name.length !== prefix.length + KEY_LENGTH) continue;
      try {
        found.push(JSON.parse(this.#storage.getItem(name) ?? ""));
      } catch {
        // Not written by this page, or cut short: it must not stop the others.
      }
    }
    return found.sort((a, b) => a.order - b.order);
  }

  /** @param {string} prefix @param {Entry} entry */
  #keep(prefix, entry) {
    try {
      this.#storage.setItem(prefix + entry.key, JSON.stringify(entry));
    } catch {
      // A full or forbidden storage: the decision still stands in memory and goes out as soon as it can.
    }
  }

  /** @param {Entry} entry */
  #remove(entry) {
    this.entries = this.entries.filter((other) => other !== entry);
    this.#storage.removeItem(this.#prefix + entry.key);
  }

  /** @param {string} name @param {unknown} detail */
  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** The status of an answer that says "not now"; 0 where there was no answer, or a plain refusal. @param {unknown} error */
function statusOf(error) {
  return error instanceof Unreachable ? error.status : 0;
}
