/** A command with a button that copies it. */

import { button, el } from "./dom.js";

const SHOWN_MS = 2_000;

/**
 * Return a list item with a command and a button that copies it.
 * @param {string} command
 * @param {string} label what the button copies, for screen readers
 */
export function commandItem(command, label) {
  const code = el("code", {}, command);
  const copy = button("Copy", copyCommand, { "aria-label": `Copy: ${label}` });
  return el("li", {}, code, copy);

  async function copyCommand() {
    // Pages that are not served over HTTPS or from this machine have no clipboard.
    const copied = await Promise.resolve(navigator.clipboard?.writeText(command)).then(
      () => navigator.clipboard !== undefined,
      () => false,
    );
    if (!copied) getSelection()?.selectAllChildren(code);
    copy.textContent = copied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => {
      copy.textContent = "Copy";
    }, SHOWN_MS);
  }
}
