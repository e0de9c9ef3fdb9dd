/** The page of one training run: its progress, its curves by stage, its log, and its actions. */

import { stateChip } from "../charts/bars.js";
import { lossCurve } from "../charts/loss_curve.js";
import { presetLabel, runProgress } from "../charts/training_runs.js";
import { button, byId, el, replace } from "../lib/dom.js";
import { formatDate, humanize, pluralize, shortId } from "../lib/format.js";
import { read, request } from "../lib/http.js";
import { poll } from "../lib/polling.js";
import { hasRole, showError, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const PERIOD_MS = 5_000;
const MAX_LINES = 200;
const PATH = `/api/runs/${encodeURIComponent(location.pathname.split("/").at(-1) ?? "")}`;
const ENDED = ["finished", "failed", "cancelled"];

/** Actions of trainers by the states in which they are possible. */
const ACTIONS = /** @type {const} */ ([
  ["pause", "Pause", ["requested", "running"]],
  ["resume", "Resume", ["paused"]],
  ["retry", "Retry", ["failed", "cancelled"]],
  ["cancel", "Cancel", ["requested", "running", "paused"]],
]);

installShortcutHelp(new Shortcuts(document));
const me = /** @type {CurrentReviewer | null} */ (await read("/api/me").catch(() => null));
if (me) showSignedIn(me);
/** @type {string[]} */
let lines = [];
let position = "";
let complete = false;
const refresh = poll(PERIOD_MS, async () => {
  const run = /** @type {TrainingRun} */ (await read(PATH));
  showRun(run);
  // A run that has ended changes no more.
  if (complete) return;
  const curves = /** @type {RunCurves} */ (await read(`${PATH}/metrics`));
  showCurves(curves.stages);
  if (me && hasRole(me, "engineer")) await showLog();
  complete = ENDED.includes(run.state);
});

/** @param {TrainingRun} run */
function showRun(run) {
  document.title = `Run ${shortId(run.id)} · Layerloop`;
  byId("run").hidden = false;
  replace(byId("title"), "Run ", el("code", {}, shortId(run.id)));
  replace(byId("state"), stateChip(run.state));
  const snapshot = el(
    "a",
    { href: `/snapshots/${run.snapshot}` },
    el("code", {}, shortId(run.snapshot)),
  );
  const checkpoint = run.checkpoint && [
    ", checkpoint ",
    el("a", { href: `/checkpoints#${run.checkpoint}` }, el("code", {}, shortId(run.checkpoint))),
  ];
  const priority = run.priority ? `, priority ${run.priority}` : "";
  replace(
    byId("summary"),
    `${humanize(run.recipe)} with preset ${presetLabel(run)} on snapshot `,
    snapshot,
    checkpoint,
    `, requested ${formatDate(run.created_at)}, ${pluralize(run.attempts, "attempt")}${priority}`,
  );
  byId("reason").hidden = !run.error;
  byId("reason").textContent = run.error ?? "";
  replace(byId("progress"), run.state === "running" ? runProgress(run) : null);
  const actions = ACTIONS.filter(([, , states]) => states.some((state) => state === run.state));
  byId("actions").hidden = !me || !hasRole(me, "trainer") || actions.length === 0;
  replace(
    byId("actions"),
    actions.map(([action, label]) => button(label, () => act(action))),
  );
}

/** @param {RunCurves["stages"]} stages */
function showCurves(stages) {
  const entries = Object.entries(stages);
  byId("curves-empty").hidden = entries.length > 0;
  replace(
    byId("curves"),
    entries.flatMap(([stage, curves]) => [
      el("header", { class: "section-header spaced" }, el("h2", {}, `Stage ${humanize(stage)}`)),
      el(
        "div",
        { class: "curves", "data-stage": stage },
        Object.entries(curves).map(([metric, points]) => lossCurve(metric, points)),
      ),
    ]),
  );
}

/** Append the lines since the last time. */
async function showLog() {
  const log = /** @type {RunLog} */ (await read(`${PATH}/log${position}`));
  position = `?after=${log.next}`;
  if (!log.lines.length) return;
  lines = [...lines, ...log.lines].slice(-MAX_LINES);
  const output = byId("log");
  byId("log-section").hidden = false;
  output.textContent = lines.join("\n");
  output.scrollTop = output.scrollHeight;
}

/** @param {string} action */
async function act(action) {
  try {
    await request("POST", `${PATH}/${action}`);
    complete = false;
    await refresh();
  } catch (error) {
    showError(error);
  }
}
