/** What every page has around it: who is signed in, signing out, and one place for messages. */

import { fill, make, part } from "./elements.js";
import { Refusal, request } from "./request.js";
import { sentence } from "./words.js";

const RANK = ["annotator", "engineer", "trainer", "admin"];

/** Shows who is signed in. @param {Me} me */
export function showMe(me) {
  fill(part("me"), make("strong", {}, me.name), " ", make("span", { class: "quiet" }, me.role));
  part("me").hidden = false;
  part("sign-out").hidden = false;
  for (const link of document.querySelectorAll("nav [data-access]")) {
    link.toggleAttribute("hidden", !mayAct(me, /** @type {Access} */ (link.getAttribute("data-access"))));
  }
  part("sign-out").addEventListener("click", async () => {
    try {
      await request("DELETE", "/api/session");
      location.assign("/sign-in");
    } catch (error) {
      sayError(error); // the session still stands: to look signed out would be wrong
    }
  });
}

/** Whether somebody may do what needs this access. @param {Me} me @param {Access} access */
export function mayAct(me, access) {
  return RANK.indexOf(me.role) >= RANK.indexOf(access);
}

/**
 * Shows what was done at the top of the page, politely to screen readers; an empty text takes every message away.
 * @param {string} text @param {string} [hint]
 */
export function say(text, hint = "") {
  show("notice", text, hint);
  show("failure", "");
}

/**
 * Shows what went wrong at the top of the page, at once to screen readers.
 * @param {string} text @param {string} [hint]
 */
function sayFailure(text, hint = "") {
  show("failure", text, hint);
  show("notice", "");
}

/** @param {string} id @param {string} text @param {string} [hint] */
function show(id, text, hint = "") {
  const notice = part(id);
  if (notice.textContent === text + (hint && ` ${hint}`) && notice.hidden === !text) return; // said already
  notice.hidden = !text;
  fill(notice, text && make("strong", {}, text), hint && ` ${hint}`);
}

/** Says what went wrong, in the server's own words. @param {unknown} error */
export function sayError(error) {
  if (error instanceof Refusal && error.status === 403) sayFailure("This needs more access than you have.", sentence(error.message));
  else if (error instanceof Refusal) sayFailure(sentence(error.message), sentence(error.hint));
  else if (error instanceof Error) sayFailure(sentence(error.message), "Try again in a moment.");
}
