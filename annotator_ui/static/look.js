/** How a candidate is looked at: background, view, zoom and layers, together or apart, by button and by key. */

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

/**
 * @param {import("./stage.js").Stage} stage
 * @param {import("./keys.js").Keys} keys
 * @param {() => Card | null} shown
 * @param {() => string | null} elsewhere the address of another pair's background, another one each time
 */
export function installLook(stage, keys, shown, elsewhere) {
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
  keys.bind("Look", ["Shift+z"], "Fit into the window again", () => stage.set("zoom", "fit"));
  /** @param {string} layer */
  const choose = (layer) => {
    const address = layer === "swap" ? elsewhere() : null;
    if (layer === "swap" && !address) return;
    if (address) stage.lay(address);
    stage.set("layer", layer);
  };
  const pull = () => stage.set("apart", stage.get("apart") ? "" : "yes");
  for (const [layer, key] of LAYER_KEYS) {
    keys.bind("Look", [key], `Pairs: show ${MEANT.get(layer)}`, () => isPair(shown()) && choose(layer));
  }
  keys.bind("Look", ["e"], "Pairs: move the layers apart, and together again", () => isPair(shown()) && pull());
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
      [...LAYER_KEYS.keys()].map((value) => choice(stage, "layer", value, () => choose(value))),
    );
    part("apart").hidden = !isPair(shown());
    fill(part("apart"), button("Apart", pull, { "aria-pressed": String(Boolean(stage.get("apart"))) }));
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
 * @param {"background" | "view" | "zoom" | "layer"} name @param {string} value @param {() => void} [run]
 */
function choice(stage, name, value, run = () => stage.set(name, value)) {
  const pressed = stage.get(name) === value;
  const label = NAMES.get(value) ?? (name === "zoom" ? `${value}×` : value);
  const swatch =
    name === "background" ? { class: `swatch ${value}`, "aria-label": `Background: ${value}`, title: value } : {};
  return button(swatch["aria-label"] ? "" : label, run, {
    "aria-pressed": String(pressed),
    ...swatch,
  });
}
