/** Deciding: a verdict belongs to the candidate that was painted when the key went down, and is kept before the page moves. */

import { collected, told } from "./concerns.js";
import { Dwell } from "./dwell.js";

/**
 * @typedef {import("./tray.js").Held} Held
 * @typedef {import("./outbox.js").Entry} Entry
 * @typedef {{held: Held, entry: Entry}} Decided
 */

export class Desk extends EventTarget {
  /** Reasons collected for a reject that has not been made yet. @type {Set<string>} */
  reasons = new Set();
  comment = "";
  /** What can be undone here, oldest first. @type {Decided[]} */
  history = [];
  #tray;
  #outbox;
  #stage;
  #dwell = new Dwell();
  /** @type {string | null} */
  #shown = null;
  /** Candidates that came back by an undo, by the undo's key. @type {Map<string, string>} */
  #returned = new Map();

  /**
   * @param {import("./tray.js").Tray} tray
   * @param {import("./outbox.js").Outbox} outbox
   * @param {import("./stage.js").Stage} stage
   */
  constructor(tray, outbox, stage) {
    super();
    this.#tray = tray;
    this.#outbox = outbox;
    this.#stage = stage;
    tray.addEventListener("change", () => this.#showHead());
    outbox.addEventListener("sent", (event) => this.#sent(/** @type {CustomEvent} */ (event).detail));
    outbox.addEventListener("refused", (event) => this.#refused(/** @type {CustomEvent} */ (event).detail));
  }

  /**
   * Decides the candidate on the stage and shows the next one in the same frame.
   * @param {DecisionBody["verdict"]} verdict
   * @param {string[]} reasons
   * @param {number} at when the key went down
   */
  decide(verdict, reasons, at) {
    const held = this.#tray.head;
    if (!held) return;
    if (held.card.id !== this.#shown) return this.#tell("early", null);
    if (held.state === "broken" && verdict !== "skip") return this.#tell("unseen", null);
    const { visibleSince } = this.#stage;
    // Pressed before this candidate was painted: the key can only have meant the one before it, which is decided.
    if (held.state === "ready" && (visibleSince === null || at < visibleSince)) return this.#tell("early", null);
    /** @type {DecisionBody} */
    const body = { candidate: held.card.id, verdict, ...told(reasons), comment: this.comment, dwell_ms: this.#dwell.read() };
    this.history.push({ held, entry: this.#outbox.add("decision", body) });
    this.#tray.take();
    this.#tell("decided", body);
    this.#showHead();
  }

  /** Takes back the latest decision: its candidate is here again at once, and the server hears of it in turn. */
  undo() {
    const last = this.history.pop();
    const undo = this.#outbox.add("undo", { decision: null }, last?.entry.key ?? null);
    if (!last) return;
    this.#returned.set(undo.key, last.held.card.id);
    this.#tell("undone", last.entry);
    this.#tray.putBack(last.held);
    this.collect(collected(last.entry.body), last.entry.body.comment);
  }

  /** @param {Iterable<string>} reasons @param {string} [comment] */
  collect(reasons, comment = this.comment) {
    this.reasons = new Set(reasons);
    this.comment = comment;
    this.#tell("collected", null);
  }

  /** @param {string} reason */
  toggle(reason) {
    if (!this.#shown) return;
    if (!this.reasons.delete(reason)) this.reasons.add(reason);
    this.collect(this.reasons);
  }

  #showHead() {
    const head = this.#tray.head;
    const next = head && head.state !== "decoding" ? head.card.id : null;
    if (next !== this.#shown) {
      this.#shown = next;
      this.collect([], "");
      if (head && next && head.state === "ready") this.#stage.show(head);
      else this.#stage.clear();
      this.#dwell.start();
    }
    this.#tell("shown", head);
  }

  /** @param {{entry: Entry, answer: any}} detail */
  #sent({ entry, answer }) {
    // An undo that this page did not foresee (it was reloaded since): the server hands the candidate back.
    if (entry.kind === "undo" && entry.of === null)
      this.#tray.putBackCard(/** @type {UndoAnswer} */ (answer).candidate);
  }

  /** @param {{entry: Entry, error: Error}} detail */
  #refused({ entry }) {
    this.history = this.history.filter((decided) => decided.entry.key !== entry.key);
    const returned = this.#returned.get(entry.key);
    if (returned) this.#tray.drop(returned); // its undo was not taken: it is not ours to decide again
  }

  /** @param {string} name @param {unknown} detail */
  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
