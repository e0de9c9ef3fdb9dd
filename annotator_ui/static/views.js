/** The two views of the desk, each with an address of its own: one candidate at a time, or a contact sheet. */

import { fillChoices } from "./choices.js";
import { part } from "./elements.js";
import { SINGLE } from "./tray.js";

const NAMES = new Map([
  ["single", "One by one"],
  ["sheet", "Sheet"],
]);

/**
 * @param {import("./keys.js").Keys} keys
 * @param {import("./desk.js").Desk} desk
 * @param {import("./tray.js").Tray} tray
 * @param {import("./contact.js").Contact} contact
 */
export function installViews(keys, desk, tray, contact) {
  const root = part("review");
  const showView = fillChoices(part("view-choice"), NAMES, (name) => name === root.dataset["view"] || open(name));
  /** @param {string} view */
  const open = (view) => {
    const first = view === "single" ? (contact.held?.card.id ?? null) : null;
    const address = new URL(location.href);
    if (view === "sheet") address.searchParams.set("view", "sheet");
    else address.searchParams.delete("view");
    history.replaceState(null, "", address);
    keys.where = root.dataset["view"] = view;
    desk.single = view === "single";
    showView(view);
    return tray.follow(desk.single ? SINGLE : contact.plan, first);
  };
  const help = "Contact sheet, and back to one candidate at a time (the one with the cursor)";
  keys.bind("Page", ["t"], help, () => void open(desk.single ? "sheet" : "single"));
  return open(new URLSearchParams(location.search).get("view") === "sheet" ? "sheet" : "single");
}
