/** View controls of the single view: view, zoom and layer, by buttons and keyboard shortcuts. */

import { createButtonGroup } from "../lib/button_group.js";
import { button, byId, replace } from "../lib/dom.js";
import { layerImage } from "../lib/layer_image.js";
import { VIEWS, ZOOMS } from "./viewer.js";

const LABELS = new Map([
  ["image", "Image"],
  ["alpha", "Alpha"],
  ["faint", "Faint alpha"],
  ["edges", "Edges"],
  ["fit", "Fit"],
  ["foreground", "Foreground"],
  ["background", "Background"],
  ["blended", "Blended"],
  ["over", "Composite"],
  ["swap", "Swap background"],
]);
const LAYER_KEYS = new Map([
  ["foreground", "f"],
  ["background", "g"],
  ["blended", "m"],
  ["over", "o"],
  ["swap", "x"],
]);
const LAYER_HELP = new Map([
  ["foreground", "Show the foreground"],
  ["background", "Show the background"],
  ["blended", "Show the blended image as generated"],
  ["over", "Show the foreground composited over the background"],
  ["swap", "Show the foreground over another candidate's background; press again for the next"],
]);
/** Screen pixels per press of a pan key. */
const PAN_STEP = 64;
const SINGLE = { view: "single" };

/**
 * A viewer, or several that act as one.
 * @typedef {Pick<import("./viewer.js").Viewer,
 *   "get" | "set" | "zoomBy" | "moveBy" | "addImage" | "addEventListener">} ControlledViewer
 */

/**
 * @param {ControlledViewer} viewer
 * @param {import("../lib/shortcuts.js").Shortcuts} shortcuts
 * @param {() => {kind: string} | null} current
 * @param {(() => string | null) | null} nextBackground returns the background URL of another pair;
 *   null where backgrounds are not swapped
 * @param {string[]} views
 */
export function installViewControls(viewer, shortcuts, current, nextBackground, views = VIEWS) {
  bindViewAndZoom(viewer, shortcuts, views);
  const layers = [...LAYER_KEYS].filter(([layer]) => layer !== "swap" || nextBackground);

  /** @param {string} layer */
  const selectLayer = (layer) => {
    if (layer === "swap") {
      const src = nextBackground?.();
      if (!src) return;
      viewer.addImage(layerImage({ src, "data-role": "other" }));
    }
    viewer.set("layer", layer);
  };
  const toggleSeparate = () => viewer.set("separate", viewer.get("separate") ? "" : "yes");
  for (const [layer, key] of layers) {
    const help = LAYER_HELP.get(layer) ?? "";
    shortcuts.bind("Pairs", [key], help, () => isPair(current()) && selectLayer(layer), SINGLE);
  }
  const separateHelp = "Show layers separately or stacked";
  shortcuts.bind("Pairs", ["e"], separateHelp, () => isPair(current()) && toggleSeparate(), SINGLE);

  // Buttons for the same settings.
  const separate = button("Separate", toggleSeparate);
  replace(byId("separate"), separate);
  /**
   * @param {string} id
   * @param {Iterable<string>} values
   * @param {(value: string) => void} onSelect
   */
  const buttonRow = (id, values, onSelect) => {
    const options = [...values].map(
      (value) => /** @type {const} */ ([value, LABELS.get(value) ?? `${value}×`]),
    );
    return createButtonGroup(byId(id), options, onSelect);
  };
  const markView = buttonRow("views", views, (value) => viewer.set("view", value));
  const markZoom = buttonRow("zooms", ZOOMS, (value) => viewer.set("zoom", value));
  const markLayer = buttonRow(
    "layers",
    layers.map(([layer]) => layer),
    selectLayer,
  );
  const update = () => {
    markView(viewer.get("view"));
    markZoom(viewer.get("zoom"));
    markLayer(viewer.get("layer"));
    separate.setAttribute("aria-pressed", String(Boolean(viewer.get("separate"))));
    for (const id of ["layers", "separate"]) byId(id).hidden = !isPair(current());
  };
  viewer.addEventListener("change", update);
  update();
}

/**
 * Register the shortcuts for view, zoom and pan.
 * @param {ControlledViewer} viewer
 * @param {import("../lib/shortcuts.js").Shortcuts} shortcuts
 * @param {string[]} views
 */
function bindViewAndZoom(viewer, shortcuts, views) {
  const choices = /** @type {const} */ ({ view: views, zoom: ZOOMS });
  /**
   * @param {keyof typeof choices} name
   * @param {number} step
   */
  const cycle = (name, step) => {
    const values = choices[name];
    const index = (values.indexOf(viewer.get(name)) + step) % values.length;
    viewer.set(name, /** @type {string} */ (values.at(index)));
  };
  const edges = views.includes("edges") ? ", edges (fringe and halo)" : "";
  const viewHelp = `Next view: image, alpha, faint alpha (any opacity)${edges}`;
  shortcuts.bind("View", ["v"], viewHelp, () => cycle("view", 1), SINGLE);
  shortcuts.bind("View", ["Shift+v"], "Previous view", () => cycle("view", -1), SINGLE);
  const zoomHelp = "Next zoom level: fit, 1×, 2×, 4×, 8× (scroll to zoom, drag to pan)";
  shortcuts.bind("View", ["z"], zoomHelp, () => cycle("zoom", 1), SINGLE);
  const fit = () => viewer.set("zoom", "fit");
  shortcuts.bind("View", ["Shift+z"], "Zoom to fit", fit, SINGLE);
  const repeating = { ...SINGLE, repeats: true };
  shortcuts.bind("View", ["+", "="], "Zoom in", () => viewer.zoomBy(Math.SQRT2), repeating);
  shortcuts.bind("View", ["-"], "Zoom out", () => viewer.zoomBy(Math.SQRT1_2), repeating);

  /** @type {Record<string, [number, number]>} */
  const steps = {
    ArrowLeft: [PAN_STEP, 0],
    ArrowRight: [-PAN_STEP, 0],
    ArrowUp: [0, PAN_STEP],
    ArrowDown: [0, -PAN_STEP],
  };
  const arrows = Object.keys(steps).map((name) => `Shift+${name}`);
  /** @param {KeyboardEvent} event */
  const pan = (event) => viewer.moveBy(...(steps[event.key] ?? [0, 0]));
  shortcuts.bind("View", arrows, "Pan", pan, repeating);
}

/** @param {{kind: string} | null} card */
function isPair(card) {
  return card?.kind === "pair";
}
