/** The review page: creates the parts of the page and connects them. */

import { byId, el, replace } from "../lib/dom.js";
import { read, redirectToSignIn, Refusal, request } from "../lib/http.js";
import { showError, showNotice, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";
import { installBackgroundPicker } from "../review/background_picker.js";
import { Backgrounds } from "../review/backgrounds.js";
import { Comparison } from "../review/compare.js";
import { Drafts } from "../review/drafts.js";
import { installEdgeView } from "../review/edge_view.js";
import { showReviewingPaused, updateEmptyState } from "../review/empty_state.js";
import { Grid } from "../review/grid.js";
import { installGridShortcuts } from "../review/grid_shortcuts.js";
import { Magnifier } from "../review/magnifier.js";
import { Outbox } from "../review/outbox.js";
import { Progress } from "../review/progress.js";
import { ReviewQueue } from "../review/queue.js";
import { installReasons } from "../review/reasons.js";
import { installRecentDecisions } from "../review/recent_decisions.js";
import { installRefusedDecisions } from "../review/refused_decisions.js";
import { ReviewSession } from "../review/session.js";
import { showSignals } from "../review/signals.js";
import { installStatus } from "../review/status.js";
import { installViewControls } from "../review/view_controls.js";
import { installViewSwitch } from "../review/view_switch.js";
import { Viewer } from "../review/viewer.js";

const POLL_MS = 3_000;
const RENEW_LEASES_MS = 30_000;
const IDLE_MS = 2 * 60_000;
const SINGLE = { view: "single" };

/**
 * @param {string} path
 * @param {unknown} body
 */
const post = (path, body) => request("POST", path, body);

/** @type {[CurrentReviewer, Reason[]]} */
const [me, reasons] = await Promise.all([read("/api/me"), read("/api/review/reasons")]).catch(
  (error) => {
    showError(error);
    setTimeout(() => location.reload(), POLL_MS);
    return new Promise(() => {});
  },
);
showSignedIn(me);

// State of the page.
const outbox = new Outbox(me.name, post);
const roundFilter = Number(new URLSearchParams(location.search).get("round")) || null;
const queue = new ReviewQueue(post, () => outbox.candidates(), roundFilter);
const viewer = new Viewer(byId("viewer"), byId("layer-stack"));
const session = new ReviewSession(queue, outbox, viewer, new Drafts(me.name));
const grid = new Grid(byId("grid"), queue, session);
const backgrounds = new Backgrounds();
const shortcuts = new Shortcuts(document);
const progress = new Progress();
const current = () => (session.single ? queue.head : grid.current)?.card ?? null;

// Shortcuts are listed in the order in which they are registered.
bindVerdicts();
installReasons(reasons, session, shortcuts, viewer, current);
installGridShortcuts(grid, shortcuts, reasons);
installViewControls(viewer, shortcuts, current, () => queue.nextBackground());
installViewingAids();
bindCommentAndDetails();
installEdgeView(viewer, queue);
installRecentDecisions(session);
installRefusedDecisions(session, outbox);
installStatus(session, outbox, viewer, backgrounds);
byId("empty-filter").hidden = roundFilter === null;
connectEvents();
const firstClaim = installViewSwitch(shortcuts, session, queue, grid);
installShortcutHelp(shortcuts);
outbox.flush();
request("GET", "/api/review/latest").then(
  (recent) => session.addServerHistory(recent),
  () => {}, // without a response, the history starts with this page
);
await firstClaim;
maintainQueue();

/** Register shortcuts and buttons for verdicts and undo. */
function bindVerdicts() {
  /**
   * @param {DecisionRequest["verdict"]} verdict
   * @param {Event} event
   */
  const decide = (verdict, event) =>
    session.decide(verdict, verdict === "reject" ? [...session.reasons] : [], event.timeStamp);
  const verdictKeys = /** @type {const} */ ([
    ["accept", ["a", "j", "ArrowRight"], "Accept"],
    ["reject", ["r", "k", "ArrowLeft"], "Reject"],
    ["skip", ["s"], "Skip: leave it for later or for another reviewer"],
  ]);
  for (const [verdict, keys, help] of verdictKeys) {
    shortcuts.bind("Decide", [...keys], help, (event) => decide(verdict, event), SINGLE);
    byId(verdict).addEventListener("click", (event) => decide(verdict, event));
  }
  const undoHelp = "Undo the latest decision or grid (to undo another, click it under Recent)";
  shortcuts.bind("Decide", ["u", "Backspace"], undoHelp, () => session.undo());
  byId("undo").addEventListener("click", () => session.undo());

  // A held Enter key on a button must not click it repeatedly.
  for (const id of ["accept", "reject", "skip", "undo", "submit"]) {
    byId(id).addEventListener("keydown", (event) => event.repeat && event.preventDefault());
  }
}

/** Install the backgrounds, the magnifier and the comparison with the nearest sample. */
function installViewingAids() {
  for (const id of ["viewer", "grid-view", "lightbox"]) backgrounds.applyTo(byId(id));
  installBackgroundPicker(backgrounds, shortcuts);

  const magnifier = new Magnifier(byId("viewer"), byId("layer-stack"));
  const hideMagnifier = { ...SINGLE, release: () => magnifier.hide() };
  shortcuts.bind("View", ["l"], "Hold: magnifier", () => magnifier.show(), hideMagnifier);
  viewer.addEventListener("change", () => magnifier.visible && magnifier.show());

  const comparison = new Comparison(viewer, current, read);
  const overlayOn = () => viewer.get("comparison") === "overlay";
  const swapHelp = "Hold: show the nearest accepted sample instead";
  const showSample = () => void comparison.show("swap");
  const hideSample = { ...SINGLE, release: () => void comparison.show("") };
  shortcuts.bind("View", ["n"], swapHelp, showSample, hideSample);
  const toggleOverlay = () => void comparison.show(overlayOn() ? "" : "overlay");
  const overlayHelp = "Toggle overlay of the nearest accepted sample";
  shortcuts.bind("View", ["Shift+n"], overlayHelp, toggleOverlay, SINGLE);
  byId("overlay").addEventListener("click", toggleOverlay);
  viewer.addEventListener("change", () =>
    byId("overlay").setAttribute("aria-pressed", String(overlayOn())),
  );
}

function bindCommentAndDetails() {
  const comment = byId("comment", HTMLInputElement);
  const details = byId("details", HTMLDetailsElement);
  const commentHelp = "Write a comment (Enter or Esc to leave the field)";
  shortcuts.bind("Decide", ["c"], commentHelp, () => comment.focus(), SINGLE);
  shortcuts.bind("View", ["i"], "Show or hide flags and signals", () => {
    details.open = !details.open;
  });
  details.addEventListener("toggle", () => {
    if (details.open) details.scrollIntoView({ block: "nearest" });
  });
  comment.addEventListener("input", () => session.setComment(comment.value));
  comment.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") comment.blur();
  });
  session.addEventListener("reasons", () => (comment.value = session.comment));
}

/** Connect the events of session, outbox and queue with the page. */
function connectEvents() {
  let opening = true;
  session.addEventListener("displayed", (event) => {
    /** @type {import("../review/queue.js").QueuedItem | null} */
    const held = /** @type {CustomEvent} */ (event).detail;
    const loading = held?.state === "waiting" ? "decoding" : held?.state;
    const state = loading ?? (queue.exhausted ? "empty" : "decoding");
    opening &&= state === "decoding"; // hide the buttons until there is something to decide
    byId("review").dataset["state"] = opening ? "opening" : state;
    if (session.single) showCandidate();
  });
  grid.addEventListener("change", () => session.single || showCandidate());

  // Progress counts.
  session.addEventListener("decided", (event) =>
    countRows(/** @type {CustomEvent} */ (event).detail, 1),
  );
  session.addEventListener("undone", (event) =>
    countRows(/** @type {CustomEvent} */ (event).detail, -1),
  );
  outbox.addEventListener("refused", (event) => {
    const { entry } = /** @type {CustomEvent} */ (event).detail;
    if (entry.kind === "decision") progress.count(entry.body, -1);
  });
  outbox.addEventListener("retried", (event) =>
    progress.count(/** @type {CustomEvent} */ (event).detail.entry.body, 1),
  );

  // Unsent decisions count as claimed: once they are sent, the server may hand out more.
  outbox.addEventListener("change", () => outbox.entries.length || queue.refill());
  queue.addEventListener("progress", (event) => {
    if (byId("review").dataset["state"] === "refused") showNotice(""); // the problem is resolved
    progress.update(/** @type {CustomEvent} */ (event).detail, outbox.entries.length === 0);
  });
  queue.addEventListener("error", (event) => {
    const error = /** @type {CustomEvent} */ (event).detail;
    if (!(error instanceof Refusal)) return;
    if (error.status === 401) {
      if (outbox.entries.length === 0) redirectToSignIn();
      return;
    }
    showError(error);
    if (queue.head) return;
    showReviewingPaused();
    byId("review").dataset["state"] = "refused";
  });
}

/**
 * @param {import("../review/history.js").Row[]} rows
 * @param {1 | -1} sign
 */
function countRows(rows, sign) {
  for (const row of rows) progress.count(row.body, sign);
}

/** Show the prompt, texts, round and signals of the current candidate. */
function showCandidate() {
  const card = current();
  replace(byId("prompt"), card?.prompt ?? "");
  const texts = Object.entries(card?.texts ?? {});
  byId("texts").hidden = texts.length === 0;
  replace(
    byId("texts"),
    texts.map(([role, text]) => el("span", { "data-of": role }, el("b", {}, role), ` ${text}`)),
  );
  replace(byId("round-label"), card ? `Round ${card.round}` : "");
  showSignals(card);
}

/** Refill the queue, renew leases while the reviewer is active, and release them when idle. */
function maintainQueue() {
  let lastActive = Date.now();
  const isIdle = () => Date.now() - lastActive > IDLE_MS;
  const refreshEmptyState = () => updateEmptyState(roundFilter, isIdle());

  // Activity. After an idle period, released candidates are claimed again.
  const onActivity = () => {
    const returning = isIdle();
    lastActive = Date.now();
    if (returning) queue.refill(true);
  };
  for (const name of ["keydown", "pointerdown", "pointermove"]) {
    addEventListener(name, onActivity, { capture: true });
  }
  for (const name of ["keydown", "pointerdown"]) {
    addEventListener(name, () => queue.activate(), { capture: true });
  }

  // Periodic work.
  setInterval(async () => {
    if (document.hidden) return;
    if (!isIdle()) await queue.refill();
    if (!queue.head && queue.exhausted) await refreshEmptyState();
  }, POLL_MS);
  setInterval(() => {
    if (isIdle()) queue.release();
    else if (!document.hidden) queue.refill(true);
  }, RENEW_LEASES_MS);
  addEventListener("pagehide", () => queue.leave());
  document.addEventListener(
    "visibilitychange",
    () => document.hidden || isIdle() || queue.refill(true),
  );
  if (!queue.head && queue.exhausted) refreshEmptyState();
}
