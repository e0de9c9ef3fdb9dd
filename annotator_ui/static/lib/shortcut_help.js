/** The dialog that lists the keyboard shortcuts, generated from the registered shortcuts. */

import { byId, el, replace } from "./dom.js";

const KEY_SYMBOLS = new Map([
  ["ArrowLeft", "←"],
  ["ArrowRight", "→"],
  ["ArrowUp", "↑"],
  ["ArrowDown", "↓"],
  ["Backspace", "⌫"],
  ["Escape", "Esc"],
  ["Enter", "⏎"],
]);

/** @param {import("./shortcuts.js").Shortcuts} shortcuts */
export function installShortcutHelp(shortcuts) {
  const dialog = byId("help", HTMLDialogElement);
  const toggle = () => {
    if (dialog.open) return dialog.close();
    const groups = Map.groupBy(shortcuts.active, (shortcut) => shortcut.group);
    replace(
      byId("help-keys"),
      [...groups].map(([group, members]) => section(group, members)),
    );
    dialog.showModal();
  };
  shortcuts.bind("Page", ["?"], "Show or hide keyboard shortcuts", toggle);

  // Shortcuts are inactive while a dialog is open, so the dialog itself listens for "?".
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "?") return;
    event.stopPropagation();
    dialog.close();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  byId("help-open").hidden = false;
  byId("help-open").addEventListener("click", toggle);
  byId("help-close").addEventListener("click", () => dialog.close());
}

/**
 * @param {string} group
 * @param {import("./shortcuts.js").Shortcut[]} shortcuts
 */
function section(group, shortcuts) {
  const rows = shortcuts.flatMap(({ keys, help }) => [
    el(
      "dt",
      { "data-keys": keys.join(" ") },
      abbreviate(keys).flatMap((key, index) => [index > 0 && " ", keyCaps(key)]),
    ),
    el("dd", {}, help),
  ]);
  return el("section", {}, el("h3", {}, group), el("dl", {}, rows));
}

/** Show a long run of keys as its first and last key. @param {string[]} keys */
function abbreviate(keys) {
  const [first, last] = [keys[0], keys.at(-1)];
  return first && last && keys.length > 3 ? [first, "…", last] : keys;
}

/** Render a key combination as key caps. @param {string} key */
function keyCaps(key) {
  if (key === "…") return key;
  const parts = key === "+" ? [key] : key.split("+");
  const caps = parts.map(
    (cap) => KEY_SYMBOLS.get(cap) ?? (/^[a-z]$/.test(cap) ? cap.toUpperCase() : cap),
  );
  return el(
    "span",
    { class: "chord" },
    caps.map((cap) => el("kbd", {}, cap)),
  );
}
