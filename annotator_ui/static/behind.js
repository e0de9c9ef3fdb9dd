/** The choice of a background, by button and by key: five that are given, any colour, a scene, the reviewer's photograph. */

import { BACKGROUNDS } from "./backgrounds.js";
import { button, fill, part } from "./elements.js";
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
  const show = () => {
    part("background-name").textContent = `Background: ${backgrounds.name}`;
    fill(
      part("backgrounds"),
      BACKGROUNDS.map((name) =>
        button("", () => (name === "photo" && (!backgrounds.photo || backgrounds.name === "photo") ? pick() : backgrounds.choose(name)), {
          class: `swatch ${name}`,
          "aria-label": `Background: ${MEANT.get(name) ?? name}`,
          title: MEANT.get(name) ?? name,
          "aria-pressed": String(backgrounds.name === name),
          "--own-colour": backgrounds.colour,
        }),
      ),
    );
  };
  backgrounds.addEventListener("change", show);
  show();
}
