/** Pages of long lists: the place is in the page's address, and links lead to other pages. */

import { el, replace } from "./dom.js";
import { readPage } from "./http.js";

/**
 * Read the page of a list that the address of this page names, and show links to other pages.
 * @param {HTMLElement} nav element of the links; hidden if one page has all rows
 * @param {string} path path of the list in the API, with its limit
 * @param {{parameter?: string, labels?: [string, string]}} [options] parameter of this page's
 *   address that has the place, and labels of the links to the first and the next page
 * @returns {Promise<any[]>}
 */
export async function readListPage(
  nav,
  path,
  { parameter = "after", labels = ["Newest", "Older"] } = {},
) {
  const after = new URLSearchParams(location.search).get(parameter);
  const first = after === null ? null : pageLink("first", labels[0], address(parameter, null));
  let next = null;
  try {
    const query = after === null ? "" : `&after=${encodeURIComponent(after)}`;
    const page = await readPage(`${path}${query}`);
    next = page.next === null ? null : pageLink("next", labels[1], address(parameter, page.next));
    return page.rows;
  } finally {
    // Links that stay the same are not replaced, so that they keep the focus when a page refreshes.
    const shown = [...nav.querySelectorAll("a")].map((link) => link.href).join(" ");
    const links = [first, next].filter((link) => link !== null);
    if (shown !== links.map((link) => link.href).join(" ")) replace(nav, links);
    nav.hidden = links.length === 0;
  }
}

/**
 * Return the address of this page with another place in its list.
 * @param {string} parameter
 * @param {string | null} after null for the first page
 */
function address(parameter, after) {
  const target = new URL(location.href);
  target.hash = "";
  target.searchParams.delete(parameter);
  if (after !== null) target.searchParams.set(parameter, after);
  return target.pathname + target.search;
}

/**
 * @param {string} rel
 * @param {string} label
 * @param {string} href
 */
function pageLink(rel, label, href) {
  return el("a", { rel, href, class: "button" }, label);
}
