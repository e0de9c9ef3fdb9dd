/** The loops page: planned rounds with their step, spending and actions, newest first. */

import { stateChip } from "../charts/bars.js";
import { loopActions, loopSpending, loopStep } from "../charts/loops.js";
import { byId, el, replace } from "../lib/dom.js";
import { formatAgo, formatCount, shortId } from "../lib/format.js";
import { read } from "../lib/http.js";
import { readListPage } from "../lib/list_pages.js";
import { poll } from "../lib/polling.js";
import { showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const PERIOD_MS = 4_000;
const PAGE_SIZE = 20;

installShortcutHelp(new Shortcuts(document));
const me = /** @type {CurrentReviewer | null} */ (await read("/api/me").catch(() => null));
if (me) showSignedIn(me);
let rendered = "";
const refresh = poll(PERIOD_MS, async () => {
  const loops = /** @type {LoopSummary[]} */ (
    await readListPage(byId("pages"), `/api/loops?limit=${PAGE_SIZE}`)
  );
  byId("empty").hidden = loops.length > 0;
  byId("table").hidden = loops.length === 0;
  // Unchanged rows stay, so that a refresh never removes a button that is about to be clicked.
  const state = JSON.stringify(loops);
  if (state === rendered) return;
  rendered = state;
  replace(byId("rows"), loops.map(row));
});

/** @param {LoopSummary} loop */
function row(loop) {
  const checkpoint = loop.checkpoint
    ? el(
        "a",
        { href: `/checkpoints#${loop.checkpoint}` },
        el("code", {}, shortId(loop.checkpoint)),
      )
    : el("span", { class: "muted" }, "–");
  const progress = el("progress", {
    max: loop.rounds,
    value: loop.state === "finished" ? loop.rounds : loop.turn - 1,
    "aria-label": `Progress of loop ${loop.id}`,
  });
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      el("a", { href: `/loops/${loop.id}` }, `Loop ${loop.id}`),
      el("small", {}, `${loop.preset}, ${formatCount(loop.quota)} a round`),
      el("small", { title: loop.started_at }, `started ${formatAgo(loop.started_at)}`),
    ),
    el("td", {}, stateChip(loop.state)),
    el(
      "td",
      { class: "text" },
      progress,
      el("div", {}, loopStep(loop)),
      loop.reason && el("div", { class: "muted" }, loop.reason),
    ),
    el("td", {}, checkpoint),
    el("td", { class: "spending" }, loopSpending(loop)),
    el("td", {}, el("div", { class: "actions" }, loopActions(loop, refresh))),
  );
}
