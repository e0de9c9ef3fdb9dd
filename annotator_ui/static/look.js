/** How a candidate is looked at: background, view, zoom and layers, together or apart, by button and by key. */

import { fillChoices } from "./choices.js";
import { button, fill, make, part } from "./elements.js";
import { VIEWS, ZOOMS } from "./stage.js";

const NAMES = new Map([
  ["picture", "Picture"],
  ["alpha", "Alpha"],
  ["faint", "Faint"],
  ["edges", "Edges"],
  ["fit", "Fit"],
  ["foreground", "Foreground"],
  ["background", "Background"],
  ["blended", "Blended"],
  ["over", "Composite"],
  ["swap", "Elsewhere"],
]);
const MEANT = new Map([
  ["foreground", "the foreground"],
  ["background", "the background"],
  ["blended", "the blended picture as it was drawn"],
  ["over", "the foreground composed over the background, to compare with the blended picture"],
  ["swap", "the foreground over the background of another candidate; again, of the next one"],
]);
const LAYER_KEYS = new Map([
  ["foreground", "f"],
  ["background", "g"],
  ["blended", "m"],
  ["over", "o"],
  ["swap", "x"],
]);
/** Screen pixels by which a key moves the picture. */
const STEP = 64;
const ONE = { where: "single" };

/**
 * @param {import("./stage.js").Stage} stage
 * @param {import("./keys.js").Keys} keys
 * @param {() => Card | null} shown
 * @param {() => string | null} elsewhere the address of another pair's background, another one each time
 */
export function installLook(stage, keys, shown, elsewhere) {
  const choices = /** @type {const} */ ({ view: VIEWS, zoom: ZOOMS });
  /** @param {keyof typeof choices} name @param {number} step */
  const turn = (name, step) => {
    const values = choices[name];
    stage.set(name, /** @type {string} */ (values.at((values.indexOf(stage.get(name)) + step) % values.length)));
  };
  const views = "Next view: picture, alpha as grey, faint alpha (whatever is not fully clear shows), edges (fringe and halo)";
  keys.bind("Look", ["v"], views, () => turn("view", 1), ONE);
  keys.bind("Look", ["Shift+v"], "View before", () => turn("view", -1), ONE);
  keys.bind("Look", ["z"], "Next zoom: fit, 1×, 2×, 4×, 8× (or turn the wheel; drag to move)", () => turn("zoom", 1), ONE);
  keys.bind("Look", ["Shift+z"], "Fit into the window again", () => stage.set("zoom", "fit"), ONE);
  keys.bind("Look", ["+", "="], "Larger", () => stage.zoomBy(Math.SQRT2), { ...ONE, repeats: true });
  keys.bind("Look", ["-"], "Smaller", () => stage.zoomBy(Math.SQRT1_2), { ...ONE, repeats: true });
  const ways = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
  const arrows = Object.keys(ways).map((name) => `Shift+${name}`);
  /** @param {KeyboardEvent} event */
  const move = (event) => stage.moveBy(.../** @type {[number, number]} */ (ways[/** @type {keyof typeof ways} */ (event.key)]));
  keys.bind("Look", arrows, "Move the picture", move, { ...ONE, repeats: true });
  /** @param {string} layer */
  const choose = (layer) => {
    const address = layer === "swap" ? elsewhere() : null;
    if (layer === "swap" && !address) return;
    if (address) stage.lay(make("img", { src: address, alt: "", "data-role": "other", draggable: "false" }));
    stage.set("layer", layer);
  };
  const pull = () => stage.set("apart", stage.get("apart") ? "" : "yes");
  for (const [layer, key] of LAYER_KEYS) {
    keys.bind("Pairs", [key], `Show ${MEANT.get(layer)}`, () => isPair(shown()) && choose(layer), ONE);
  }
  keys.bind("Pairs", ["e"], "Move the layers apart, and together again", () => isPair(shown()) && pull(), ONE);
  const apart = button("Apart", pull);
  fill(part("apart"), apart);
  /** @param {string} id @param {Iterable<string>} values @param {(value: string) => void} run */
  const row = (id, values, run) => fillChoices(part(id), [...values].map((value) => [value, NAMES.get(value) ?? `${value}×`]), run);
  const showView = row("views", VIEWS, (value) => stage.set("view", value));
  const showZoom = row("zooms", ZOOMS, (value) => stage.set("zoom", value));
  const showLayer = row("layers", LAYER_KEYS.keys(), choose);
  const show = () => {
    showView(stage.get("view"));
    showZoom(stage.get("zoom"));
    showLayer(stage.get("layer"));
    apart.setAttribute("aria-pressed", String(Boolean(stage.get("apart"))));
    for (const id of ["layers", "apart"]) part(id).hidden = !isPair(shown());
  };
  stage.addEventListener("change", show);
  show();
}

/** @param {Card | null} card */
function isPair(card) {
  return card?.kind === "pair";
}
