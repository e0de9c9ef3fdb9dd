/** The review page: one candidate, one key, the next candidate. */

import { Backgrounds } from "./backgrounds.js";
import { installBackgrounds } from "./behind.js";
import { Compare } from "./compare.js";
import { Contact } from "./contact.js";
import { Desk } from "./desk.js";
import { Drafts } from "./drafts.js";
import { installEdgeView } from "./edge_view.js";
import { fill, make, part } from "./elements.js";
import { say, sayError, showMe } from "./frame.js";
import { installHelp } from "./help.js";
import { Keys } from "./keys.js";
import { installLook } from "./look.js";
import { Loupe } from "./loupe.js";
import { Outbox } from "./outbox.js";
import { Pace } from "./pace.js";
import { tellRefusal, tellWhatGoesOn } from "./quiet.js";
import { installReasons } from "./reasons.js";
import { read, Refusal, request, toSignIn } from "./request.js";
import { installSheet } from "./sheet_keys.js";
import { installSetAside } from "./set_aside.js";
import { showSignals } from "./signals.js";
import { Stage } from "./stage.js";
import { installStatus } from "./status.js";
import { installTrail } from "./trail.js";
import { Tray } from "./tray.js";
import { installViews } from "./views.js";

const LOOK_AGAIN_MS = 3_000;
const RENEW_MS = 30_000;
const IDLE_MS = 2 * 60_000;
const ONE = { where: "single" };

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
const desk = new Desk(tray, outbox, stage, new Drafts(me.name));
const contact = new Contact(part("contact"), tray, desk);
const backgrounds = new Backgrounds();
const keys = new Keys(document);
const pace = new Pace();

const shown = () => (desk.single ? tray.head : contact.held)?.card ?? null;
bindDecisions();
installReasons(reasons, desk, keys, stage, shown);
installSheet(contact, keys, reasons);
installLook(stage, keys, shown, () => tray.elsewhere());
bindAids();
bindRest();
installEdgeView(stage, tray);
installTrail(desk);
installSetAside(desk, outbox);
installStatus(desk, outbox, stage, backgrounds);
part("quiet-filter").hidden = round === null;
follow();
const filled = installViews(keys, desk, tray, contact);
installHelp(keys);
outbox.flush();
request("GET", "/api/review/latest").then((latest) => desk.remember(latest), () => {}); // without it the page knows its own
await filled;
keepTray();

function bindDecisions() {
  /** @param {DecisionBody["verdict"]} verdict @param {Event} event */
  const decide = (verdict, event) =>
    desk.decide(verdict, verdict === "reject" ? [...desk.reasons] : [], event.timeStamp);
  keys.bind("Decide", ["a", "j", "ArrowRight"], "Accept", (event) => decide("accept", event), ONE);
  keys.bind("Decide", ["r", "k", "ArrowLeft"], "Reject", (event) => decide("reject", event), ONE);
  keys.bind("Decide", ["s"], "Skip: somebody else decides, or you later", (event) => decide("skip", event), ONE);
  const undo = "Undo the latest decision, or the latest sheet (any other: press it under Latest)";
  keys.bind("Decide", ["u", "Backspace"], undo, () => desk.undo());
  part("accept").addEventListener("click", (event) => decide("accept", event));
  part("reject").addEventListener("click", (event) => decide("reject", event));
  part("skip").addEventListener("click", (event) => decide("skip", event));
  part("undo").addEventListener("click", () => desk.undo());
  for (const name of ["accept", "reject", "skip", "undo", "submit"]) {
    // Enter held down on a button clicks it again and again: like any key held down, it is one.
    part(name).addEventListener("keydown", (event) => event.repeat && event.preventDefault());
  }
}

/** Backgrounds, the magnifier, and the sample to compare with. */
function bindAids() {
  for (const name of ["stage", "print-room", "closer"]) backgrounds.lieBehind(part(name));
  installBackgrounds(backgrounds, keys);
  const loupe = new Loupe(part("stage"), part("sheet"));
  keys.bind("Look", ["l"], "Hold: a magnifier under the pointer", () => loupe.show(), { ...ONE, release: () => loupe.hide() });
  stage.addEventListener("change", () => loupe.open && loupe.show());
  const compare = new Compare(stage, shown, read);
  const blink = "Hold: the nearest accepted sample in its place; hold and let go to blink";
  keys.bind("Look", ["n"], blink, () => void compare.show("blink"), { ...ONE, release: () => void compare.show("") });
  const onion = () => void compare.show(stage.get("beside") === "onion" ? "" : "onion");
  keys.bind("Look", ["Shift+n"], "Lay that sample half over it, and away", onion, ONE);
  part("onion").addEventListener("click", onion);
  stage.addEventListener("change", () => part("onion").setAttribute("aria-pressed", String(stage.get("beside") === "onion")));
}

function bindRest() {
  const comment = part("comment", HTMLInputElement);
  const details = part("details", HTMLDetailsElement);
  keys.bind("Decide", ["c"], "Write a comment; Enter or Esc goes back to the candidate", () => comment.focus(), ONE);
  keys.bind("Look", ["i"], "Show or hide flags and measurements", () => (details.open = !details.open));
  details.addEventListener("toggle", () => details.open && details.scrollIntoView({ block: "nearest" }));
  comment.addEventListener("input", () => desk.write(comment.value));
  comment.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") comment.blur();
  });
  desk.addEventListener("collected", () => (comment.value = desk.comment));
}

/** Everything on the page that follows from what happens at the desk. */
function follow() {
  let opening = true;
  desk.addEventListener("shown", (event) => {
    const held = /** @type {import("./tray.js").Held | null} */ (/** @type {CustomEvent} */ (event).detail);
    const state = held ? (held.state === "waiting" ? "decoding" : held.state) : tray.dry ? "quiet" : "decoding";
    opening &&= state === "decoding"; // until something can be decided there are no buttons to decide with
    part("review").dataset["state"] = opening ? "opening" : state;
    if (desk.single) describe();
  });
  contact.addEventListener("change", () => desk.single || describe());
  desk.addEventListener("decided", (event) => count(/** @type {CustomEvent} */ (event).detail, 1));
  desk.addEventListener("undone", (event) => count(/** @type {CustomEvent} */ (event).detail, -1));
  outbox.addEventListener("refused", (event) => {
    const { entry } = /** @type {CustomEvent} */ (event).detail;
    if (entry.kind === "decision") pace.count(entry.body, -1);
  });
  outbox.addEventListener("retried", (event) => pace.count(/** @type {CustomEvent} */ (event).detail.entry.body, 1));
  // What was on its way counted as held: only now may the server give more in its place.
  outbox.addEventListener("change", () => outbox.entries.length || tray.fill());
  tray.addEventListener("progress", (event) => {
    if (part("review").dataset["state"] === "told") say(""); // what was in the way is over
    pace.settle(/** @type {CustomEvent} */ (event).detail, outbox.entries.length === 0);
  });
  tray.addEventListener("trouble", (event) => {
    const error = /** @type {CustomEvent} */ (event).detail;
    if (error instanceof Refusal && error.status === 401 && outbox.entries.length === 0) toSignIn();
    else if (error instanceof Refusal && error.status !== 401) {
      sayError(error);
      if (tray.head) return;
      tellRefusal();
      part("review").dataset["state"] = "told"; // nothing is on its way
    }
  });
}

/** @param {import("./history.js").Row[]} rows @param {1 | -1} sign */
function count(rows, sign) {
  for (const row of rows) pace.count(row.body, sign);
}

/** What is asked of the candidate that is looked at, and what was measured. */
function describe() {
  const card = shown();
  fill(part("prompt"), card?.prompt ?? "");
  showTexts(card);
  fill(part("whence"), card ? `Round ${card.round}` : "");
  showSignals(card);
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

/** Looks for candidates while there are too few, keeps those held while somebody is here, and returns them when nobody is. */
function keepTray() {
  let active = Date.now();
  const idle = () => Date.now() - active > IDLE_MS;
  const tellQuiet = () => tellWhatGoesOn(round, idle());
  const here = () => {
    const back = idle();
    active = Date.now();
    if (back) tray.fill(true); // what was returned is ours again, unless somebody else has it by now
  };
  for (const name of ["keydown", "pointerdown", "pointermove"]) addEventListener(name, here, { capture: true });
  for (const name of ["keydown", "pointerdown"]) addEventListener(name, () => tray.wake(), { capture: true });
  setInterval(async () => {
    if (document.hidden) return;
    if (!idle()) await tray.fill();
    if (!tray.head && tray.dry) await tellQuiet();
  }, LOOK_AGAIN_MS);
  setInterval(() => {
    if (idle()) tray.release();
    else if (!document.hidden) tray.fill(true);
  }, RENEW_MS);
  addEventListener("pagehide", () => tray.leave());
  document.addEventListener("visibilitychange", () => document.hidden || idle() || tray.fill(true));
  if (!tray.head && tray.dry) tellQuiet();
}
