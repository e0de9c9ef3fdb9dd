/** Buttons of which one is pressed: made once, so that pressing another takes neither the focus nor a frame. */

import { button, fill } from "./elements.js";

/**
 * Fills a row with them.
 * @param {HTMLElement} root
 * @param {Iterable<readonly [string, string, import("./elements.js").Attributes?]>} choices value, label and attributes
 * @param {(value: string) => void} choose
 * @returns {(value: string) => void} shows which of them is chosen
 */
export function fillChoices(root, choices, choose) {
  const buttons = [...choices].map(([value, label, attributes]) => ({ value, element: button(label, () => choose(value), attributes) }));
  fill(root, buttons.map(({ element }) => element));
  return (chosen) => {
    for (const { value, element } of buttons) element.setAttribute("aria-pressed", String(value === chosen));
  };
}
