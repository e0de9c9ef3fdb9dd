/** The view "edges": computed when it is asked for, and laid over the layer that is looked at. */

import { findEdges } from "./edges.js";
import { fill, make, part } from "./elements.js";
import { figure } from "./words.js";

/** @param {import("./stage.js").Stage} stage */
export function installEdgeView(stage) {
  const legend = part("edge-legend");
  let drawn = "";
  stage.addEventListener("change", () => {
    const seen = stage.get("view") === "edges";
    legend.hidden = !seen;
    if (!seen) return;
    // Of a pair the foreground has the edges: a background and a blended picture are opaque.
    const image = stage.picture(stage.get("layer") === "background" ? "background" : "foreground");
    if (!image || (drawn === image.src && stage.picture("foreground")?.parentElement?.querySelector("canvas"))) return;
    drawn = image.src;
    const { canvas, edges } = paint(image);
    stage.lay(canvas);
    const gap = edges.gap === null ? "" : `, whose colour is ${figure(edges.gap, 2)} of 255 levels from the inside`;
    const told = `Dark: as the inside; bright: another colour. ${figure(100 * edges.share, 2)} % half clear${gap}.`;
    fill(legend, make("span", { class: "ramp", "aria-hidden": "true" }), told);
  });
}

/** @param {HTMLImageElement} image */
function paint(image) {
  const canvas = make("canvas", { "data-role": "edges", width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("this browser draws no canvas");
  context.drawImage(image, 0, 0);
  const edges = findEdges(context.getImageData(0, 0, canvas.width, canvas.height));
  context.putImageData(edges.picture, 0, 0);
  return { canvas, edges };
}
