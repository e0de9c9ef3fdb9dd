/** Keyboard shortcuts and buttons of the grid. */

import { createButtonGroup } from "../lib/button_group.js";
import { byId, el, replace } from "../lib/dom.js";
import { pluralize } from "../lib/format.js";
import { GRID_SIZES } from "./grid.js";
import { Lightbox } from "./lightbox.js";
import { withLayer } from "./reason_layers.js";
import { reasonList, reasonsByKey } from "./reasons.js";

/**
 * @typedef {import("./grid.js").Grid} Grid
 * @typedef {import("../lib/shortcuts.js").Handler} Handler
 * @typedef {(
 *   group: string, keys: string[], help: string, run: Handler, repeats?: boolean
 * ) => void} Bind
 */

const VIEWS = ["image", "alpha", "faint"];
const GRID = { view: "grid" };
const UNMARKED_OPTIONS = /** @type {const} */ ([
  ["reject", "Reject"],
  ["skip", "Leave for later"],
]);

/**
 * @param {Grid} grid
 * @param {import("../lib/shortcuts.js").Shortcuts} shortcuts
 * @param {Reason[]} reasons
 */
export function installGridShortcuts(grid, shortcuts, reasons) {
  /** @type {Bind} */
  const bind = (group, keys, help, run, repeats = false) =>
    shortcuts.bind(group, keys, help, run, { ...GRID, repeats });
  bindNavigation(grid, bind);
  bindMarks(grid, bind, reasons);

  // View: image or alpha, and the lightbox while a key is held.
  const root = byId("grid");
  root.dataset["view"] = "image";
  bind("View", ["v"], "Next view: image, alpha, faint alpha", () => {
    const index = VIEWS.indexOf(root.dataset["view"] ?? "");
    root.dataset["view"] = VIEWS[(index + 1) % VIEWS.length] ?? "image";
  });
  const lightbox = new Lightbox(byId("lightbox"));
  const showLightbox = () => grid.current && lightbox.show(grid.current.card);
  const hideLightbox = { ...GRID, release: () => lightbox.hide() };
  shortcuts.bind("View", ["l"], "Hold: enlarge the focused candidate", showLightbox, hideLightbox);
  installButtons(grid);
}

/**
 * @param {Grid} grid
 * @param {Bind} bind
 */
function bindNavigation(grid, bind) {
  /** @param {KeyboardEvent} event */
  const stepOf = (event) => {
    const { columns } = grid;
    /** @type {Record<string, number>} */
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    return steps[event.key] ?? 0;
  };
  const arrows = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"];
  const shifted = arrows.map((name) => `Shift+${name}`);
  bind("Grid", arrows, "Move focus", (event) => grid.move(stepOf(event)), true);
  bind("Grid", shifted, "Mark a range", (event) => grid.move(stepOf(event), true), true);
  bind("Grid", ["Home", "End"], "First or last candidate", (_, key) =>
    grid.move(key === "Home" ? -grid.size : grid.size),
  );
}

/**
 * @param {Grid} grid
 * @param {Bind} bind
 * @param {Reason[]} reasons
 */
function bindMarks(grid, bind, reasons) {
  bind("Grid", ["Space"], "Mark or unmark as good", () => grid.toggleMark());
  bind("Grid", ["a"], "Mark all", () => grid.markAll(true));
  bind("Grid", ["n"], "Unmark all", () => grid.markAll(false));

  const byKey = reasonsByKey(reasons);
  const reasonHelp = `Reject with a reason, or remove it: ${reasonList(byKey)} (pairs only)`;
  bind("Grid", [...byKey.keys()], reasonHelp, (_, key) => {
    const reason = byKey.get(key);
    const pair = grid.current?.card.kind === "pair";
    if (!reason || (reason.pairs_only && !pair)) return;
    grid.toggleReason(withLayer(reason.name, pair ? "blended" : ""));
  });

  const toggleUnmarked = () =>
    grid.setUnmarkedVerdict(grid.unmarkedVerdict === "reject" ? "skip" : "reject");
  bind("Grid", ["w"], "Unmarked candidates: reject or leave for later", toggleUnmarked);
  bind("Grid", ["Enter"], "Submit: accept the marked candidates", (event) =>
    grid.submit(event.timeStamp),
  );
  bind("Grid", ["+", "="], "Fewer, larger images", () => stepSize(grid, -1));
  bind("Grid", ["-"], "More, smaller images", () => stepSize(grid, 1));
}

/** @param {Grid} grid */
function installButtons(grid) {
  byId("submit").addEventListener("click", (event) => grid.submit(event.timeStamp));
  byId("mark-all").addEventListener("click", () => grid.markAll(true));
  byId("mark-none").addEventListener("click", () => grid.markAll(false));
  const markUnmarked = createButtonGroup(byId("unmarked"), UNMARKED_OPTIONS, (verdict) =>
    grid.setUnmarkedVerdict(verdict === "skip" ? "skip" : "reject"),
  );
  const sizes = GRID_SIZES.map(String).map((size) => /** @type {const} */ ([size, size]));
  const markSize = createButtonGroup(byId("grid-sizes"), sizes, (size) =>
    grid.setSize(Number(size)),
  );
  const update = () => {
    updateSubmit(grid);
    markUnmarked(grid.unmarkedVerdict);
    markSize(String(grid.size));
  };
  grid.addEventListener("change", update);
  update();
}

/**
 * @param {Grid} grid
 * @param {number} step
 */
function stepSize(grid, step) {
  const size = GRID_SIZES[GRID_SIZES.indexOf(grid.size) + step];
  if (size) grid.setSize(size);
}

/** @param {Grid} grid */
function updateSubmit(grid) {
  const { accept, reject, skip } = grid.counts;
  const total = accept + reject + skip;
  const parts = [`Accept ${accept}`, reject && `reject ${reject}`, skip && `leave ${skip}`];
  replace(byId("submit"), el("span", {}, parts.filter(Boolean).join(", ")), el("kbd", {}, "⏎"));
  byId("submit").toggleAttribute("disabled", total === 0);
  byId("grid").setAttribute("aria-label", `Grid of ${pluralize(total, "candidate")}`);
}
