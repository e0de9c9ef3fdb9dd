/** The snapshots page: snapshots, newest first, and a form to create one. */

import { byId, el, replace } from "../lib/dom.js";
import {
  countLabel,
  formatAgo,
  formatCount,
  formatDate,
  formatSigned,
  groupLabel,
  pluralize,
  shortId,
} from "../lib/format.js";
import { read, request } from "../lib/http.js";
import { readListPage } from "../lib/list_pages.js";
import { poll } from "../lib/polling.js";
import { hasRole, showError, showNotice, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const PERIOD_MS = 10_000;
const PAGE_SIZE = 50;
/** Number of values shown per group, the most frequent first. */
const MAX_VALUES = 4;

installShortcutHelp(new Shortcuts(document));
read("/api/me").then(
  (me) => {
    showSignedIn(me);
    byId("freeze").hidden = !hasRole(me, "engineer");
  },
  () => {},
);
const refresh = poll(PERIOD_MS, async () => {
  const snapshots = /** @type {SnapshotSummary[]} */ (
    await readListPage(byId("pages"), `/api/snapshots?limit=${PAGE_SIZE}`)
  );
  byId("empty").hidden = snapshots.length > 0;
  byId("table").hidden = snapshots.length === 0;
  replace(byId("rows"), snapshots.map(row));
});

byId("freeze", HTMLFormElement).addEventListener("submit", async (event) => {
  event.preventDefault();
  const tag = byId("tag", HTMLInputElement);
  try {
    /** @type {SnapshotSummary} */
    const snapshot = await request("POST", "/api/snapshots", { tag: tag.value.trim() || null });
    tag.value = "";
    await refresh();
    showNotice(
      `Snapshot ${shortId(snapshot.id)} has ${pluralize(snapshot.samples, "sample")}.`,
      "The same samples always give the same snapshot.",
    );
  } catch (error) {
    showError(error);
  }
});

/** @param {SnapshotSummary} snapshot */
function row(snapshot) {
  const id = el("code", {}, shortId(snapshot.id));
  const groups = Object.entries(snapshot.counts);
  const { frozen_at: frozenAt, parent, change } = snapshot;
  const note = snapshot.notes.at(-1);
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      el("a", { href: `/snapshots/${snapshot.id}` }, id),
      parent && el("small", {}, `follows ${shortId(parent)}`),
      snapshot.taken_down && takenDownNote(snapshot.successor),
    ),
    el(
      "td",
      {},
      snapshot.tags.length
        ? snapshot.tags.map((tag) => el("span", { class: "chip" }, tag))
        : el("span", { class: "muted" }, "none"),
    ),
    el(
      "td",
      { class: "number" },
      formatCount(snapshot.samples),
      change && el("small", {}, sampleChange(change)),
    ),
    el(
      "td",
      {},
      note && el("p", {}, note),
      groups.map(([group, counts]) => groupSummary(group, counts)),
    ),
    el("td", {}, el("span", { title: formatDate(frozenAt) }, formatAgo(frozenAt))),
  );
}

/** Say that samples were taken down, with a link to the others. @param {string | null} successor */
function takenDownNote(successor) {
  const link =
    successor && el("a", { href: `/snapshots/${successor}` }, `see ${shortId(successor)}`);
  return el("small", { class: "worse" }, "samples taken down", link && ["; ", link]);
}

/**
 * Return the change of the number of samples.
 *
 * @param {Record<string, Record<string, number>>} change
 */
function sampleChange(change) {
  // Every sample has a kind, and one kind only.
  const number = Object.values(change["kind"] ?? {}).reduce((sum, one) => sum + one, 0);
  if (number) return formatSigned(number);
  return Object.keys(change).length ? "same number" : "same counts";
}

/**
 * Return the most frequent values of a group: kind, split, round or license.
 * @param {string} group
 * @param {Record<string, number>} counts
 */
function groupSummary(group, counts) {
  const sorted = Object.entries(counts).sort((a, b) => b[1] - a[1]);
  const parts = sorted
    .slice(0, MAX_VALUES)
    .map(([key, number]) => `${formatCount(number)} ${countLabel(group, key)}`);
  if (sorted.length > MAX_VALUES) parts.push(`${sorted.length - MAX_VALUES} more`);
  const name = el("span", { class: "muted" }, groupLabel(group));
  return el("div", { class: "group-summary" }, name, " ", parts.join(", "));
}
