/** The page of one comparison: win rate, sign test, sides, and votes by reviewer. */

import { bars, stateChip, tile } from "../charts/bars.js";
import { sideLabel, shareText } from "../charts/comparisons.js";
import { button, byId, el, replace } from "../lib/dom.js";
import {
  formatCount,
  formatDate,
  formatDuration,
  formatNumber,
  formatPercent,
  kindLabel,
  pluralize,
  toSentence,
} from "../lib/format.js";
import { read, request } from "../lib/http.js";
import { poll } from "../lib/polling.js";
import { hasRole, showError, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const PERIOD_MS = 5_000;
const path = `/api/comparisons/${Number(location.pathname.split("/").at(-1))}`;

installShortcutHelp(new Shortcuts(document));
const me = /** @type {CurrentReviewer | null} */ (await read("/api/me").catch(() => null));
if (me) showSignedIn(me);
const dialog = byId("close-dialog", HTMLDialogElement);
byId("close-cancel").addEventListener("click", () => dialog.close());
byId("close-confirm").addEventListener("click", closeComparison);
const refresh = poll(PERIOD_MS, async () => render(await read(path)));

/** @param {ComparisonWithResult} report */
function render({ comparison, result }) {
  byId("report").hidden = false;
  document.title = `Comparison ${comparison.id} · Layerloop`;
  replace(byId("title"), `Comparison ${comparison.id} `, stateChip(comparison.state));
  replace(byId("summary"), toSentence(result.sentence));
  byId("provisional").hidden = comparison.state === "closed";
  const isOpen = comparison.state === "open";
  const mayClose = isOpen && me && hasRole(me, "engineer");
  replace(
    byId("actions"),
    isOpen && el("a", { class: "button", href: `/comparison?number=${comparison.id}` }, "Compare"),
    mayClose && button("Close comparison", () => dialog.showModal()),
  );
  renderTiles(result);
  renderOutcomes(comparison, result);
  renderSides(comparison);
  renderReviewers(result.reviewers);
}

/** @param {ComparisonResult} result */
function renderTiles(result) {
  const { win_rate: rate, left_share: left, agreement, p_two_sided: p } = result;
  replace(
    byId("tiles"),
    tile("Win rate of B", shareText(rate), intervalText(rate)),
    tile("Sign test", `p = ${formatNumber(p, 2)}`, "two-sided, exact"),
    tile("Left side chosen", shareText(left), intervalText(left)),
    agreement.value !== null && tile("Agreement", shareText(agreement), intervalText(agreement)),
  );
}

/** @param {ShareWithInterval} share */
function intervalText({ low, high, n }) {
  if (low === null || high === null) return "nothing decided yet";
  return `95 % interval ${formatPercent(low)} to ${formatPercent(high)}, n = ${formatCount(n)}`;
}

/**
 * @param {Comparison} comparison
 * @param {ComparisonResult} result
 */
function renderOutcomes({ items }, result) {
  const rows = [
    { name: "A wins", value: result.a },
    { name: "B wins", value: result.b },
    { name: "Equal", value: result.equal },
    { name: "Both bad", value: result.both_bad },
    { name: "Undecided", value: result.undecided },
  ];
  replace(byId("outcomes"), bars(rows, items));
}

/** @param {Comparison} comparison */
function renderSides(comparison) {
  const values = {
    A: sideLabel(comparison.a),
    B: sideLabel(comparison.b),
    Items: `${pluralize(comparison.items, "item")}, ${kindLabel(comparison.kind).toLowerCase()}`,
    Votes: `${pluralize(comparison.votes, "vote")} per item`,
    Seeds: `${comparison.seed} to ${comparison.seed + comparison.items - 1}`,
    Opened: formatDate(comparison.created_at),
    ...(comparison.closed_at ? { Closed: formatDate(comparison.closed_at) } : {}),
    ...(comparison.segmenter ? { Segmenter: comparison.segmenter } : {}),
  };
  replace(
    byId("sides"),
    Object.entries(values).flatMap(([name, value]) => [
      el("dt", {}, name),
      el("dd", {}, value),
    ]),
  );
}

/** @param {ReviewerVotes[]} reviewers */
function renderReviewers(reviewers) {
  byId("reviewers-empty").hidden = reviewers.length > 0;
  replace(
    byId("reviewers"),
    reviewers.map((one) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, one.reviewer),
        [one.a, one.b, one.equal, one.both_bad].map((number) =>
          el("td", { class: "number" }, formatCount(number)),
        ),
        el(
          "td",
          { class: "number" },
          one.median_seconds === null ? "–" : formatDuration(one.median_seconds),
        ),
      ),
    ),
  );
}

async function closeComparison() {
  dialog.close();
  try {
    await request("POST", `${path}/close`);
    await refresh();
  } catch (error) {
    showError(error);
  }
}
