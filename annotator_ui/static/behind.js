/** The choice of a background, by button and by key: five that are given, any colour, a scene, the reviewer's photograph. */

import { BACKGROUNDS } from "./backgrounds.js";
import { fillChoices } from "./choices.js";
import { part } from "./elements.js";
import { announce } from "./status.js";

const MEANT = new Map([
  ["colour", "the colour beside"],
  ["scene", "a drawn scene"],
  ["photo", "a photograph of yours, which stays in this browser; press again for another one"],
]);

/** @param {import("./backgrounds.js").Backgrounds} backgrounds @param {import("./keys.js").Keys} keys */
export function installBackgrounds(backgrounds, keys) {
  const colour = part("own-colour", HTMLInputElement);
  const file = part("photo-file", HTMLInputElement);
  const pick = () => file.click();
  keys.bind("Look", ["b"], "Next background: checker, black, white, grey, colour, scene, photograph", () =>
    backgrounds.turn(1),
  );
  keys.bind("Look", ["Shift+b"], "Background before", () => backgrounds.turn(-1));
  keys.bind("Look", ["p"], "Choose a photograph of yours as background; it stays in this browser", pick);
  colour.value = backgrounds.colour;
  colour.addEventListener("input", () => backgrounds.mix(colour.value));
  file.addEventListener("change", async () => {
    const [chosen] = file.files ?? [];
    if (chosen) await backgrounds.take(chosen).catch(() => announce("That file is no picture that this browser can read."));
    file.value = "";
  });
  /** @param {string} name */
  const choose = (name) => {
    if (name === "photo" && (!backgrounds.photo || backgrounds.name === "photo")) pick();
    else backgrounds.choose(name);
  };
  const showName = fillChoices(part("backgrounds"), BACKGROUNDS.map((name) => {
    const meant = MEANT.get(name) ?? name;
    return [name, "", { class: `swatch ${name}`, "aria-label": `Background: ${meant}`, title: meant }];
  }), choose);
  const show = () => {
    part("background-name").textContent = `Background: ${backgrounds.name}`;
    part("backgrounds").style.setProperty("--own-colour", backgrounds.colour);
    showName(backgrounds.name);
  };
  backgrounds.addEventListener("change", show);
  show();
}
