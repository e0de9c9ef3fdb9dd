/** Shared parts of every page: the signed-in reviewer, sign-out, and the messages at the top. */

import { byId, el, replace } from "./dom.js";
import { toSentence } from "./format.js";
import { Refusal, request, setSigningOut } from "./http.js";

/** Roles, from the lowest to the highest. */
const ROLES = ["annotator", "engineer", "trainer", "admin"];

/** Show the signed-in reviewer in the header. @param {CurrentReviewer} me */
export function showSignedIn(me) {
  replace(byId("me"), el("strong", {}, me.name), " ", el("span", { class: "muted" }, me.role));
  byId("me").hidden = false;
  byId("sign-out").hidden = false;
  for (const link of document.querySelectorAll("nav [data-access]")) {
    const role = /** @type {Role} */ (link.getAttribute("data-access"));
    link.toggleAttribute("hidden", !hasRole(me, role));
  }
  byId("sign-out").addEventListener("click", async () => {
    setSigningOut(true);
    try {
      await request("DELETE", "/api/session");
      location.assign(me.sign_out_url ?? "/sign-in");
    } catch (error) {
      setSigningOut(false);
      showError(error); // the session is still active
    }
  });
}

/**
 * Return whether a reviewer has at least this role.
 * @param {CurrentReviewer} me
 * @param {Role} role
 */
export function hasRole(me, role) {
  return ROLES.indexOf(me.role) >= ROLES.indexOf(role);
}

/**
 * Show a notice at the top of the page (polite for screen readers). An empty text hides all
 * messages.
 * @param {string} text
 * @param {string} [hint]
 */
export function showNotice(text, hint = "") {
  setMessage("notice", text, hint);
  setMessage("error", "");
}

/** Show an error at the top of the page (assertive for screen readers). @param {unknown} error */
export function showError(error) {
  if (error instanceof Refusal && error.status === 403) {
    setError("You don't have access to this.", toSentence(error.message));
  } else if (error instanceof Refusal) setError(toSentence(error.message), toSentence(error.hint));
  else if (error instanceof Error) setError(toSentence(error.message), "Try again in a moment.");
}

/** @param {string} text @param {string} [hint] */
function setError(text, hint = "") {
  setMessage("error", text, hint);
  setMessage("notice", "");
}

/**
 * @param {string} id
 * @param {string} text
 * @param {string} [hint]
 */
function setMessage(id, text, hint = "") {
  const message = byId(id);
  // An unchanged message is left alone, so that screen readers do not repeat it.
  if (message.textContent === text + (hint && ` ${hint}`) && message.hidden === !text) return;
  message.hidden = !text;
  replace(message, text && el("strong", {}, text), hint && ` ${hint}`);
}
