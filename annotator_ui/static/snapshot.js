/** One snapshot: what it is made of, and its samples as a contact sheet. */

import { PLAIN } from "./backgrounds.js";
import { bars } from "./bars.js";
import { button, fill, make, part } from "./elements.js";
import { sayError, showMe } from "./frame.js";
import { installHelp } from "./help.js";
import { Keys } from "./keys.js";
import { read } from "./request.js";
import { count, countedAs, date, plain } from "./words.js";

const PAGE = 60;
const name = location.pathname.split("/").at(-1) ?? "";
const keys = new Keys(document);
let next = "";
let shown = 0;

keys.bind("Look", ["b"], "Next background: checker, black, white, grey, colour", () => {
  const now = PLAIN.indexOf(part("sheet").dataset["background"] ?? "checker");
  setBackground(PLAIN[(now + 1) % PLAIN.length] ?? "checker");
});
keys.bind("Page", ["n"], "Show more samples", () => part("more").hidden || more());
installHelp(keys);
read("/api/me").then(showMe, () => {});
setBackground("checker");
part("more").addEventListener("click", more);
await more();

/** Adds the next page of samples. */
async function more() {
  const button = part("more", HTMLButtonElement);
  button.disabled = true;
  try {
    const after = next && `&after=${encodeURIComponent(next)}`;
    const page = /** @type {SnapshotPage} */ (
      await read(`/api/snapshots/${encodeURIComponent(name)}?limit=${PAGE}${after}`)
    );
    if (!shown) showSnapshot(page.snapshot);
    part("sheet").append(...page.samples.map(tileOf));
    shown += page.samples.length;
    next = page.next ?? "";
    button.hidden = !page.next;
    part("shown").textContent = `${count(shown)} of ${count(page.snapshot.samples)} samples`;
  } catch (error) {
    sayError(error);
  } finally {
    button.disabled = false;
  }
}

/** @param {SnapshotRow} snapshot */
function showSnapshot(snapshot) {
  part("snapshot").hidden = false;
  fill(
    part("title"),
    "Snapshot ",
    make("code", {}, snapshot.id.slice(0, 16)),
    " ",
    snapshot.tags.map((tag) => make("span", { class: "chip" }, tag)),
  );
  fill(
    part("about"),
    `${count(snapshot.samples)} samples, frozen ${date(snapshot.frozen_at)}. Its name is the hash of its content: `,
    make("code", { class: "whole" }, snapshot.id),
  );
  document.title = `Snapshot ${snapshot.id.slice(0, 10)} · Layerloop`;
  fill(
    part("counts"),
    Object.entries(snapshot.counts).map(([group, counts]) => {
      const rows = Object.entries(counts)
        .sort((a, b) => b[1] - a[1])
        .map(([key, value]) => ({ name: countedAs(group, key), value }));
      return make("section", { class: "card" }, make("h2", {}, plain(group)), bars(rows, snapshot.samples));
    }),
  );
}

const CAPTION_SOURCES = { model: "caption by a model", "file name": "no caption: this is its file name" };

/** @param {SampleRow} sample */
function tileOf(sample) {
  const layers = Object.entries(sample.layers);
  const images = layers.map(([role, layer]) =>
    make("img", {
      src: layer.url,
      alt: layers.length > 1 ? (sample.texts[/** @type {LayerRole} */ (role)] ?? sample.caption) : sample.caption,
      title: layers.length > 1 ? role : null,
      "data-role": role,
      loading: "lazy",
      decoding: "async",
    }),
  );
  const from = sample.round ? `round ${sample.round}` : "seed";
  return make(
    "li",
    {},
    make(
      "figure",
      {},
      make("div", { class: layers.length > 1 ? "pictures pair" : "pictures" }, images),
      make(
        "figcaption",
        {},
        make("span", { class: "caption", title: sample.caption }, sample.caption),
        make("small", {}, `${sample.kind === "pair" ? "pair, " : ""}${from}, ${sample.split}`),
        sample.caption_source === "given" ? null : make("small", {}, CAPTION_SOURCES[sample.caption_source]),
        make(
          "small",
          { title: `licence: ${sample.licence}; source: ${sample.source}` },
          sample.licence || "no licence",
        ),
      ),
    ),
  );
}

/** @param {string} value */
function setBackground(value) {
  part("sheet").dataset["background"] = value;
  fill(
    part("backgrounds"),
    PLAIN.map((other) =>
      button("", () => setBackground(other), {
        class: `swatch ${other}`,
        "aria-label": `Background: ${other}`,
        title: other,
        "aria-pressed": String(other === value),
      }),
    ),
  );
}
