/** Deciding: a verdict belongs to the candidate that was painted when the key went down, and is kept before the page moves. */

import { collected, told } from "./concerns.js";
import { Dwell } from "./dwell.js";
import { KEPT, onTheirWay, takenBefore } from "./history.js";

/**
 * @typedef {import("./tray.js").Held} Held
 * @typedef {import("./outbox.js").Entry} Entry
 * @typedef {import("./history.js").Act} Act
 * @typedef {import("./history.js").Row} Row
 * @typedef {{held: Held, verdict: DecisionBody["verdict"], reasons: string[]}} Said
 */

/** A contact sheet that came later than this cannot have been looked at when the key went down. */
const SHEET_MS = 400;

export class Desk extends EventTarget {
  /** Reasons collected for a reject that has not been made yet. @type {Set<string>} */
  reasons = new Set();
  comment = "";
  /** What was decided lately, oldest first: each can be undone, a contact sheet as a whole. @type {Act[]} */
  history = [];
  /** Whether one candidate is shown at a time; else a contact sheet has the tray. */
  single = true;
  #tray;
  #outbox;
  #stage;
  #drafts;
  #dwell = new Dwell();
  #sheetSince = 0;
  /** @type {string | null} */
  #shown = null;
  /** Candidates that came back by an undo, by the undo's key. @type {Map<string, string>} */
  #returned = new Map();
  /** What was on its way when the page was loaded: the server's latest may be older, or newer, than its answers. @type {Entry[]} */
  #before;

  /**
   * @param {import("./tray.js").Tray} tray
   * @param {import("./outbox.js").Outbox} outbox
   * @param {import("./stage.js").Stage} stage
   * @param {import("./drafts.js").Drafts} drafts
   */
  constructor(tray, outbox, stage, drafts) {
    super();
    this.#tray = tray;
    this.#outbox = outbox;
    this.#stage = stage;
    this.#drafts = drafts;
    this.#before = [...outbox.entries];
    this.history = onTheirWay(this.#before);
    tray.addEventListener("change", () => this.#showHead());
    outbox.addEventListener("sent", (event) => this.#sent(/** @type {CustomEvent} */ (event).detail));
    outbox.addEventListener("retried", (event) => this.#retried(/** @type {CustomEvent} */ (event).detail));
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
    if (!held || !this.single) return;
    if (held.card.id !== this.#shown) return this.#tell("early", null);
    if (held.state === "broken" && verdict !== "skip") return this.#tell("unseen", null);
    const { visibleSince } = this.#stage;
    // Pressed before this candidate was painted: the key can only have meant the one before it, which is decided.
    if (held.state === "ready" && (visibleSince === null || at < visibleSince)) return this.#tell("early", null);
    this.#keep([{ held, verdict, reasons }], this.comment, this.#dwell.read());
  }

  /** Another contact sheet stands before the reviewer from the end of this frame on. */
  startSheet() {
    this.#sheetSince = Infinity;
    this.#dwell.start();
    requestAnimationFrame(() => (this.#sheetSince = performance.now()));
  }

  /**
   * Decides a whole contact sheet; the time it was looked at is shared among its candidates.
   * @param {Said[]} said @param {number} at when the key went down
   * @returns {boolean} whether it was taken
   */
  submit(said, at) {
    if (!said.length) return false;
    if (at < this.#sheetSince + SHEET_MS) return this.#tell("early", null), false;
    this.#keep(said, "", Math.round(this.#dwell.read() / said.length));
    return true;
  }

  /** @param {Said[]} said @param {string} comment @param {number} dwell */
  #keep(said, comment, dwell) {
    const rows = said.map(({ held, verdict, reasons }) => {
      const { card } = held;
      this.#drafts.forget(card.id);
      /** @type {DecisionBody} */
      const body = { candidate: card.id, verdict, ...told(reasons), comment, dwell_ms: dwell };
      const { key } = this.#outbox.add("decision", body, { card });
      return /** @type {Row} */ ({ key, card, held, body, decision: null, state: "pending" });
    });
    this.history = [...this.history, { rows }].slice(-KEPT);
    this.#tray.take(new Set(rows.map((row) => row.card.id)));
    this.#tell("decided", rows);
    this.#tell("history", null);
    this.#showHead();
  }

  /** Takes up what the server knew while this page was loading; what the page knows by itself is newer. @param {LatestRow[]} latest */
  remember(latest) {
    const undone = new Set(this.#before.filter((entry) => entry.kind === "undo").map((entry) => entry.body.decision));
    const newer = new Set([
      ...this.#before.map((entry) => entry.body.candidate),
      ...this.history.flatMap(({ rows }) => rows.map((row) => row.card.id)),
      ...this.#tray.held.map((held) => held.card.id),
    ]);
    const older = latest.filter(({ decision, candidate }) => !undone.has(decision) && !newer.has(candidate.id));
    this.history = [...takenBefore(older), ...this.history].slice(-KEPT);
    this.#tell("history", null);
  }

  /** Takes back an act, the latest if none is named: its candidates are here again at once, and the server hears of it in turn. */
  undo(act = this.history.findLast(({ rows }) => rows.some((row) => row.state !== "refused"))) {
    if (!act) return void this.#outbox.add("undo", { decision: null, page: this.#tray.page });
    const rows = act.rows.filter((row) => row.state !== "refused");
    this.history = this.history.filter((other) => other !== act);
    for (const row of rows) {
      const undo = this.#outbox.add("undo", { decision: row.decision, page: this.#tray.page }, { of: row.key });
      this.#returned.set(undo.key, row.card.id);
    }
    this.#tell("undone", rows);
    this.#tell("history", null);
    this.#tray.putBack(rows);
    const [row] = rows;
    if (this.single && row) this.collect(collected(row.body), row.body.comment);
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
    this.#keepDraft();
    this.collect(this.reasons);
  }

  /** Takes what has been written of a comment so far. @param {string} comment */
  write(comment) {
    this.comment = comment;
    this.#keepDraft();
  }

  /** Shows a candidate again whose decision was refused, with what was said of it. @param {Entry} entry */
  reopen(entry) {
    const { card, body } = entry;
    if (!card) return;
    this.#outbox.drop(entry);
    this.history = this.history.filter(({ rows }) => rows.length > 1 || rows[0]?.key !== entry.key);
    this.#tell("history", null);
    this.#drafts.keep({ candidate: card.id, comment: body.comment, reasons: collected(body) });
    this.#tray.putBack([{ card, held: null }]);
  }

  #keepDraft() {
    if (this.#shown) this.#drafts.keep({ candidate: this.#shown, comment: this.comment, reasons: [...this.reasons] });
  }

  /** Shows what is first in the tray, in the view that is open now. */
  #showHead() {
    const head = this.#tray.head;
    const next = this.single && head && /ready|broken/.test(head.state) ? head.card.id : null;
    if (next !== this.#shown) {
      this.#shown = next;
      const draft = this.#drafts.of(next);
      this.collect(draft?.reasons ?? [], draft?.comment ?? "");
      if (head && next && head.state === "ready") this.#stage.show(head);
      else this.#stage.clear();
      this.#dwell.start();
    }
    this.#tell("shown", head);
  }

  /** @param {{entry: Entry, answer: any}} detail */
  #sent({ entry, answer }) {
    const row = this.#rowOf(entry.key);
    if (row) Object.assign(row, { state: "sent", decision: answer.decision });
    this.#tell("history", null);
    // An undo that this page did not foresee (it was reloaded since): the server hands the candidate back.
    if (entry.kind !== "undo" || entry.of !== null) return;
    const card = /** @type {UndoAnswer} */ (answer).candidate;
    this.history = this.history.filter(({ rows }) => rows.every((other) => other.card.id !== card.id));
    this.#tray.putBack([{ card, held: null }]);
  }

  /** @param {{entry: Entry}} detail */
  #retried({ entry }) {
    const row = this.#rowOf(entry.key);
    if (row) row.state = "pending";
    this.#tell("history", null);
  }

  /** @param {{entry: Entry, error: Error}} detail */
  #refused({ entry }) {
    const row = this.#rowOf(entry.key);
    if (row) row.state = "refused";
    this.#tell("history", null);
    const returned = this.#returned.get(entry.key);
    if (returned) this.#tray.drop(returned); // its undo was not taken: it is not ours to decide again
  }

  /** @param {string} key */
  #rowOf(key) {
    return this.history.flatMap(({ rows }) => rows).find((row) => row.key === key);
  }

  /** @param {string} name @param {unknown} detail */
  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
