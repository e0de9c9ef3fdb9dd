/** A group of buttons of which one is pressed. Buttons are created once, so they keep the focus. */

import { button, replace } from "./dom.js";

/**
 * Fill an element with one button per option.
 * @param {HTMLElement} root
 * @param {Iterable<readonly [string, string, import("./dom.js").Attributes?]>} options
 *   value, label and attributes of each button
 * @param {(value: string) => void} onSelect
 * @returns {(value: string) => void} marks the button with this value as pressed
 */
export function createButtonGroup(root, options, onSelect) {
  const buttons = [...options].map(([value, label, attributes]) => ({
    value,
    element: button(label, () => onSelect(value), attributes),
  }));
  replace(
    root,
    buttons.map(({ element }) => element),
  );
  return (selected) => {
    for (const { value, element } of buttons) {
      element.setAttribute("aria-pressed", String(value === selected));
    }
  };
}
