/**
 * The review session: applies verdicts to the candidate on display and keeps the undo history. A
 * verdict counts for the candidate that was painted when the key was pressed, and it is stored in
 * the outbox before the next candidate appears.
 */

import { DwellTimer } from "./dwell_timer.js";
import { MAX_ACTIONS, pendingActions, serverActions } from "./history.js";
import { joinReasons, splitReasons } from "./reason_layers.js";

/**
 * @typedef {import("./queue.js").QueuedItem} QueuedItem
 * @typedef {import("./outbox.js").Entry} Entry
 * @typedef {import("./history.js").Action} Action
 * @typedef {import("./history.js").Row} Row
 * @typedef {{held: QueuedItem, verdict: DecisionRequest["verdict"], reasons: string[]}} Decision
 */

/** Minimum time between the first paint of a grid and its submission. */
const MIN_GRID_MS = 400;

export class ReviewSession extends EventTarget {
  /** Reasons selected for the next reject. @type {Set<string>} */
  reasons = new Set();
  comment = "";
  /** Recent actions, oldest first. A submitted grid is one action. @type {Action[]} */
  history = [];
  /** Whether the single view is active; otherwise the grid shows the queue. */
  single = true;
  #queue;
  #outbox;
  #viewer;
  #drafts;
  #dwell = new DwellTimer();
  #gridVisibleSince = 0;
  /** Id of the candidate on display. @type {string | null} */
  #displayed = null;
  /** Ids of restored candidates by the key of their undo. @type {Map<string, string>} */
  #restored = new Map();
  /** Entries that were unsent when the page was loaded. @type {Entry[]} */
  #initialEntries;

  /**
   * @param {import("./queue.js").ReviewQueue} queue
   * @param {import("./outbox.js").Outbox} outbox
   * @param {import("./viewer.js").Viewer} viewer
   * @param {import("./drafts.js").Drafts} drafts
   */
  constructor(queue, outbox, viewer, drafts) {
    super();
    this.#queue = queue;
    this.#outbox = outbox;
    this.#viewer = viewer;
    this.#drafts = drafts;
    this.#initialEntries = [...outbox.entries];
    this.history = pendingActions(this.#initialEntries);
    queue.addEventListener("change", () => this.#displayHead());
    outbox.addEventListener("sent", (event) =>
      this.#onSent(/** @type {CustomEvent} */ (event).detail),
    );
    outbox.addEventListener("retried", (event) =>
      this.#onRetried(/** @type {CustomEvent} */ (event).detail),
    );
    outbox.addEventListener("refused", (event) =>
      this.#onRefused(/** @type {CustomEvent} */ (event).detail),
    );
  }

  /**
   * Decide the candidate on display and show the next one in the same frame.
   * @param {DecisionRequest["verdict"]} verdict
   * @param {string[]} reasons
   * @param {number} pressedAt time of the key press
   */
  decide(verdict, reasons, pressedAt) {
    const held = this.#queue.head;
    if (!held || !this.single) return;
    if (held.card.id !== this.#displayed) return this.#emit("too-early", null);
    if (held.state === "broken" && verdict !== "skip") return this.#emit("not-visible", null);
    // A key pressed before this candidate was painted was meant for the previous one.
    const { visibleSince } = this.#viewer;
    if (held.state === "ready" && (visibleSince === null || pressedAt < visibleSince)) {
      return this.#emit("too-early", null);
    }
    this.#record([{ held, verdict, reasons }], this.comment, this.#dwell.elapsed());
  }

  /** Start the timer of a new grid, which is painted at the end of this frame. */
  startGrid() {
    this.#gridVisibleSince = Infinity;
    this.#dwell.start();
    requestAnimationFrame(() => (this.#gridVisibleSince = performance.now()));
  }

  /**
   * Decide every candidate of the grid. The dwell time is divided evenly among them.
   * @param {Decision[]} decisions
   * @param {number} pressedAt time of the key press
   * @returns {boolean} whether the grid was submitted
   */
  submitGrid(decisions, pressedAt) {
    if (!decisions.length) return false;
    if (pressedAt < this.#gridVisibleSince + MIN_GRID_MS) {
      this.#emit("too-early", null);
      return false;
    }
    this.#record(decisions, "", Math.round(this.#dwell.elapsed() / decisions.length));
    return true;
  }

  /**
   * Store decisions in the outbox and the history, and remove their candidates from the queue.
   * @param {Decision[]} decisions
   * @param {string} comment
   * @param {number} dwellMs
   */
  #record(decisions, comment, dwellMs) {
    const rows = decisions.map(({ held, verdict, reasons }) => {
      const { card } = held;
      this.#drafts.remove(card.id);
      /** @type {DecisionRequest} */
      const body = {
        candidate: card.id,
        verdict,
        ...splitReasons(reasons),
        comment,
        dwell_ms: dwellMs,
      };
      const { key } = this.#outbox.add("decision", body, { card });
      return /** @type {Row} */ ({ key, card, held, body, decision: null, state: "pending" });
    });
    this.history = [...this.history, { rows }].slice(-MAX_ACTIONS);
    this.#queue.remove(new Set(rows.map((row) => row.card.id)));
    this.#emit("decided", rows);
    this.#emit("history", null);
    this.#displayHead();
  }

  /**
   * Add the server's recent decisions to the history. The response may be older or newer than the
   * decisions that were unsent at page load, so what this page already knows takes precedence.
   * @param {RecentDecision[]} recent newest first
   */
  addServerHistory(recent) {
    const undone = new Set(
      this.#initialEntries
        .filter((entry) => entry.kind === "undo")
        .map((entry) => entry.body.decision),
    );
    const known = new Set([
      ...this.#initialEntries.map((entry) => entry.body.candidate),
      ...this.history.flatMap(({ rows }) => rows.map((row) => row.card.id)),
      ...this.#queue.items.map((item) => item.card.id),
    ]);
    const older = recent.filter(
      ({ decision, candidate }) => !undone.has(decision) && !known.has(candidate.id),
    );
    this.history = [...serverActions(older), ...this.history].slice(-MAX_ACTIONS);
    this.#emit("history", null);
  }

  /**
   * Undo an action, by default the latest one. Its candidates return to the queue immediately; the
   * server learns of the undo through the outbox.
   * @param {Action | undefined} action
   */
  undo(action = this.history.findLast(({ rows }) => rows.some((row) => row.state !== "refused"))) {
    if (!action) {
      // Only the server knows the latest decision, for example after a reload.
      this.#outbox.add("undo", { decision: null, page: this.#queue.page });
      return;
    }
    const rows = action.rows.filter((row) => row.state !== "refused");
    this.history = this.history.filter((other) => other !== action);
    for (const row of rows) {
      const body = { decision: row.decision, page: this.#queue.page };
      const undo = this.#outbox.add("undo", body, { of: row.key });
      this.#restored.set(undo.key, row.card.id);
    }
    this.#emit("undone", rows);
    this.#emit("history", null);
    this.#queue.putBack(rows);
    const [row] = rows;
    if (this.single && row) this.setReasons(joinReasons(row.body), row.body.comment);
  }

  /**
   * @param {Iterable<string>} reasons
   * @param {string} [comment]
   */
  setReasons(reasons, comment = this.comment) {
    this.reasons = new Set(reasons);
    this.comment = comment;
    this.#emit("reasons", null);
  }

  /** Select or deselect a reason. @param {string} reason */
  toggleReason(reason) {
    if (!this.#displayed) return;
    if (!this.reasons.delete(reason)) this.reasons.add(reason);
    this.#saveDraft();
    this.setReasons(this.reasons);
  }

  /** Set the comment and save it as a draft. @param {string} comment */
  setComment(comment) {
    this.comment = comment;
    this.#saveDraft();
  }

  /** Show the candidate of a refused decision again, with its reasons. @param {Entry} entry */
  reopen(entry) {
    const { card, body } = entry;
    if (!card) return;
    this.#outbox.drop(entry);
    this.history = this.history.filter(({ rows }) => rows.length > 1 || rows[0]?.key !== entry.key);
    this.#emit("history", null);
    this.#drafts.save({ candidate: card.id, comment: body.comment, reasons: joinReasons(body) });
    this.#queue.putBack([{ card, held: null }]);
  }

  #saveDraft() {
    if (!this.#displayed) return;
    const { comment, reasons } = this;
    this.#drafts.save({ candidate: this.#displayed, comment, reasons: [...reasons] });
  }

  /** Display the first candidate of the queue, if the single view is active. */
  #displayHead() {
    const head = this.#queue.head;
    const next = this.single && head && /ready|broken/.test(head.state) ? head.card.id : null;
    if (next !== this.#displayed) {
      this.#displayed = next;
      const draft = this.#drafts.find(next);
      this.setReasons(draft?.reasons ?? [], draft?.comment ?? "");
      if (head && next && head.state === "ready") this.#viewer.show(head);
      else this.#viewer.clear();
      this.#dwell.start();
    }
    this.#emit("displayed", head);
  }

  /** @param {{entry: Entry, response: any}} detail */
  #onSent({ entry, response }) {
    const row = this.#findRow(entry.key);
    if (row) Object.assign(row, { state: "sent", decision: response.decision });
    this.#emit("history", null);
    // An undo without a known decision: the response names the candidate that was restored.
    if (entry.kind !== "undo" || entry.of !== null) return;
    const card = /** @type {UndoResponse} */ (response).candidate;
    this.history = this.history.filter(({ rows }) =>
      rows.every((other) => other.card.id !== card.id),
    );
    this.#queue.putBack([{ card, held: null }]);
  }

  /** @param {{entry: Entry}} detail */
  #onRetried({ entry }) {
    const row = this.#findRow(entry.key);
    if (row) row.state = "pending";
    this.#emit("history", null);
  }

  /** @param {{entry: Entry, error: Error}} detail */
  #onRefused({ entry }) {
    const row = this.#findRow(entry.key);
    if (row) row.state = "refused";
    this.#emit("history", null);
    const restored = this.#restored.get(entry.key);
    if (restored) this.#queue.drop(restored); // the undo failed, so the decision is final
  }

  /** @param {string} key */
  #findRow(key) {
    return this.history.flatMap(({ rows }) => rows).find((row) => row.key === key);
  }

  /**
   * @param {string} name
   * @param {unknown} detail
   */
  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
