/** Making and finding elements; text is always text, never markup. */

/**
 * @typedef {Node | string | number | null | undefined | false} Child
 * @typedef {{[name: string]: string | number | boolean | null | undefined}} Attributes
 */

/**
 * A new element. Attributes that are false or null are left out; `--name` sets a custom property, since the
 * pages' security policy allows no style attributes.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Attributes} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("--")) element.style.setProperty(name, String(value));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  fill(element, ...children);
  return element;
}

/**
 * Replaces what stands in an element.
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function fill(element, ...children) {
  const nodes = children.flat().filter((child) => child !== null && child !== undefined && child !== false);
  element.replaceChildren(...nodes.map((child) => (child instanceof Node ? child : String(child))));
}

/**
 * The element of the page with this id; its absence is a mistake in the template.
 * @template {Element} [T=HTMLElement]
 * @param {string} id
 * @param {{new (): T}} [type]
 * @returns {T}
 */
export function part(id, type) {
  const element = document.getElementById(id);
  if (!element || (type && !(element instanceof type)))
    throw new Error(`the page has no ${type?.name ?? "part"} #${id}`);
  return /** @type {T} */ (/** @type {unknown} */ (element));
}

/**
 * A button that does something.
 * @param {string} label
 * @param {() => void} run
 * @param {Attributes} [attributes]
 */
export function button(label, run, attributes = {}) {
  const element = make("button", { type: "button", ...attributes }, label);
  element.addEventListener("click", run);
  return element;
}
