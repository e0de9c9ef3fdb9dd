/** The worker behind the view "edges": a layer's address comes in, its edges go back as a picture that is only handed over. */

import { findEdges } from "./edges.js";

/**
 * @typedef {object} Answer
 * @property {ImageBitmap} bitmap
 * @property {number} share of all visible pixels that are half clear, 0..1
 * @property {number | null} gap levels of 255, or null where nothing is known of the inside
 */

addEventListener("message", async (event) => {
  try {
    const { bitmap, share, gap } = await answer(event.data);
    postMessage({ bitmap, share, gap }, { transfer: [bitmap] });
  } catch {
    postMessage(null); // the page tells that it cannot be had
  }
});

/** @param {string} address @returns {Promise<Answer>} */
async function answer(address) {
  // The page has loaded this picture before: what the browser keeps of it does, also without a connection.
  const response = await fetch(address, { cache: "force-cache" });
  const layer = await createImageBitmap(await response.blob());
  const canvas = new OffscreenCanvas(layer.width, layer.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("this browser draws no canvas");
  context.drawImage(layer, 0, 0);
  layer.close();
  const { picture, share, gap } = findEdges(context.getImageData(0, 0, canvas.width, canvas.height));
  context.putImageData(picture, 0, 0);
  return { bitmap: canvas.transferToImageBitmap(), share, gap };
}
