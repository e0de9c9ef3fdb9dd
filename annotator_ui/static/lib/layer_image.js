/** Images of layers, which may come from the object store's own origin. */

import { el } from "./dom.js";

/**
 * Create the image of a layer. It is loaded by CORS, so that the edges view, which fetches the same
 * URL, finds it in the browser's cache.
 * @param {import("./dom.js").Attributes} attributes
 */
export function layerImage(attributes) {
  return el("img", { crossorigin: "anonymous", alt: "", draggable: "false", ...attributes });
}
