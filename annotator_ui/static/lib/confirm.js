/** A dialog that asks before an action; Escape and "Back" leave everything as it is. */

import { button, el } from "./dom.js";

/**
 * Ask whether to do something, and return whether the visitor agreed.
 * @param {{title: string, text: string, label: string, danger?: boolean}} question `label` is the
 *   text of the button that agrees
 * @returns {Promise<boolean>}
 */
export function confirmAction({ title, text, label, danger = false }) {
  return new Promise((resolve) => {
    const close = (/** @type {boolean} */ agreed) => {
      resolve(agreed);
      dialog.close();
    };
    const dialog = el(
      "dialog",
      { id: "confirm", "aria-labelledby": "confirm-title" },
      el("h2", { id: "confirm-title" }, title),
      el("p", {}, text),
      el(
        "div",
        { class: "actions" },
        button("Back", () => close(false)),
        button(label, () => close(true), { class: danger ? "danger" : "primary" }),
      ),
    );
    dialog.addEventListener("close", () => {
      resolve(false); // no effect after an answer
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
