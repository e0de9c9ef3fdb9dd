/** The review page: one candidate, one key, the next candidate. */

import { Desk } from "./desk.js";
import { fill, make, part } from "./elements.js";
import { sayError, showMe } from "./frame.js";
import { installHelp } from "./help.js";
import { Keys } from "./keys.js";
import { installLook } from "./look.js";
import { Outbox } from "./outbox.js";
import { Pace } from "./pace.js";
import { tellWhatGoesOn } from "./quiet.js";
import { installReasons } from "./reasons.js";
import { read, Refusal, request, toSignIn } from "./request.js";
import { showSignals } from "./signals.js";
import { Stage } from "./stage.js";
import { installStatus } from "./status.js";
import { Trail } from "./trail.js";
import { Tray } from "./tray.js";

const LOOK_AGAIN_MS = 3_000;
const RENEW_MS = 60_000;
const AWAY_MS = 10 * 60_000;

/** @param {string} path @param {unknown} body */
const post = (path, body) => request("POST", path, body);

/** @type {[Me, Reason[]]} */
const [me, reasons] = await Promise.all([read("/api/me"), read("/api/review/reasons")]).catch((error) => {
  sayError(error);
  setTimeout(() => location.reload(), LOOK_AGAIN_MS);
  return new Promise(() => {});
});
showMe(me);

const outbox = new Outbox(me.name, post);
const round = Number(new URLSearchParams(location.search).get("round")) || null;
const tray = new Tray(post, () => outbox.candidates(), round);
const stage = new Stage(part("stage"), part("sheet"));
const desk = new Desk(tray, outbox, stage);
const keys = new Keys(document);
const pace = new Pace();
const trail = new Trail();

bindDecisions();
const shown = () => tray.head?.card ?? null;
installReasons(reasons, desk, keys, stage, shown);
installLook(stage, keys, shown, () => tray.elsewhere());
bindRest();
installHelp(keys);
installStatus(desk, outbox, stage);
part("quiet-filter").hidden = round === null;
follow();
outbox.flush();
await tray.fill();
keepTray();

function bindDecisions() {
  /** @param {DecisionBody["verdict"]} verdict @param {Event} event */
  const decide = (verdict, event) =>
    desk.decide(verdict, verdict === "reject" ? [...desk.reasons] : [], event.timeStamp);
  keys.bind("Decide", ["a", "j", "ArrowRight"], "Accept", (event) => decide("accept", event));
  keys.bind("Decide", ["r", "k", "ArrowLeft"], "Reject", (event) => decide("reject", event));
  keys.bind("Decide", ["s"], "Skip: somebody else decides, or you later", (event) => decide("skip", event));
  keys.bind("Decide", ["u", "Backspace"], "Undo the latest decision", () => desk.undo());
  part("accept").addEventListener("click", (event) => decide("accept", event));
  part("reject").addEventListener("click", (event) => decide("reject", event));
  part("skip").addEventListener("click", (event) => decide("skip", event));
  part("undo").addEventListener("click", () => desk.undo());
  for (const name of ["accept", "reject", "skip", "undo"]) {
    // Enter held down on a button clicks it again and again: like any key held down, it is one.
    part(name).addEventListener("keydown", (event) => event.repeat && event.preventDefault());
  }
}

function bindRest() {
  const comment = part("comment", HTMLInputElement);
  const details = part("details", HTMLDetailsElement);
  keys.bind("Decide", ["c"], "Write a comment; Enter or Esc goes back to the candidate", () => comment.focus());
  keys.bind("Look", ["i"], "Show or hide flags and measurements", () => (details.open = !details.open));
  comment.addEventListener("input", () => (desk.comment = comment.value));
  comment.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") comment.blur();
  });
  desk.addEventListener("collected", () => (comment.value = desk.comment));
}

/** Everything on the page that follows from what happens at the desk. */
function follow() {
  desk.addEventListener("shown", (event) => {
    const held = /** @type {import("./tray.js").Held | null} */ (/** @type {CustomEvent} */ (event).detail);
    const quiet = !held && tray.dry;
    part("review").dataset["state"] = held?.state ?? (quiet ? "quiet" : "decoding");
    fill(part("prompt"), held ? held.card.prompt : "");
    showTexts(held?.card ?? null);
    fill(part("whence"), held ? `Round ${held.card.round}` : "");
    showSignals(held?.card ?? null);
  });
  desk.addEventListener("decided", (event) => {
    pace.count(/** @type {CustomEvent} */ (event).detail, 1);
    trail.add(/** @type {import("./desk.js").Decided} */ (desk.history.at(-1)));
  });
  desk.addEventListener("undone", (event) => {
    const entry = /** @type {import("./outbox.js").Entry} */ (/** @type {CustomEvent} */ (event).detail);
    pace.count(entry.body, -1);
    trail.remove(entry.key);
  });
  outbox.addEventListener("sent", (event) => trail.mark(/** @type {CustomEvent} */ (event).detail.entry.key, "sent"));
  outbox.addEventListener("refused", (event) => {
    const { entry } = /** @type {CustomEvent} */ (event).detail;
    trail.mark(entry.key, "refused");
    if (entry.kind === "decision") pace.count(entry.body, -1);
  });
  tray.addEventListener("progress", (event) => {
    pace.settle(/** @type {CustomEvent} */ (event).detail, outbox.entries.length === 0);
  });
  tray.addEventListener("trouble", (event) => {
    const error = /** @type {CustomEvent} */ (event).detail;
    if (error instanceof Refusal && error.status === 401 && outbox.entries.length === 0) toSignIn();
    else if (error instanceof Refusal && error.status !== 401) sayError(error);
  });
}

/** What the layers of a pair are to show, each for itself. @param {Card | null} card */
function showTexts(card) {
  const texts = Object.entries(card?.texts ?? {});
  part("texts").hidden = texts.length === 0;
  fill(
    part("texts"),
    texts.map(([role, text]) => make("span", { "data-of": role }, make("b", {}, role), ` ${text}`)),
  );
}

/** Looks for candidates while there are too few, and keeps the lease on those held while somebody is here. */
function keepTray() {
  let active = Date.now();
  for (const name of ["keydown", "pointerdown", "pointermove"]) addEventListener(name, () => (active = Date.now()));
  setInterval(async () => {
    if (document.hidden) return;
    await tray.fill();
    if (!tray.head && tray.dry) await tellWhatGoesOn();
  }, LOOK_AGAIN_MS);
  setInterval(() => document.hidden || Date.now() - active > AWAY_MS || tray.fill(true), RENEW_MS);
  document.addEventListener("visibilitychange", () => document.hidden || tray.fill(true));
  if (!tray.head && tray.dry) tellWhatGoesOn();
}
