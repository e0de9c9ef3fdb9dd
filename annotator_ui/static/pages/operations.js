/** The operations page: workers, waiting work, webhooks and labeling, and what needs attention. */

import { stateChip, tile } from "../charts/bars.js";
import { showLabeling } from "../charts/labeling.js";
import { byId, el, replace } from "../lib/dom.js";
import { formatAgo, formatCount, formatDuration, pluralize, toSentence } from "../lib/format.js";
import { read } from "../lib/http.js";
import { poll } from "../lib/polling.js";
import { showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const PERIOD_MS = 5_000;
/** Columns of candidates in open rounds: their states. */
const STATES = ["requested", "generating", "generated", "waiting", "failed"];

installShortcutHelp(new Shortcuts(document));
const me = /** @type {CurrentReviewer | null} */ (await read("/api/me").catch(() => null));
if (me) showSignedIn(me);
poll(PERIOD_MS, async () => render(await read("/api/operations")));

/** @param {OperationsState} state */
function render(state) {
  const { workers, queues, rounds, webhooks, trouble } = state;
  byId("operations").hidden = false;
  byId("trouble").hidden = trouble.length === 0;
  replace(byId("trouble-list"), trouble.map((sentence) => el("li", {}, toSentence(sentence))));
  replace(byId("tiles"), tiles(state));
  showRows("workers", workers.map(workerRow));
  showRows("queues", queues.map(queueRow));
  showRows("rounds", rounds.map(roundRow));
  showRows("webhooks", webhooks.map(webhookRow));
  byId("replay").hidden = !webhooks.some(({ failed }) => failed > 0);
  showLabeling(state);
}

/**
 * Show the rows of a table, or that there are none.
 * @param {string} name
 * @param {HTMLElement[]} rows
 */
function showRows(name, rows) {
  byId(`${name}-empty`).hidden = rows.length > 0;
  byId(`${name}-table`).hidden = rows.length === 0;
  replace(byId(name), rows);
}

/** @param {OperationsState} state */
function tiles({ workers, queues, rounds, webhooks }) {
  const inState = (/** @type {string} */ wanted) =>
    workers.filter(({ state }) => state === wanted).length;
  const sum = (/** @type {string} */ state) =>
    rounds.reduce((total, { candidates }) => total + (candidates[state] ?? 0), 0);
  const oldest = Math.max(0, ...queues.map((queue) => queue.oldest_seconds));
  const jobs = queues.reduce((total, { count }) => total + count, 0);
  const failing = webhooks.filter(
    ({ active, failing_since: since, last }) => !active || since || last?.state === "failed",
  ).length;
  return [
    tile(
      "Workers",
      formatCount(workers.length),
      `${inState("busy")} busy, ${inState("paused")} paused, ${inState("draining")} draining`,
    ),
    tile(
      "Waiting jobs",
      formatCount(jobs),
      jobs ? `the oldest for ${formatDuration(oldest)}` : "every job is taken",
    ),
    tile(
      "Candidates to generate",
      formatCount(sum("requested")),
      `${formatCount(sum("generating"))} in generation, ${formatCount(sum("generated"))} to screen`,
    ),
    tile("Webhooks", formatCount(webhooks.length), failing ? `${failing} failing` : "none fails"),
  ];
}

/** @param {OperationsState["workers"][number]} worker */
function workerRow(worker) {
  const held = worker.leases.map(({ purpose, count, seconds_left: left }) =>
    el("div", {}, `${count} ${purpose}`, el("small", {}, `expires in ${formatDuration(left)}`)),
  );
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      worker.id,
      el("small", {}, `${worker.host}, process ${worker.pid}, ${worker.version}`),
    ),
    el("td", {}, worker.queues.join(", ")),
    el(
      "td",
      { class: "text" },
      stateChip(worker.state),
      worker.reason && el("div", {}, worker.reason),
      worker.last_error && el("small", {}, `last error: ${worker.last_error}`),
    ),
    el("td", {}, worker.job ?? el("span", { class: "muted" }, "–")),
    el("td", {}, held.length ? held : el("span", { class: "muted" }, "none")),
    el(
      "td",
      {},
      el("span", { title: worker.seen_at }, formatAgo(worker.seen_at)),
      el("small", {}, `started ${formatAgo(worker.started_at)}`),
    ),
  );
}

/** @param {OperationsState["queues"][number]} queue */
function queueRow({ job, count, oldest_seconds: seconds }) {
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, job),
    el("td", { class: "number" }, formatCount(count)),
    el("td", { class: "number" }, formatDuration(seconds)),
  );
}

/** @param {OperationsState["rounds"][number]} round */
function roundRow({ id, state, candidates }) {
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      el("a", { href: `/rounds/${id}` }, `Round ${id}`),
      state !== "open" && el("small", {}, state),
    ),
    STATES.map((name) => el("td", { class: "number" }, formatCount(candidates[name] ?? 0))),
  );
}

/** @param {OperationsState["webhooks"][number]} hook */
function webhookRow(hook) {
  const { last } = hook;
  const state = hook.active ? (hook.failing_since ? "failing" : "active") : "disabled";
  const counts = [hook.pending, hook.delivered, hook.failed];
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      `${hook.id}. ${hook.receiver}`,
      el("small", {}, pluralize(hook.events.length, "event"), `: ${hook.events.join(", ")}`),
    ),
    el(
      "td",
      { class: "text" },
      el("span", { class: state === "active" ? "" : "worse" }, state),
      hook.failing_since && el("small", {}, ` since ${formatAgo(hook.failing_since)}`),
      hook.disabled_reason && el("small", {}, ` ${hook.disabled_reason}`),
    ),
    el(
      "td",
      { class: "text" },
      last ? `${last.event}, ${last.state} ` : "nothing sent yet",
      last && el("small", {}, formatAgo(last.created_at)),
      last?.error && el("small", {}, ` ${last.error}, ${pluralize(last.attempts, "attempt")}`),
    ),
    counts.map((number) => el("td", { class: "number" }, formatCount(number))),
  );
}
