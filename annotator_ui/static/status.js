/** What the reviewer must know, for eyes and for screen readers: decisions made, waiting, refused, too early; how one looks. */

import { fill, make, part } from "./elements.js";
import { rowSaid, sheetSaid } from "./trail.js";
import { counted } from "./words.js";

const SHOWN_MS = 6_000;

/**
 * @param {import("./desk.js").Desk} desk
 * @param {import("./outbox.js").Outbox} outbox
 * @param {import("./stage.js").Stage} stage
 * @param {import("./backgrounds.js").Backgrounds} backgrounds
 */
export function installStatus(desk, outbox, stage, backgrounds) {
  const showBanner = () => {
    const waiting = counted(outbox.entries.length, "decision");
    const banner = part("banner");
    banner.hidden = !outbox.trouble;
    if (outbox.trouble === "offline")
      fill(
        banner,
        make("strong", {}, `Offline: ${waiting} waiting.`),
        " They are kept in this browser and sent when the server answers. Go on.",
      );
    if (outbox.trouble === "server")
      fill(
        banner,
        make("strong", {}, `The server takes no decisions at the moment: ${waiting} waiting.`),
        " They are kept in this browser and sent again by themselves. Go on.",
      );
    if (outbox.trouble === "signed out") {
      const link = make(
        "a",
        { href: `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}` },
        "Sign in again",
      );
      fill(banner, make("strong", {}, `Signed out: ${waiting} waiting.`), " They are kept in this browser. ", link);
    }
    part("sending").textContent = outbox.entries.length
      ? `${counted(outbox.entries.length, "decision")} being sent`
      : outbox.aside.length
        ? `${counted(outbox.aside.length, "decision")} not taken; all others are kept`
        : "All decisions are kept";
    document.documentElement.dataset["outbox"] = String(outbox.entries.length);
  };
  outbox.addEventListener("change", showBanner);
  outbox.addEventListener("refused", (event) => {
    const { entry, error } = /** @type {CustomEvent} */ (event).detail;
    const what = entry.kind === "undo" ? "The undo was not taken" : "The decision was not taken";
    announce(`${what}: ${error.message}. ${error.hint ?? ""}`);
  });
  desk.addEventListener("early", () => announce("Too fast: that key came before the picture, and was ignored."));
  desk.addEventListener("unseen", () => announce("This picture cannot be shown, so it can only be skipped."));
  const showLooking = () => {
    part("looking").textContent = `${backgrounds.name}, ${stage.get("view")}, zoom ${stage.get("zoom")}`;
  };
  stage.addEventListener("change", showLooking);
  backgrounds.addEventListener("change", showLooking);
  desk.addEventListener("decided", (event) => speak("", /** @type {CustomEvent} */ (event).detail));
  desk.addEventListener("undone", (event) => speak("taken back: ", /** @type {CustomEvent} */ (event).detail));
  showBanner();
}

/** Says to screen readers what was done, and of a single candidate what comes next. @param {string} how @param {import("./history.js").Row[]} rows */
function speak(how, rows) {
  const [row] = rows;
  const one = rows.length === 1 && row ? `${rowSaid({ ...row, state: "sent" })}: ${row.card.prompt}` : "";
  const what = one || `sheet: ${sheetSaid(rows)}`;
  part("spoken").textContent = how + what;
}

let timer = 0;

/** Says something for a while, also to screen readers. @param {string} text */
export function announce(text) {
  const toast = part("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => (toast.hidden = true), SHOWN_MS);
}
