/** The view "edges", laid over the layer that is looked at; whoever uses it has it found ahead, and its key costs a frame. */

import { afterFrame } from "./after_frame.js";
import { EdgesAhead } from "./edges_ahead.js";
import { fill, make, part } from "./elements.js";
import { figure } from "./words.js";

const REMEMBERED = "layerloop.edges";

/**
 * @param {import("./stage.js").Stage} stage
 * @param {import("./tray.js").Tray} tray whose next picture is seen to while this one is looked at
 */
export function installEdgeView(stage, tray) {
  const edges = new EdgesAhead();
  const legend = part("edge-legend");
  // Of a pair the foreground has the edges: a background and a blended picture are opaque.
  const looked = () => stage.picture(stage.get("layer") === "background" ? "background" : "foreground")?.src ?? "";
  const look = () => edges.want([looked(), tray.held[1]?.images.get("foreground")?.src ?? ""].filter(Boolean));
  const show = () => {
    const seen = stage.get("view") === "edges";
    legend.hidden = !seen;
    // For those who never look at edges, finding them would only take the processor from the next picture.
    if (!seen) return void (localStorage.getItem(REMEMBERED) && afterFrame(look));
    localStorage.setItem(REMEMBERED, "used");
    look();
    const found = edges.of(looked());
    const canvas = found?.canvas ?? make("canvas", { "data-role": "edges", width: 1, height: 1 });
    if (!canvas.isConnected) stage.lay(canvas);
    fill(legend, found ? legendOf(found) : found === null ? "The edges cannot be had now." : "Looking for the edges…");
  };
  stage.addEventListener("change", show);
  edges.addEventListener("found", () => stage.get("view") === "edges" && show());
}

/** @param {import("./edges_ahead.js").Found} found */
function legendOf({ share, gap }) {
  const apart = gap === null ? "" : `, whose colour is ${figure(gap, 2)} of 255 levels from the inside`;
  const told = `Dark: as the inside; bright: another colour. ${figure(100 * share, 2)} % half clear${apart}.`;
  return [make("span", { class: "ramp", "aria-hidden": "true" }), told];
}
