/** Status messages of the review page: sync status, refused decisions, and screen reader output. */

import { byId, el, replace } from "../lib/dom.js";
import { pluralize, toSentence } from "../lib/format.js";
import { signInUrl } from "../lib/http.js";
import { describeRow, describeRows } from "./recent_decisions.js";

/** @typedef {import("./history.js").Row} Row */

const TOAST_MS = 6_000;

/**
 * @param {import("./session.js").ReviewSession} session
 * @param {import("./outbox.js").Outbox} outbox
 * @param {import("./viewer.js").Viewer} viewer
 * @param {import("./backgrounds.js").Backgrounds} backgrounds
 */
export function installStatus(session, outbox, viewer, backgrounds) {
  const updateOutbox = () => {
    updateBanner(outbox);
    byId("sync-status").textContent = syncStatus(outbox);
    document.documentElement.dataset["outbox"] = String(outbox.entries.length);
  };
  outbox.addEventListener("change", updateOutbox);
  outbox.addEventListener("refused", (event) => {
    const { entry, error } = /** @type {CustomEvent} */ (event).detail;
    const subject = entry.kind === "undo" ? "Undo not saved" : "Decision not saved";
    showToast(
      `${subject}: ${[error.message, error.hint].filter(Boolean).map(toSentence).join(" ")}`,
    );
  });
  session.addEventListener("too-early", () =>
    showToast("Too fast: the key was pressed before the image was visible and was ignored."),
  );
  session.addEventListener("not-visible", () =>
    showToast("This image failed to load, so it can only be skipped."),
  );

  // For screen readers: the view, and the effect of each action.
  const updateView = () => {
    byId("view-status").textContent =
      `${backgrounds.name}, ${viewer.get("view")}, zoom ${viewer.get("zoom")}`;
  };
  viewer.addEventListener("change", updateView);
  backgrounds.addEventListener("change", updateView);
  session.addEventListener("decided", (event) =>
    announce("", /** @type {CustomEvent} */ (event).detail),
  );
  session.addEventListener("undone", (event) =>
    announce("undone: ", /** @type {CustomEvent} */ (event).detail),
  );
  updateOutbox();
}

/** @param {import("./outbox.js").Outbox} outbox */
function updateBanner(outbox) {
  const waiting = pluralize(outbox.entries.length, "decision");
  const banner = byId("banner");
  banner.hidden = !outbox.problem;
  if (outbox.problem === "offline") {
    replace(
      banner,
      el("strong", {}, `Offline: ${waiting} waiting.`),
      " They are saved in this browser and sent when the server is reachable. You can continue.",
    );
  }
  if (outbox.problem === "server") {
    replace(
      banner,
      el("strong", {}, `The server is not accepting decisions: ${waiting} waiting.`),
      " They are saved in this browser and sent again automatically. You can continue.",
    );
  }
  if (outbox.problem === "signed out") {
    replace(
      banner,
      el("strong", {}, `Signed out: ${waiting} waiting.`),
      " They are saved in this browser. ",
      el("a", { href: signInUrl() }, "Sign in again"),
    );
  }
}

/** @param {import("./outbox.js").Outbox} outbox */
function syncStatus({ entries, refused }) {
  if (entries.length) return `Sending ${pluralize(entries.length, "decision")}…`;
  if (refused.length) return `${pluralize(refused.length, "decision")} not saved; all others saved`;
  return "All decisions saved";
}

/**
 * Announce an action to screen readers.
 * @param {string} prefix
 * @param {Row[]} rows
 */
function announce(prefix, rows) {
  const [row] = rows;
  const single =
    rows.length === 1 && row ? `${describeRow({ ...row, state: "sent" })}: ${row.card.prompt}` : "";
  byId("announcement").textContent = prefix + (single || `grid: ${describeRows(rows)}`);
}

let toastTimer = 0;

/** Show a message for a few seconds; screen readers announce it. @param {string} text */
export function showToast(text) {
  const toast = byId("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (toast.hidden = true), TOAST_MS);
}
