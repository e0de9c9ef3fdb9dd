/** DOM helpers: create, fill and find elements. Text is always set as text, never as markup. */

/**
 * @typedef {Node | string | number | null | undefined | false} Child
 * @typedef {{[name: string]: string | number | boolean | null | undefined}} Attributes
 */

/**
 * Create an element. Attributes that are false, null or undefined are skipped; `--name` sets a
 * custom property, because the Content Security Policy forbids style attributes.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Attributes} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("--")) element.style.setProperty(name, String(value));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  replace(element, ...children);
  return element;
}

/**
 * Replace the children of an element. Empty children (null, undefined, false) are skipped.
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function replace(element, ...children) {
  const nodes = children
    .flat()
    .filter((child) => child !== null && child !== undefined && child !== false);
  element.replaceChildren(...nodes.map((child) => (child instanceof Node ? child : String(child))));
}

/**
 * Return the element with this id. A missing element is a bug in the template, so this throws.
 * @template {Element} [T=HTMLElement]
 * @param {string} id
 * @param {{new (): T}} [type]
 * @returns {T}
 */
export function byId(id, type) {
  const element = document.getElementById(id);
  if (!element || (type && !(element instanceof type))) {
    throw new Error(`the page has no ${type?.name ?? "element"} #${id}`);
  }
  return /** @type {T} */ (/** @type {unknown} */ (element));
}

/**
 * Create a button with a click handler.
 * @param {string} label
 * @param {() => void} onClick
 * @param {Attributes} [attributes]
 */
export function button(label, onClick, attributes = {}) {
  const element = el("button", { type: "button", ...attributes }, label);
  element.addEventListener("click", onClick);
  return element;
}
