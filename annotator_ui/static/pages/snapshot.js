/** The page of one snapshot: its composition, and its samples. */

import { bars } from "../charts/bars.js";
import { button, byId, el, replace } from "../lib/dom.js";
import {
  countLabel,
  formatCount,
  formatDate,
  groupLabel,
  pluralize,
  shortId,
} from "../lib/format.js";
import { read } from "../lib/http.js";
import { layerImage } from "../lib/layer_image.js";
import { showError, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";
import { PLAIN_BACKGROUNDS } from "../review/backgrounds.js";

const PAGE_SIZE = 60;
const TITLE_ID_LENGTH = 16;
const snapshotName = location.pathname.split("/").at(-1) ?? "";
const shortcuts = new Shortcuts(document);
let nextCursor = "";
let shownCount = 0;

shortcuts.bind("View", ["b"], "Next background: checker, black, white, gray, custom color", () => {
  const index = PLAIN_BACKGROUNDS.indexOf(byId("samples").dataset["background"] ?? "checker");
  setBackground(PLAIN_BACKGROUNDS[(index + 1) % PLAIN_BACKGROUNDS.length] ?? "checker");
});
shortcuts.bind("Page", ["n"], "Show more samples", () => byId("more").hidden || loadMore());
installShortcutHelp(shortcuts);
read("/api/me").then(showSignedIn, () => {});
setBackground("checker");
byId("more").addEventListener("click", loadMore);
await loadMore();

/** Load and show the next samples. */
async function loadMore() {
  const moreButton = byId("more", HTMLButtonElement);
  moreButton.disabled = true;
  try {
    const cursor = nextCursor && `&after=${encodeURIComponent(nextCursor)}`;
    const path = `/api/snapshots/${encodeURIComponent(snapshotName)}?limit=${PAGE_SIZE}${cursor}`;
    const page = /** @type {SnapshotPage} */ (await read(path));
    if (!shownCount) showSnapshot(page.snapshot);
    byId("samples").append(...page.samples.map(sampleItem));
    shownCount += page.samples.length;
    nextCursor = page.next ?? "";
    moreButton.hidden = !page.next;
    byId("shown").textContent =
      `${formatCount(shownCount)} of ${pluralize(page.snapshot.samples, "sample")}`;
  } catch (error) {
    showError(error);
  } finally {
    moreButton.disabled = false;
  }
}

/** Show the header and the counts of a snapshot. @param {SnapshotSummary} snapshot */
function showSnapshot(snapshot) {
  const { id, counts } = snapshot;
  const created = formatDate(snapshot.frozen_at);
  byId("snapshot").hidden = false;
  document.title = `Snapshot ${shortId(id)} · Layerloop`;
  replace(
    byId("title"),
    "Snapshot ",
    el("code", {}, id.slice(0, TITLE_ID_LENGTH)),
    " ",
    snapshot.tags.map((tag) => el("span", { class: "chip" }, tag)),
  );
  replace(
    byId("summary"),
    `${pluralize(snapshot.samples, "sample")}, created ${created}. Content hash: `,
    el("code", { class: "whole" }, id),
  );
  const cards = Object.entries(counts).map(([group, values]) => {
    const rows = Object.entries(values)
      .sort((a, b) => b[1] - a[1])
      .map(([key, value]) => ({ name: countLabel(group, key), value }));
    return el(
      "section",
      { class: "card" },
      el("h2", {}, groupLabel(group)),
      bars(rows, snapshot.samples),
    );
  });
  replace(byId("counts"), cards);
}

const CAPTION_NOTES = {
  model: "generated caption",
  "file name": "no caption (file name shown)",
};

/** @param {Sample} sample */
function sampleItem(sample) {
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
        el("span", { class: "caption", title: caption }, caption),
        el("small", {}, `${isPair ? "pair, " : ""}${origin}, ${sample.split}`),
        source === "given" ? null : el("small", {}, CAPTION_NOTES[source]),
        el(
          "small",
          { title: `License: ${license || "none"}; source: ${sample.source}` },
          license || "no license",
        ),
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
      src: layer.url,
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

/** @param {string} name */
function setBackground(name) {
  byId("samples").dataset["background"] = name;
  replace(
    byId("backgrounds"),
    PLAIN_BACKGROUNDS.map((other) =>
      button("", () => setBackground(other), {
        class: `swatch ${other}`,
        "aria-label": `Background: ${other}`,
        title: other,
        "aria-pressed": String(other === name),
      }),
    ),
  );
}
