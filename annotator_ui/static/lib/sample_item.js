/** A sample in a list: its layers as thumbnails or whole, and its caption. */

import { el } from "./dom.js";
import { layerImage } from "./layer_image.js";

const CAPTION_NOTES = {
  model: "generated caption",
  "file name": "no caption (file name shown)",
};

/**
 * @param {Sample} sample
 * @param {import("./dom.js").Child[]} [notes] shown before the caption
 */
export function sampleItem(sample, notes = []) {
  const isPair = sample.kind === "pair";
  const origin = sample.round ? `round ${sample.round}` : "seed";
  const { caption, caption_source: source, licence: license } = sample;
  return el(
    "li",
    {},
    el(
      "figure",
      {},
      sampleImages(sample),
      el(
        "figcaption",
        {},
        notes,
        el("span", { class: "caption", title: caption }, caption),
        el("small", {}, `${isPair ? "pair, " : ""}${origin}, ${sample.split}`),
        source === "given" ? null : el("small", {}, CAPTION_NOTES[source]),
        el(
          "small",
          { title: `License: ${license || "none"}; source: ${sample.source}` },
          license || "no license",
        ),
        el("small", {}, el("a", { href: `/samples/${sample.id}` }, "Why is it here?")),
      ),
    ),
  );
}

/** @param {Sample} sample */
function sampleImages({ layers, texts, caption }) {
  const entries = Object.entries(layers);
  const multiple = entries.length > 1;
  const images = entries.map(([role, layer]) =>
    layerImage({
      src: layer.small,
      alt: multiple ? (texts[/** @type {LayerRole} */ (role)] ?? caption) : caption,
      title: multiple ? role : null,
      "data-role": role,
      loading: "lazy",
      decoding: "async",
      draggable: null,
    }),
  );
  return el("div", { class: multiple ? "images pair" : "images" }, images);
}
