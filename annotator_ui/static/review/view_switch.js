/** Switches between the single view and the grid; the page address names the current view. */

import { createButtonGroup } from "../lib/button_group.js";
import { byId } from "../lib/dom.js";
import { SINGLE_PLAN } from "./queue.js";

const VIEW_LABELS = new Map([
  ["single", "Single"],
  ["grid", "Grid"],
]);

/**
 * @param {import("../lib/shortcuts.js").Shortcuts} shortcuts
 * @param {import("./session.js").ReviewSession} session
 * @param {import("./queue.js").ReviewQueue} queue
 * @param {import("./grid.js").Grid} grid
 * @returns {Promise<void>} resolves when the first candidates are claimed
 */
export function installViewSwitch(shortcuts, session, queue, grid) {
  const root = byId("review");
  const markView = createButtonGroup(byId("view-switch"), VIEW_LABELS, (view) => {
    if (view !== root.dataset["view"]) openView(view);
  });
  /** @param {string} view */
  const openView = (view) => {
    const first = view === "single" ? (grid.current?.card.id ?? null) : null;
    const url = new URL(location.href);
    if (view === "grid") url.searchParams.set("view", "grid");
    else url.searchParams.delete("view");
    history.replaceState(null, "", url);
    shortcuts.view = root.dataset["view"] = view;
    session.single = view === "single";
    markView(view);
    return queue.setPlan(session.single ? SINGLE_PLAN : grid.plan, first);
  };
  shortcuts.bind("Page", ["t"], "Switch between single view and grid", () => {
    openView(session.single ? "grid" : "single");
  });
  return openView(new URLSearchParams(location.search).get("view") === "grid" ? "grid" : "single");
}
