/** The comparison page: two images side by side, voted on by keys, without names. */

import { byId, el, replace } from "../lib/dom.js";
import { formatCount, pluralize, toSentence } from "../lib/format.js";
import { read, redirectToSignIn, Refusal, request, signInUrl } from "../lib/http.js";
import { showError, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";
import { LinkedViewers } from "../comparison/linked_viewers.js";
import { ComparisonQueue } from "../comparison/queue.js";
import { ComparisonSession } from "../comparison/session.js";
import { installBackgroundPicker } from "../review/background_picker.js";
import { Backgrounds } from "../review/backgrounds.js";
import { showToast } from "../review/status.js";
import { installViewControls } from "../review/view_controls.js";
import { Viewer } from "../review/viewer.js";

const POLL_MS = 3_000;
const RENEW_LEASES_MS = 30_000;
const IDLE_MS = 5 * 60_000;
const UNDO_PATH = "/api/comparison/undo";
const VIEWS = ["image", "alpha", "faint"];

/** @type {readonly [ComparisonChoice, string[], string][]} */
const CHOICES = [
  ["left", ["ArrowLeft", "1"], "The left image is better"],
  ["right", ["ArrowRight", "2"], "The right image is better"],
  ["equal", ["ArrowDown", "0"], "Both are equally good"],
  ["both_bad", ["x"], "Both are bad"],
];
/** @type {Record<ComparisonChoice, string>} */
const SPOKEN = { left: "left", right: "right", equal: "equal", both_bad: "both bad" };

/**
 * @param {string} path
 * @param {unknown} body
 */
const post = (path, body) => request("POST", path, body);

const me = /** @type {CurrentReviewer | null} */ (
  await read("/api/me").catch((error) => {
    showError(error);
    return null;
  })
);
if (me) showSignedIn(me);

// State of the page.
const number = Number(new URLSearchParams(location.search).get("number")) || null;
const queue = new ComparisonQueue(post, number);
const viewers = new LinkedViewers(
  new Viewer(byId("left-viewer"), byId("left-layers")),
  new Viewer(byId("right-viewer"), byId("right-layers")),
);
const session = new ComparisonSession(queue, viewers, post);
const backgrounds = new Backgrounds();
const shortcuts = new Shortcuts(document);
shortcuts.view = "single";
/** @type {ComparisonProgress | null} */
let progress = null;
let lastActive = Date.now();

bindChoices();
installViewControls(viewers, shortcuts, () => queue.head?.item ?? null, null, VIEWS);
for (const id of ["left-viewer", "right-viewer"]) backgrounds.applyTo(byId(id));
installBackgroundPicker(backgrounds, shortcuts);
installShortcutHelp(shortcuts);
byId("empty-filter").hidden = number === null;
connectEvents();
await queue.refill();
maintainQueue();

/** Register shortcuts and buttons for votes and undo. */
function bindChoices() {
  for (const [choice, keys, help] of CHOICES) {
    shortcuts.bind("Vote", keys, help, (event) => session.vote(choice, event.timeStamp));
    byId(choice).addEventListener("click", (event) => session.vote(choice, event.timeStamp));
  }
  shortcuts.bind("Vote", ["u", "Backspace"], "Undo the latest vote", () => session.undo());
  byId("undo").addEventListener("click", () => session.undo());
}

/** Connect the events of session and queue with the page. */
function connectEvents() {
  session.addEventListener("displayed", (event) => {
    /** @type {import("../comparison/queue.js").QueuedComparison | null} */
    const held = /** @type {CustomEvent} */ (event).detail;
    byId("review").dataset["state"] = held?.state ?? (queue.exhausted ? "empty" : "decoding");
    showItem(held?.item ?? null);
  });
  session.addEventListener("voted", (event) => {
    const { choice } = /** @type {CustomEvent<import("../comparison/session.js").Vote>} */ (event)
      .detail;
    byId("announcement").textContent = SPOKEN[choice];
    count(1);
  });
  session.addEventListener("undone", (event) => {
    byId("announcement").textContent = "undone";
    if (/** @type {CustomEvent} */ (event).detail) count(-1);
  });
  session.addEventListener("refused", (event) => {
    const { entry, error } = /** @type {CustomEvent} */ (event).detail;
    if (entry.vote) count(entry.path === UNDO_PATH ? 1 : -1);
    const reason = [error.message, error.hint].filter(Boolean).map(toSentence).join(" ");
    showToast(`Not saved: ${reason}`);
    queue.refill();
  });
  session.addEventListener("too-early", () =>
    showToast("Too fast: the key was pressed before the images were visible and was ignored."),
  );
  session.addEventListener("change", showSending);
  queue.addEventListener("progress", (event) => {
    progress = /** @type {CustomEvent<ComparisonProgress>} */ (event).detail;
    showProgress();
  });
  queue.addEventListener("error", (event) => {
    const error = /** @type {CustomEvent} */ (event).detail;
    if (!(error instanceof Refusal)) return;
    if (error.status === 401) return redirectToSignIn();
    showError(error);
    if (!queue.head) byId("review").dataset["state"] = "refused";
  });
  addEventListener("beforeunload", (event) => {
    if (session.entries.length) event.preventDefault();
  });
}

/** @param {ComparisonItem | null} item */
function showItem(item) {
  replace(byId("prompt"), item?.prompt ?? "");
  const texts = Object.entries(item?.texts ?? {});
  byId("texts").hidden = texts.length === 0;
  replace(
    byId("texts"),
    texts.map(([role, text]) => el("span", { "data-of": role }, el("b", {}, role), ` ${text}`)),
  );
  replace(byId("round-label"), item ? `Comparison ${item.comparison}` : "");
  for (const side of ["left", "right"]) {
    const label = item ? `${side} image: ${item.prompt}` : "No image";
    byId(`${side}-layers`).setAttribute("aria-label", label);
  }
}

/** Count a vote (+1) or its undo (-1) until the server's counts arrive. @param {1 | -1} sign */
function count(sign) {
  if (!progress) return;
  progress = { waiting: progress.waiting - sign, mine: progress.mine + sign };
  showProgress();
}

function showProgress() {
  if (!progress) return;
  replace(
    byId("progress"),
    [
      ["To compare", progress.waiting],
      ["Compared", progress.mine],
    ].map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, formatCount(Number(value)))),
    ),
  );
}

function showSending() {
  const waiting = session.entries.length;
  document.documentElement.dataset["outbox"] = String(waiting);
  byId("sync-status").textContent = waiting
    ? `Sending ${pluralize(waiting, "vote")}…`
    : "All votes saved";
  byId("banner").hidden = !session.offline;
  if (session.offline) {
    replace(
      byId("banner"),
      el("strong", {}, `The server is not accepting votes: ${pluralize(waiting, "vote")} waiting.`),
      " They are sent again automatically while this page is open. ",
      el("a", { href: signInUrl() }, "Sign in again"),
    );
  }
}

/** Refill the queue, and renew leases while the reviewer is active. */
function maintainQueue() {
  for (const name of ["keydown", "pointerdown", "pointermove"]) {
    addEventListener(name, () => (lastActive = Date.now()), { capture: true });
  }
  const isIdle = () => document.hidden || Date.now() - lastActive > IDLE_MS;
  setInterval(() => queue.head || isIdle() || queue.refill(), POLL_MS);
  setInterval(() => isIdle() || queue.refill(), RENEW_LEASES_MS);
  addEventListener("pagehide", () => queue.leave());
}
