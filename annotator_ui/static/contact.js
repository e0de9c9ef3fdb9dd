/** The contact sheet: many candidates at once, of which the few good ones are marked; one submission decides them all. */

import { Cell } from "./cell.js";
import { collected } from "./concerns.js";

/**
 * @typedef {import("./tray.js").Held} Held
 * @typedef {import("./desk.js").Said} Said
 */

export const SIZES = [12, 24, 48];
const REMEMBERED = { size: "layerloop.sheet.size", others: "layerloop.sheet.others" };
/** The most candidates that one reviewer may hold. */
const MOST_HELD = 64;
const GAP = 8;
const SMALLEST = 88;

export class Contact extends EventTarget {
  /** What those without a mark get. @type {"reject" | "skip"} */
  others = localStorage.getItem(REMEMBERED.others) === "skip" ? "skip" : "reject";
  size = SIZES.find((size) => String(size) === localStorage.getItem(REMEMBERED.size)) ?? 24;
  cursor = 0;
  columns = 1;
  #root;
  #tray;
  #desk;
  /** @type {Cell[]} */
  #cells = [];
  /** Marked as good. @type {Set<string>} */
  #good = new Set();
  /** Reasons against single ones. @type {Map<string, Set<string>>} */
  #reasons = new Map();
  /** Where a range began, and what was marked before it. @type {{at: number, good: Set<string>} | null} */
  #range = null;

  /**
   * @param {HTMLElement} root
   * @param {import("./tray.js").Tray} tray
   * @param {import("./desk.js").Desk} desk
   */
  constructor(root, tray, desk) {
    super();
    this.#root = root;
    this.#tray = tray;
    this.#desk = desk;
    desk.addEventListener("shown", () => this.#refill());
    desk.addEventListener("undone", (event) => this.#restore(/** @type {CustomEvent} */ (event).detail));
    root.addEventListener("click", (event) => this.#press(event));
    new ResizeObserver(() => this.#lay()).observe(root);
  }

  /** What the tray holds for a sheet: this one and the next, as far as a reviewer may. @returns {import("./tray.js").Plan} */
  get plan() {
    const ahead = Math.min(2 * this.size, MOST_HELD);
    return { size: "small", ahead, low: ahead, decoded: ahead, first: ahead };
  }

  /** The candidate at the cursor. */
  get held() {
    return this.#cells[this.cursor]?.held ?? null;
  }

  /** How many would be accepted, rejected and left if the sheet were submitted now. */
  get counts() {
    const said = this.#said();
    const of = (/** @type {string} */ verdict) => said.filter((one) => one.verdict === verdict).length;
    return { accept: of("accept"), reject: of("reject"), skip: of("skip") };
  }

  /** @param {number} size */
  resize(size) {
    this.size = size;
    localStorage.setItem(REMEMBERED.size, String(size));
    this.#tray.follow(this.plan);
  }

  /** @param {"reject" | "skip"} verdict */
  setOthers(verdict) {
    this.others = verdict;
    localStorage.setItem(REMEMBERED.others, verdict);
    this.#show();
  }

  /** Moves the cursor; with `extend` all from where that began to the cursor are marked. @param {number} step @param {boolean} [extend] */
  move(step, extend = false) {
    this.goTo(Math.min(Math.max(this.cursor + step, 0), this.#cells.length - 1), extend);
  }

  /** @param {number} index @param {boolean} [extend] */
  goTo(index, extend = false) {
    if (!this.#cells[index]) return;
    if (extend) {
      this.#range ??= { at: this.cursor, good: new Set(this.#good) };
      const [low, high] = [Math.min(this.#range.at, index), Math.max(this.#range.at, index)];
      this.#good = new Set(this.#range.good);
      for (const { id } of this.#cells.slice(low, high + 1)) this.#praise(id);
    } else this.#range = null;
    this.cursor = index;
    this.#show();
    this.#cells[index].element.focus({ preventScroll: false });
  }

  /** Marks the candidate at the cursor as good, or takes the mark away. */
  toggle() {
    const id = this.held?.card.id;
    if (!id) return;
    this.#range = null;
    if (!this.#good.delete(id)) this.#praise(id);
    this.#show();
  }

  /** Marks all, or none. @param {boolean} good */
  markAll(good) {
    this.#range = null;
    this.#reasons.clear();
    this.#good = new Set(good ? this.#cells.map(({ id }) => id) : []);
    this.#show();
  }

  /** A reason against the candidate at the cursor, or no longer. @param {string} reason */
  object(reason) {
    const id = this.held?.card.id;
    if (!id) return;
    const reasons = this.#reasons.get(id) ?? new Set();
    if (!reasons.delete(reason)) reasons.add(reason);
    this.#reasons.set(id, reasons);
    if (reasons.size) this.#good.delete(id);
    this.#show();
  }

  /** Decides all that can be seen. @param {number} at when the key went down @returns {boolean} whether it was taken */
  submit(at) {
    return this.#desk.submit(this.#said(), at);
  }

  /** @returns {Said[]} those whose pictures have come; the others stay for the next sheet */
  #said() {
    return this.#cells.filter(({ held }) => held.state === "ready").map(({ id, held }) => {
      const reasons = [...(this.#reasons.get(id) ?? [])];
      if (reasons.length) return { held, verdict: "reject", reasons };
      return { held, verdict: this.#good.has(id) ? "accept" : this.others, reasons };
    });
  }

  /** @param {string} id */
  #praise(id) {
    this.#good.add(id);
    this.#reasons.delete(id);
  }

  /** Takes the first candidates of the tray; marks stay with their candidates. */
  #refill() {
    if (this.#desk.single) return;
    const before = new Map(this.#cells.map((cell) => [cell.held, cell]));
    this.#cells = this.#tray.held.slice(0, this.size).map((held) => before.get(held) ?? new Cell(held));
    if (!this.#cells.some((cell) => before.has(cell.held))) {
      this.cursor = 0;
      this.#range = null;
      this.#desk.startSheet();
    }
    this.cursor = Math.max(0, Math.min(this.cursor, this.#cells.length - 1));
    const focused = this.#root.contains(document.activeElement) || document.activeElement === document.body;
    this.#root.replaceChildren(...this.#cells.map((cell) => cell.element));
    this.#lay();
    this.#show();
    if (focused) this.#cells[this.cursor]?.element.focus();
  }

  /** @param {import("./history.js").Row[]} rows what was undone */
  #restore(rows) {
    for (const { card, body } of rows) {
      if (body.verdict === "accept") this.#praise(card.id);
      if (body.reasons.length) this.#reasons.set(card.id, new Set(collected(body)));
    }
  }

  /** @param {MouseEvent} event */
  #press(event) {
    const index = this.#cells.findIndex(({ element }) => element.contains(/** @type {Node} */ (event.target)));
    if (index < 0) return;
    this.goTo(index, event.shiftKey);
    if (!event.shiftKey) this.toggle();
  }

  /** As many columns as make the cells as large as they can be. */
  #lay() {
    const count = Math.max(this.#cells.length, 1);
    const [width, height] = [this.#root.clientWidth - 8, this.#root.clientHeight - 8];
    /** @param {number} columns */
    const side = (columns) => {
      const rows = Math.ceil(count / columns);
      return Math.min((width - (columns - 1) * GAP) / columns, (height - (rows - 1) * GAP) / rows);
    };
    const all = Array.from({ length: count }, (_, index) => index + 1);
    this.columns = all.reduce((best, columns) => (side(columns) > side(best) ? columns : best), 1);
    this.#root.style.setProperty("--side", `${Math.max(SMALLEST, Math.floor(side(this.columns)))}px`);
    this.#root.style.setProperty("--columns", String(this.columns));
  }

  #show() {
    for (const [index, cell] of this.#cells.entries()) {
      const reasons = this.#reasons.get(cell.id) ?? new Set();
      cell.show({ good: this.#good.has(cell.id), reasons, others: this.others, focusable: index === this.cursor });
    }
    this.dispatchEvent(new Event("change"));
  }
}
