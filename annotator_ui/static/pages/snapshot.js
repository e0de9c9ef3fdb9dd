/** The page of one snapshot: composition, commands, distributions, changes, and samples. */

import { bars } from "../charts/bars.js";
import { showChanges } from "../charts/snapshot_changes.js";
import { showStatistics } from "../charts/snapshot_statistics.js";
import { commandItem } from "../lib/copy_button.js";
import { button, byId, el, replace } from "../lib/dom.js";
import {
  countLabel,
  formatCount,
  formatDate,
  formatSigned,
  groupLabel,
  humanize,
  pluralize,
  shortId,
} from "../lib/format.js";
import { read } from "../lib/http.js";
import { sampleItem } from "../lib/sample_item.js";
import { showError, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";
import { PLAIN_BACKGROUNDS } from "../review/backgrounds.js";

const PAGE_SIZE = 60;
const TITLE_ID_LENGTH = 16;
const PATH = `/api/snapshots/${encodeURIComponent(location.pathname.split("/").at(-1) ?? "")}`;
const shortcuts = new Shortcuts(document);
let nextCursor = "";
let shownCount = 0;

shortcuts.bind("View", ["b"], "Next background: checker, black, white, gray, custom color", () => {
  const index = PLAIN_BACKGROUNDS.indexOf(byId("main").dataset["background"] ?? "checker");
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
    const page = /** @type {SnapshotPage} */ (await read(`${PATH}?limit=${PAGE_SIZE}${cursor}`));
    if (!shownCount) showSnapshot(page.snapshot);
    byId("samples").append(...page.samples.map((sample) => sampleItem(sample)));
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

/** Show everything but the samples. @param {SnapshotSummary} snapshot */
function showSnapshot(snapshot) {
  showHeader(snapshot);
  showCounts(snapshot);
  showQuery(snapshot.query);
  read(`${PATH}/formats`).then((formats) => showCommands(snapshot, formats), showError);
  read(`${PATH}/statistics`).then(showStatistics, showError);
  if (snapshot.change !== null) {
    byId("changes-section").hidden = false;
    byId("change-summary").textContent = describeChange(snapshot.change);
    showChanges(PATH);
  }
}

/** @param {SnapshotSummary} snapshot */
function showHeader({ id, samples, tags, parent, notes, frozen_at: frozenAt }) {
  byId("snapshot").hidden = false;
  document.title = `Snapshot ${shortId(id)} · Layerloop`;
  replace(
    byId("title"),
    "Snapshot ",
    el("code", {}, id.slice(0, TITLE_ID_LENGTH)),
    " ",
    tags.map((tag) => el("span", { class: "chip" }, tag)),
  );
  const follows = parent
    ? [". Follows ", el("a", { href: `/snapshots/${parent}` }, el("code", {}, shortId(parent)))]
    : [];
  replace(
    byId("summary"),
    `${pluralize(samples, "sample")}, created ${formatDate(frozenAt)}. Content hash: `,
    el("code", { class: "whole" }, id),
    ...follows,
  );
  byId("notes").hidden = notes.length === 0;
  replace(
    byId("notes"),
    notes.map((note) => el("li", { class: "note" }, note)),
  );
}

/** @param {SnapshotSummary} snapshot */
function showCounts({ counts, samples, decisions }) {
  const verdicts = decisions?.["verdict"];
  const groups = verdicts ? { ...counts, "decided candidates": verdicts } : counts;
  const cards = Object.entries(groups).map(([group, values]) => {
    const rows = Object.entries(values)
      .sort((a, b) => b[1] - a[1])
      .map(([key, value]) => ({ name: countLabel(group, key), value }));
    const total = values === verdicts ? rows.reduce((sum, row) => sum + row.value, 0) : samples;
    return el("section", { class: "card" }, el("h2", {}, groupLabel(group)), bars(rows, total));
  });
  replace(byId("counts"), cards);
}

/** @param {SnapshotSummary["query"]} query */
function showQuery(query) {
  const conditions = Object.entries(query ?? {});
  const none = query === null ? "not recorded here" : "all samples that were not withdrawn";
  replace(
    byId("query"),
    conditions.length
      ? conditions.flatMap(([name, value]) => [
          el("dt", {}, humanize(name)),
          el("dd", {}, Array.isArray(value) ? value.join(", ") : String(value)),
        ])
      : [el("dt", {}, "conditions"), el("dd", {}, none)],
  );
}

/**
 * Show the commands that pull a snapshot and verify the pull.
 * @param {SnapshotSummary} snapshot
 * @param {PullFormat[]} formats
 */
function showCommands({ id, tags }, formats) {
  const select = byId("format", HTMLSelectElement);
  const options = formats.map(({ name, reader }) =>
    el("option", { value: name }, `${name}: ${reader}`),
  );
  replace(select, options);
  const folder = tags[0] ?? `snapshot-${shortId(id)}`;
  const source = `${id.slice(0, TITLE_ID_LENGTH)} ${folder} --from ${location.origin}`;
  const show = () =>
    replace(byId("commands"), [
      commandItem(`layerloop snapshot pull ${source} --format ${select.value}`, "pull"),
      commandItem(`layerloop snapshot verify ${folder}`, "verify"),
    ]);
  select.addEventListener("change", show);
  show();
}

/**
 * Return the difference of counts in words.
 *
 * @param {Record<string, Record<string, number>>} change
 */
function describeChange(change) {
  const parts = Object.entries(change).flatMap(([group, numbers]) =>
    Object.entries(numbers).map(
      ([key, number]) => `${formatSigned(number)} ${countLabel(group, key)}`,
    ),
  );
  return parts.length ? `Difference of counts: ${parts.join(", ")}.` : "The counts are equal.";
}

/** @param {string} name */
function setBackground(name) {
  byId("main").dataset["background"] = name;
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
