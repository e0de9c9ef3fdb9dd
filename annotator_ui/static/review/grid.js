/** The grid view: many candidates at once. The good ones are marked; one submission decides all. */

import { GridItem } from "./grid_item.js";
import { joinReasons } from "./reason_layers.js";

/**
 * @typedef {import("./queue.js").QueuedItem} QueuedItem
 * @typedef {import("./session.js").Decision} Decision
 */

export const GRID_SIZES = [12, 24, 48];
const DEFAULT_SIZE = 24;
const STORAGE_KEYS = { size: "layerloop.grid.size", unmarked: "layerloop.grid.unmarked" };
/** Maximum number of candidates that one reviewer may hold. */
const MAX_CLAIMED = 64;
/** Layout, in pixels. */
const GAP = 8;
const PADDING = 8;
const MIN_ITEM_SIZE = 88;

export class Grid extends EventTarget {
  /** Verdict of the unmarked candidates. @type {"reject" | "skip"} */
  unmarkedVerdict = localStorage.getItem(STORAGE_KEYS.unmarked) === "skip" ? "skip" : "reject";
  size =
    GRID_SIZES.find((size) => String(size) === localStorage.getItem(STORAGE_KEYS.size)) ??
    DEFAULT_SIZE;
  /** Index of the focused item. */
  cursor = 0;
  columns = 1;
  #root;
  #queue;
  #session;
  /** @type {GridItem[]} */
  #items = [];
  /** Ids of the candidates marked as good. @type {Set<string>} */
  #marked = new Set();
  /** Reject reasons by candidate id. @type {Map<string, Set<string>>} */
  #reasons = new Map();
  /**
   * Start of the range that is being selected, and the marks before it.
   * @type {{start: number, marked: Set<string>} | null}
   */
  #range = null;

  /**
   * @param {HTMLElement} root
   * @param {import("./queue.js").ReviewQueue} queue
   * @param {import("./session.js").ReviewSession} session
   */
  constructor(root, queue, session) {
    super();
    this.#root = root;
    this.#queue = queue;
    this.#session = session;
    session.addEventListener("displayed", () => this.#updateItems());
    session.addEventListener("undone", (event) =>
      this.#restoreMarks(/** @type {CustomEvent} */ (event).detail),
    );
    root.addEventListener("click", (event) => this.#onClick(event));
    new ResizeObserver(() => this.#layOut()).observe(root);
  }

  /**
   * Prefetch plan of the grid: this page and the next one, up to the server's limit.
   * @returns {import("./queue.js").PrefetchPlan}
   */
  get plan() {
    const target = Math.min(2 * this.size, MAX_CLAIMED);
    return { size: "small", target, low: target, decoded: target, initial: target };
  }

  /** The candidate at the cursor. */
  get current() {
    return this.#items[this.cursor]?.held ?? null;
  }

  /** Number of candidates per verdict, if the grid were submitted now. */
  get counts() {
    const decisions = this.#decisions();
    const count = (/** @type {string} */ verdict) =>
      decisions.filter((decision) => decision.verdict === verdict).length;
    return { accept: count("accept"), reject: count("reject"), skip: count("skip") };
  }

  /** @param {number} size */
  setSize(size) {
    this.size = size;
    localStorage.setItem(STORAGE_KEYS.size, String(size));
    this.#queue.setPlan(this.plan);
  }

  /** @param {"reject" | "skip"} verdict */
  setUnmarkedVerdict(verdict) {
    this.unmarkedVerdict = verdict;
    localStorage.setItem(STORAGE_KEYS.unmarked, verdict);
    this.#render();
  }

  /**
   * Move the cursor.
   * @param {number} step
   * @param {boolean} [extend] mark everything between the start of the range and the cursor
   */
  move(step, extend = false) {
    this.moveTo(Math.min(Math.max(this.cursor + step, 0), this.#items.length - 1), extend);
  }

  /**
   * @param {number} index
   * @param {boolean} [extend]
   */
  moveTo(index, extend = false) {
    if (!this.#items[index]) return;
    if (extend) {
      this.#range ??= { start: this.cursor, marked: new Set(this.#marked) };
      const low = Math.min(this.#range.start, index);
      const high = Math.max(this.#range.start, index);
      this.#marked = new Set(this.#range.marked);
      for (const { id } of this.#items.slice(low, high + 1)) this.#mark(id);
    } else this.#range = null;
    this.cursor = index;
    this.#render();
    this.#items[index].element.focus({ preventScroll: false });
  }

  /** Mark or unmark the candidate at the cursor. */
  toggleMark() {
    const id = this.current?.card.id;
    if (!id) return;
    this.#range = null;
    if (!this.#marked.delete(id)) this.#mark(id);
    this.#render();
  }

  /** Mark or unmark every candidate. @param {boolean} marked */
  markAll(marked) {
    this.#range = null;
    this.#reasons.clear();
    this.#marked = new Set(marked ? this.#items.map(({ id }) => id) : []);
    this.#render();
  }

  /** Add or remove a reject reason of the candidate at the cursor. @param {string} reason */
  toggleReason(reason) {
    const id = this.current?.card.id;
    if (!id) return;
    const reasons = this.#reasons.get(id) ?? new Set();
    if (!reasons.delete(reason)) reasons.add(reason);
    this.#reasons.set(id, reasons);
    if (reasons.size) this.#marked.delete(id);
    this.#render();
  }

  /**
   * Decide every visible candidate.
   * @param {number} pressedAt time of the key press
   * @returns {boolean} whether the grid was submitted
   */
  submit(pressedAt) {
    return this.#session.submitGrid(this.#decisions(), pressedAt);
  }

  /** @returns {Decision[]} candidates that are still loading are left for the next page */
  #decisions() {
    const ready = this.#items.filter(({ held }) => held.state === "ready");
    return ready.map(({ id, held }) => {
      const reasons = [...(this.#reasons.get(id) ?? [])];
      if (reasons.length) return { held, verdict: "reject", reasons };
      const verdict = this.#marked.has(id) ? "accept" : this.unmarkedVerdict;
      return { held, verdict, reasons };
    });
  }

  /** @param {string} id */
  #mark(id) {
    this.#marked.add(id);
    this.#reasons.delete(id);
  }

  /** Show the first candidates of the queue. Marks stay with their candidates. */
  #updateItems() {
    if (this.#session.single) return;
    const before = new Map(this.#items.map((item) => [item.held, item]));
    this.#items = this.#queue.items
      .slice(0, this.size)
      .map((held) => before.get(held) ?? new GridItem(held));
    if (!this.#items.some((item) => before.has(item.held))) {
      this.cursor = 0;
      this.#range = null;
      this.#session.startGrid();
    }
    this.cursor = Math.max(0, Math.min(this.cursor, this.#items.length - 1));

    // Replacing the elements would lose the focus.
    const { activeElement } = document;
    const focused = this.#root.contains(activeElement) || activeElement === document.body;
    this.#root.replaceChildren(...this.#items.map((item) => item.element));
    this.#layOut();
    this.#render();
    if (focused) this.#items[this.cursor]?.element.focus();
  }

  /** Restore the marks of undone decisions. @param {import("./history.js").Row[]} rows */
  #restoreMarks(rows) {
    for (const { card, body } of rows) {
      if (body.verdict === "accept") this.#mark(card.id);
      if (body.reasons.length) this.#reasons.set(card.id, new Set(joinReasons(body)));
    }
  }

  /** @param {MouseEvent} event */
  #onClick(event) {
    const target = /** @type {Node} */ (event.target);
    const index = this.#items.findIndex(({ element }) => element.contains(target));
    if (index < 0) return;
    this.moveTo(index, event.shiftKey);
    if (!event.shiftKey) this.toggleMark();
  }

  /** Choose the number of columns that makes the items as large as possible. */
  #layOut() {
    const count = Math.max(this.#items.length, 1);
    const [width, height] = [this.#root.clientWidth - PADDING, this.#root.clientHeight - PADDING];
    /** @param {number} columns */
    const itemSize = (columns) => {
      const rows = Math.ceil(count / columns);
      return Math.min((width - (columns - 1) * GAP) / columns, (height - (rows - 1) * GAP) / rows);
    };
    const options = Array.from({ length: count }, (_, index) => index + 1);
    this.columns = options.reduce(
      (best, columns) => (itemSize(columns) > itemSize(best) ? columns : best),
      1,
    );
    const size = Math.max(MIN_ITEM_SIZE, Math.floor(itemSize(this.columns)));
    this.#root.style.setProperty("--item-size", `${size}px`);
    this.#root.style.setProperty("--columns", String(this.columns));
  }

  #render() {
    for (const [index, item] of this.#items.entries()) {
      item.render({
        marked: this.#marked.has(item.id),
        reasons: this.#reasons.get(item.id) ?? new Set(),
        unmarkedVerdict: this.unmarkedVerdict,
        focusable: index === this.cursor,
      });
    }
    this.dispatchEvent(new Event("change"));
  }
}
