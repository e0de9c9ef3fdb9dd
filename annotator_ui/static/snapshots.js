/** The snapshots page: every frozen list of samples, and freezing another. */

import { fill, make, part } from "./elements.js";
import { mayAct, say, sayError, showMe } from "./frame.js";
import { installHelp } from "./help.js";
import { Keys } from "./keys.js";
import { keepFresh } from "./live.js";
import { read, request } from "./request.js";
import { ago, count, counted, countedAs, date, plain, short } from "./words.js";

const PERIOD_MS = 10_000;
const MOST = 4;

installHelp(new Keys(document));
read("/api/me").then(
  (me) => {
    showMe(me);
    part("freeze").hidden = !mayAct(me, "engineer");
  },
  () => {},
);
const refresh = keepFresh(PERIOD_MS, async () => {
  const snapshots = /** @type {SnapshotRow[]} */ (await read("/api/snapshots"));
  part("none").hidden = snapshots.length > 0;
  part("table").hidden = snapshots.length === 0;
  fill(part("rows"), snapshots.map(row));
});

part("freeze", HTMLFormElement).addEventListener("submit", async (event) => {
  event.preventDefault();
  const tag = part("tag", HTMLInputElement);
  try {
    const snapshot = /** @type {SnapshotRow} */ (
      await request("POST", "/api/snapshots", { tag: tag.value.trim() || null })
    );
    tag.value = "";
    await refresh();
    say(
      `Frozen: ${short(snapshot.id)}, ${counted(snapshot.samples, "sample")}.`,
      "Equal samples always give the same snapshot.",
    );
  } catch (error) {
    sayError(error);
  }
});

/** @param {SnapshotRow} snapshot */
function row(snapshot) {
  return make(
    "tr",
    {},
    make(
      "th",
      { scope: "row" },
      make("a", { href: `/snapshots/${snapshot.id}` }, make("code", {}, short(snapshot.id))),
    ),
    make(
      "td",
      {},
      snapshot.tags.length
        ? snapshot.tags.map((tag) => make("span", { class: "chip" }, tag))
        : make("span", { class: "quiet" }, "none"),
    ),
    make("td", { class: "number" }, count(snapshot.samples)),
    make(
      "td",
      {},
      Object.entries(snapshot.counts).map(([group, counts]) => summary(group, counts)),
    ),
    make("td", {}, make("span", { title: date(snapshot.frozen_at) }, ago(snapshot.frozen_at))),
  );
}

/** What a snapshot has most of, by kind, split, round or licence. @param {string} group @param {Record<string, number>} counts */
function summary(group, counts) {
  const most = Object.entries(counts).sort((a, b) => b[1] - a[1]);
  const told = most.slice(0, MOST).map(([key, number]) => `${count(number)} ${countedAs(group, key)}`);
  if (most.length > MOST) told.push(`${counted(most.length - MOST, "other")}`);
  return make("div", { class: "summary" }, make("span", { class: "quiet" }, plain(group)), " ", told.join(", "));
}
