/** The reviewers page: statistics of reviewers in a table, and of the selected one in full. */

import { showReviewerStats, wholePercent } from "../charts/reviewer_stats.js";
import { button, byId, el, replace } from "../lib/dom.js";
import { formatCount, formatDuration, formatRate } from "../lib/format.js";
import { read } from "../lib/http.js";
import { readListPage } from "../lib/list_pages.js";
import { poll } from "../lib/polling.js";
import { showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const PERIOD_MS = 15_000;
const PAGE_SIZE = 50;

/** @type {ReviewerStats[]} */
let reviewers = [];
let selectedName = decodeURIComponent(location.hash.slice(1));

installShortcutHelp(new Shortcuts(document));
const me = /** @type {CurrentReviewer | null} */ (await read("/api/me").catch(() => null));
if (me) showSignedIn(me);
poll(PERIOD_MS, async () => {
  const labels = /** @type {[string, string]} */ (["First", "More"]);
  reviewers = await readListPage(byId("pages"), `/api/reviewers?limit=${PAGE_SIZE}`, { labels });
  render();
});

function render() {
  byId("empty").hidden = reviewers.length > 0;
  byId("table").hidden = reviewers.length === 0;

  // Replacing the rows loses the focus, so it is restored by name.
  const focusedName = document.activeElement?.textContent;
  replace(byId("rows"), reviewers.map(row));
  for (const nameButton of byId("rows").querySelectorAll("button")) {
    if (nameButton.textContent === focusedName) nameButton.focus();
  }

  const selected = reviewers.find((stats) => stats.name === selectedName);
  byId("selected").hidden = !selected;
  if (!selected) return;
  byId("selected-name").textContent = selected.name;
  showReviewerStats(byId("stats"), selected);
}

/** @param {string} name */
function select(name) {
  selectedName = name;
  history.replaceState(null, "", `${location.search}#${encodeURIComponent(name)}`);
  render();
  byId("selected").scrollIntoView({ block: "start" });
}

/** @param {ReviewerStats} stats */
function row(stats) {
  const { median } = stats.dwell_ms;
  const { accepted, agreement, gold, undone } = stats;
  const shares = [accepted, agreement.alike, gold.noticed, gold.clean_accepted, undone];
  const numbers = [
    formatCount(stats.decisions),
    formatRate(stats.decisions_per_hour),
    median === null ? "–" : formatDuration(median / 1000),
    ...shares.map(wholePercent),
  ];
  const attributes = { class: "plain name", "aria-pressed": String(stats.name === selectedName) };
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      button(stats.name, () => select(stats.name), attributes),
      stats.paused !== null && el("span", { class: "chip state-paused" }, "❙❙ paused"),
    ),
    numbers.map((value) => el("td", { class: "number" }, value)),
  );
}
