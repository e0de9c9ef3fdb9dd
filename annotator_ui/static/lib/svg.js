/** Create SVG elements of charts. */

/**
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 * @param {(Node | string | false)[]} [children]
 */
export function svg(tag, attributes, children = []) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== false));
  return element;
}
