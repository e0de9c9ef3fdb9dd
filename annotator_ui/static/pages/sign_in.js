/** The sign-in page: signs in with a one-time token, from a link or pasted. */

import { button, byId, el, replace } from "../lib/dom.js";
import { toSentence } from "../lib/format.js";
import { Refusal, request } from "../lib/http.js";

const pageUrl = new URL(location.href);
const linkToken = pageUrl.searchParams.get("token");
const tokenField = byId("token", HTMLInputElement);
const form = byId("sign-in-form", HTMLFormElement);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(tokenField.value.trim());
});

if (linkToken) {
  // Remove the token from the address bar: it works only once.
  pageUrl.searchParams.delete("token");
  history.replaceState(null, "", pageUrl);
  tokenField.value = linkToken;
  signIn(linkToken);
}

/**
 * @param {string} token
 * @param {boolean} [switchAccount] whether the user confirmed to switch accounts
 */
async function signIn(token, switchAccount = false) {
  if (!token) return;
  form.setAttribute("aria-busy", "true");
  byId("problem").hidden = true;
  byId("switch-prompt").hidden = true;
  try {
    /** @type {CurrentReviewer} */
    const me = await request("POST", "/api/session", { token, switch: switchAccount });
    location.replace(targetUrl(me.role));
  } catch (error) {
    form.removeAttribute("aria-busy");
    if (error instanceof Refusal && error.status === 409) confirmSwitch(token, error.message);
    else showProblem(error);
  }
}

/** @param {unknown} error */
function showProblem(error) {
  const refused = error instanceof Refusal;
  const message = error instanceof Error ? error.message : "";
  replace(
    byId("problem"),
    el("strong", {}, toSentence(message)),
    " ",
    refused ? toSentence(error.hint) : "Try again in a moment.",
  );
  byId("problem").hidden = false;
  if (refused) tokenField.select();
}

/**
 * Ask before switching accounts: a link from another person must not do so silently.
 * @param {string} token
 * @param {string} message
 */
function confirmSwitch(token, message) {
  const keepAttributes = { class: "primary", id: "keep-account" };
  const keep = button("Keep current account", () => location.replace("/"), keepAttributes);
  const switchAccounts = button("Switch accounts", () => void signIn(token, true), {
    id: "switch-account",
  });
  replace(
    byId("switch-prompt"),
    el("p", {}, el("strong", {}, toSentence(message)), " Unsent decisions stay in this browser."),
    el("p", { class: "actions" }, keep, switchAccounts),
  );
  byId("switch-prompt").hidden = false;
  keep.focus();
}

/**
 * Return the page to open: the `next` page if it belongs to this site, otherwise the start page.
 * Annotators start on the review page, because opening it claims candidates. The URL object that
 * was checked is returned as is: its path alone, for example "/.//other.example", could resolve to
 * another host when parsed again.
 * @param {Role} role
 * @returns {URL}
 */
function targetUrl(role) {
  const startPage = new URL(role === "annotator" ? "/review" : "/rounds", location.origin);
  const wanted = pageUrl.searchParams.get("next") ?? startPage.pathname;
  if (!URL.canParse(wanted, location.origin)) return startPage;
  const next = new URL(wanted, location.origin);
  const sameSite = next.origin === location.origin && next.protocol === location.protocol;
  return sameSite && next.pathname !== "/sign-in" ? next : startPage;
}
