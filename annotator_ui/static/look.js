/** How a candidate is looked at: background, view, zoom and layer, by button and by key. */

import { button, fill, part } from "./elements.js";
import { BACKGROUNDS, VIEWS, ZOOMS } from "./stage.js";

const NAMES = new Map([
  ["picture", "Picture"],
  ["alpha", "Alpha"],
  ["faint", "Faint alpha"],
  ["fit", "Fit"],
  ["foreground", "Foreground"],
  ["background", "Background"],
  ["blended", "Blended"],
  ["over", "Composite"],
]);
const MEANT = new Map([
  ["foreground", "the foreground"],
  ["background", "the background"],
  ["blended", "the blended picture as it was drawn"],
  ["over", "the foreground composed over the background, to compare with the blended picture"],
]);
const LAYER_KEYS = new Map([
  ["foreground", "f"],
  ["background", "g"],
  ["blended", "m"],
  ["over", "o"],
]);

/**
 * @param {import("./stage.js").Stage} stage
 * @param {import("./keys.js").Keys} keys
 * @param {() => Card | null} shown
 */
export function installLook(stage, keys, shown) {
  const choices = /** @type {const} */ ({ background: BACKGROUNDS, view: VIEWS, zoom: ZOOMS });
  /** @param {keyof choices} name @param {number} step */
  const turn = (name, step) => {
    const values = choices[name];
    stage.set(name, /** @type {string} */ (values.at((values.indexOf(stage.get(name)) + step) % values.length)));
  };
  keys.bind("Look", ["b"], "Next background: checker, black, white, grey, colour", () => turn("background", 1));
  keys.bind("Look", ["Shift+b"], "Background before", () => turn("background", -1));
  keys.bind("Look", ["v"], "Next view: picture, alpha as grey, faint alpha (whatever is not fully clear shows)", () =>
    turn("view", 1),
  );
  keys.bind("Look", ["z"], "Next zoom: fit, 1×, 2×, 4×, 8× (or turn the wheel; drag to move)", () => turn("zoom", 1));
  keys.bind("Look", ["Shift+z", "0"], "Fit into the window again", () => stage.set("zoom", "fit"));
  for (const [layer, key] of LAYER_KEYS) {
    keys.bind("Look", [key], `Pairs: show ${MEANT.get(layer)}`, () => isPair(shown()) && stage.set("layer", layer));
  }
  const show = () => {
    fill(
      part("backgrounds"),
      BACKGROUNDS.map((value) => choice(stage, "background", value)),
    );
    fill(
      part("views"),
      VIEWS.map((value) => choice(stage, "view", value)),
    );
    fill(
      part("zooms"),
      ZOOMS.map((value) => choice(stage, "zoom", value)),
    );
    part("layers").hidden = !isPair(shown());
    fill(
      part("layers"),
      [...LAYER_KEYS.keys()].map((value) => choice(stage, "layer", value)),
    );
  };
  stage.addEventListener("change", show);
  show();
}

/** @param {Card | null} card */
function isPair(card) {
  return card?.kind === "pair";
}

/**
 * @param {import("./stage.js").Stage} stage
 * @param {"background" | "view" | "zoom" | "layer"} name @param {string} value
 */
function choice(stage, name, value) {
  const pressed = stage.get(name) === value;
  const label = NAMES.get(value) ?? (name === "zoom" ? `${value}×` : value);
  const swatch =
    name === "background" ? { class: `swatch ${value}`, "aria-label": `Background: ${value}`, title: value } : {};
  return button(swatch["aria-label"] ? "" : label, () => stage.set(name, value), {
    "aria-pressed": String(pressed),
    ...swatch,
  });
}
