/** The edges view: shows the edge map over the current layer, with a legend. */

import { afterFrame } from "../lib/after_frame.js";
import { byId, el, replace } from "../lib/dom.js";
import { formatNumber, formatPercent } from "../lib/format.js";
import { EdgePrefetch } from "./edge_prefetch.js";

const USED_KEY = "layerloop.edges";

/**
 * @param {import("./viewer.js").Viewer} viewer
 * @param {import("./queue.js").ReviewQueue} queue
 */
export function installEdgeView(viewer, queue) {
  const edges = new EdgePrefetch();
  const legend = byId("edge-legend");
  // In a pair, only the foreground has edges: background and blended image are opaque.
  const currentUrl = () => {
    const role = viewer.get("layer") === "background" ? "background" : "foreground";
    return viewer.image(role)?.src ?? "";
  };
  const prefetch = () => {
    const nextUrl = queue.items[1]?.images.get("foreground")?.src ?? "";
    edges.request([currentUrl(), nextUrl].filter(Boolean));
  };
  const update = () => {
    const active = viewer.get("view") === "edges";
    legend.hidden = !active;
    if (!active) {
      // Prefetch only for reviewers who use this view; for others it would waste CPU time.
      if (localStorage.getItem(USED_KEY)) afterFrame(prefetch);
      return;
    }
    localStorage.setItem(USED_KEY, "used");
    prefetch();
    const result = edges.get(currentUrl());
    const canvas = result?.canvas ?? el("canvas", { "data-role": "edges", width: 1, height: 1 });
    if (!canvas.isConnected) viewer.addImage(canvas);
    const message = result === null ? "Edges are not available." : "Detecting edges…";
    replace(legend, result ? legendContent(result) : message);
  };
  viewer.addEventListener("change", update);
  edges.addEventListener("result", () => viewer.get("view") === "edges" && update());
}

/** @param {import("./edge_prefetch.js").EdgeMap} result */
function legendContent({ share, difference }) {
  const levels =
    difference === null
      ? ""
      : `, color difference to interior: ${formatNumber(difference, 2)} of 255 levels`;
  const amount = `${formatPercent(share)} semi-transparent${levels}`;
  const text = `Dark: interior color, bright: different color. ${amount}.`;
  return [el("span", { class: "ramp", "aria-hidden": "true" }), text];
}
