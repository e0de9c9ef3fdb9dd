/** Changes of a snapshot since its parent, as pictures, page by page. */

import { createButtonGroup } from "../lib/button_group.js";
import { byId, el, replace } from "../lib/dom.js";
import { humanize, pluralize } from "../lib/format.js";
import { read } from "../lib/http.js";
import { sampleItem } from "../lib/sample_item.js";
import { showError } from "../lib/shell.js";

const PAGE_SIZE = 24;
/** Pages that are read for one click, since a page may have no changes. */
const MAX_READS = 20;
const KINDS = /** @type {const} */ ([
  ["", "All"],
  ["added", "Added"],
  ["removed", "Removed"],
  ["changed", "Changed"],
]);

/** Show the section of changes. @param {string} path the snapshot's path in the API */
export async function showChanges(path) {
  const state = { kind: "", next: "", shown: 0, turn: 0 };
  const more = byId("more-changes", HTMLButtonElement);
  const mark = createButtonGroup(byId("change-kind"), KINDS, select);
  more.addEventListener("click", load);
  await select("");

  /** @param {string} kind */
  async function select(kind) {
    mark(kind);
    Object.assign(state, { kind, next: "", shown: 0, turn: state.turn + 1 });
    replace(byId("changes"));
    await load();
  }

  async function load() {
    const { turn } = state;
    more.disabled = true;
    try {
      const items = await loadItems(turn);
      // Another kind was selected meanwhile.
      if (turn !== state.turn || items === null) return;
      byId("changes").append(...items);
      state.shown += items.length;
      more.hidden = !state.next;
      byId("changes-shown").textContent = describeShown();
    } catch (error) {
      showError(error);
    } finally {
      if (turn === state.turn) more.disabled = false;
    }
  }

  /** Read pages until one has changes. @param {number} turn */
  async function loadItems(turn) {
    const kind = state.kind && `&kind=${state.kind}`;
    for (let count = 0; count < MAX_READS; count += 1) {
      const page = /** @type {SnapshotChanges} */ (
        await read(`${path}/changes?limit=${PAGE_SIZE}${kind}&after=${state.next}`)
      );
      if (turn !== state.turn) return null;
      byId("changes-section").hidden = page.parent === null;
      state.next = page.next ?? "";
      if (page.changes.length || !page.next) return page.changes.map(changeItem);
    }
    return [];
  }

  function describeShown() {
    if (state.next) return `${pluralize(state.shown, "sample")} so far`;
    const kind = state.kind || "changed";
    return state.shown ? pluralize(state.shown, "sample") : `No sample was ${kind}.`;
  }
}

/** @param {SnapshotChanges["changes"][number]} changed */
function changeItem({ change, fields, before, sample }) {
  const names = fields.length > 0 && el("small", {}, fields.map(humanize).join(", "));
  return sampleItem(sample, [
    el("span", { class: `chip ${change}` }, change),
    names,
    before !== null && el("del", {}, before || "no caption"),
  ]);
}
