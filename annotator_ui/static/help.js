/** The overlay that lists every key, made from the table of keys itself. */

import { fill, make, part } from "./elements.js";

const NAMES = new Map([
  ["ArrowLeft", "←"],
  ["ArrowRight", "→"],
  ["ArrowUp", "↑"],
  ["ArrowDown", "↓"],
  ["Backspace", "⌫"],
  ["Escape", "Esc"],
  ["Enter", "⏎"],
]);

/** @param {import("./keys.js").Keys} keys */
export function installHelp(keys) {
  const dialog = part("help", HTMLDialogElement);
  const toggle = () => {
    if (dialog.open) return dialog.close();
    const groups = Map.groupBy(keys.here, (binding) => binding.group);
    fill(
      part("help-keys"),
      [...groups].map(([group, bindings]) => section(group, bindings)),
    );
    dialog.showModal();
  };
  keys.bind("Page", ["?"], "Show or hide this list", toggle);
  // While the list is open the table of keys is deaf, so that nobody decides through it; "?" closes it again.
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "?") return;
    event.stopPropagation();
    dialog.close();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  part("help-open").hidden = false;
  part("help-open").addEventListener("click", toggle);
  part("help-close").addEventListener("click", () => dialog.close());
}

/** @param {string} group @param {import("./keys.js").Binding[]} bindings */
function section(group, bindings) {
  const rows = bindings.flatMap(({ keys, help }) => [
    make(
      "dt",
      { "data-keys": keys.join(" ") },
      shortened(keys).flatMap((key, index) => [index > 0 && " ", keycaps(key)]),
    ),
    make("dd", {}, help),
  ]);
  return make("section", {}, make("h3", {}, group), make("dl", {}, rows));
}

/** A run of digits or arrows as its first and its last. @param {string[]} keys */
function shortened(keys) {
  const [first, last] = [keys[0], keys.at(-1)];
  return first && last && keys.length > 3 ? [first, "…", last] : keys;
}

/** A key as the caps that a person presses. @param {string} key */
function keycaps(key) {
  if (key === "…") return key;
  const caps = (key === "+" ? [key] : key.split("+")).map((cap) => NAMES.get(cap) ?? (/^[a-z]$/.test(cap) ? cap.toUpperCase() : cap));
  return make(
    "span",
    { class: "chord" },
    caps.map((cap) => make("kbd", {}, cap)),
  );
}
