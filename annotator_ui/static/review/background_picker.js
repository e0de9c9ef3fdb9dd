/** The background picker: presets, a custom color, a scene, or the reviewer's own photo. */

import { createButtonGroup } from "../lib/button_group.js";
import { byId } from "../lib/dom.js";
import { BACKGROUNDS } from "./backgrounds.js";
import { showToast } from "./status.js";

const LABELS = new Map([
  ["color", "custom color"],
  ["scene", "sample scene"],
  ["photo", "your photo (stays in this browser; press again to replace)"],
]);

/**
 * @param {import("./backgrounds.js").Backgrounds} backgrounds
 * @param {import("../lib/shortcuts.js").Shortcuts} shortcuts
 */
export function installBackgroundPicker(backgrounds, shortcuts) {
  const color = byId("custom-color", HTMLInputElement);
  const file = byId("photo-file", HTMLInputElement);
  const openFilePicker = () => file.click();
  const cycleHelp = "Next background: checker, black, white, gray, custom color, scene, photo";
  shortcuts.bind("View", ["b"], cycleHelp, () => backgrounds.cycle(1));
  shortcuts.bind("View", ["Shift+b"], "Previous background", () => backgrounds.cycle(-1));
  const photoHelp = "Use a photo as background (it stays in this browser)";
  shortcuts.bind("View", ["p"], photoHelp, openFilePicker);

  color.value = backgrounds.color;
  color.addEventListener("input", () => backgrounds.setColor(color.value));
  file.addEventListener("change", async () => {
    const [photo] = file.files ?? [];
    const reportError = () => showToast("This file is not an image that the browser can read.");
    if (photo) await backgrounds.setPhoto(photo).catch(reportError);
    file.value = "";
  });

  /** @param {string} name */
  const select = (name) => {
    const replacePhoto = !backgrounds.photo || backgrounds.name === "photo";
    if (name === "photo" && replacePhoto) openFilePicker();
    else backgrounds.select(name);
  };
  const options = BACKGROUNDS.map((name) => {
    const label = LABELS.get(name) ?? name;
    const attributes = {
      class: `swatch ${name}`,
      "aria-label": `Background: ${label}`,
      title: label,
    };
    return /** @type {const} */ ([name, "", attributes]);
  });
  const markSelected = createButtonGroup(byId("backgrounds"), options, select);
  const update = () => {
    byId("background-name").textContent = `Background: ${backgrounds.name}`;
    byId("backgrounds").style.setProperty("--custom-color", backgrounds.color);
    markSelected(backgrounds.name);
  };
  backgrounds.addEventListener("change", update);
  update();
}
