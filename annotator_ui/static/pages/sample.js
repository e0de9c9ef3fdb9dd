/** The page of one sample: where it comes from, who decided on it, and where it went. */

import { byId, el, replace } from "../lib/dom.js";
import { formatDate, humanize, shortId } from "../lib/format.js";
import { read } from "../lib/http.js";
import { showError, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const SAMPLE = encodeURIComponent(location.pathname.split("/").at(-1) ?? "");

installShortcutHelp(new Shortcuts(document));
read("/api/me").then(showSignedIn, () => {});
await read(`/api/samples/${SAMPLE}/lineage`).then(showLineage, showError);

/** @param {SampleLineage} lineage */
function showLineage(lineage) {
  const { id, caption, open, candidate, snapshots, checkpoints } = lineage;
  document.title = `Sample ${shortId(id)} · Layerloop`;
  byId("sample").hidden = false;
  replace(byId("title"), "Sample ", el("code", {}, shortId(id)));
  byId("caption").textContent = caption;
  byId("open").hidden = !open;
  replace(byId("origin"), origin(lineage));
  showList("decisions", (candidate?.decisions ?? []).map(decisionItem), "No decisions.");
  showList("snapshots", snapshots.map(snapshotItem), "In none of the newest snapshots.");
  showList(
    "checkpoints",
    checkpoints.map((checkpoint) =>
      el("li", {}, hashLink("/checkpoints#", checkpoint.id), " on ", snapshotLink(checkpoint)),
    ),
    "None.",
  );
}

/** @param {SampleLineage} lineage */
function origin({ id, candidate, licence: license, source, split, withdrawn_at: withdrawn }) {
  const values = {
    Id: el("code", {}, id),
    License: license,
    Source: source,
    Split: split,
    Withdrawn: withdrawn && formatDate(withdrawn),
    Prompt: candidate?.prompt,
    Round:
      candidate && el("a", { href: `/rounds/${candidate.round}` }, `round ${candidate.round}`),
    Checkpoint: candidate?.checkpoint && hashLink("/checkpoints#", candidate.checkpoint),
    Seed: candidate?.checkpoint && candidate.seed,
  };
  return Object.entries(values).flatMap(([name, value]) =>
    value === null || value === undefined ? [] : [el("dt", {}, name), el("dd", {}, value)],
  );
}

/** @param {NonNullable<SampleLineage["candidate"]>["decisions"][number]} decision */
function decisionItem({ created_at: created, reviewer, verdict, reasons }) {
  const note = reasons.length > 0 && ` (${reasons.map(humanize).join(", ")})`;
  return el(
    "li",
    {},
    el("strong", {}, verdict),
    ` by ${reviewer}`,
    note,
    el("small", {}, ` ${formatDate(created)}`),
  );
}

/** @param {SampleLineage["snapshots"][number]} snapshot */
function snapshotItem({ id, tags, withheld }) {
  const chips = tags.map((tag) => el("span", { class: "chip" }, tag));
  const note = withheld && "withheld from training";
  return el("li", {}, hashLink("/snapshots/", id), " ", chips, note);
}

/** @param {SampleLineage["checkpoints"][number]} checkpoint */
function snapshotLink({ snapshot_id: snapshot }) {
  return hashLink("/snapshots/", snapshot);
}

/**
 * @param {string} path
 * @param {string} id
 */
function hashLink(path, id) {
  return el("a", { href: path + id }, el("code", {}, shortId(id)));
}

/**
 * @param {string} id
 * @param {HTMLElement[]} items
 * @param {string} none shown if there are no items
 */
function showList(id, items, none) {
  replace(byId(id), items.length ? items : el("li", { class: "muted" }, none));
}
