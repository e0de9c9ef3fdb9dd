/** Web worker of the edges view: receives the URL of a layer and returns its edge map. */

import { findEdges } from "./edges.js";

/**
 * @typedef {object} EdgeResult
 * @property {ImageBitmap} bitmap
 * @property {number} share semi-transparent share of all visible pixels, 0..1
 * @property {number | null} difference color difference in levels of 255; null if unknown
 */

addEventListener("message", async (event) => {
  try {
    const result = await computeEdges(event.data);
    postMessage(result, { transfer: [result.bitmap] });
  } catch {
    postMessage(null);
  }
});

/**
 * @param {string} url
 * @returns {Promise<EdgeResult>}
 */
async function computeEdges(url) {
  // The page has loaded this image before: use the browser's cache, which also works offline.
  const response = await fetch(url, { cache: "force-cache" });
  const layer = await createImageBitmap(await response.blob());
  const canvas = new OffscreenCanvas(layer.width, layer.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("the browser does not support 2D canvas in workers");
  context.drawImage(layer, 0, 0);
  layer.close();
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const { image, share, difference } = findEdges(pixels);
  context.putImageData(image, 0, 0);
  return { bitmap: canvas.transferToImageBitmap(), share, difference };
}
