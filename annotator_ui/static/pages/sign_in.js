/** The sign-in page: signs in with a one-time token, from a link or pasted. */

import { button, byId, el, replace } from "../lib/dom.js";
import { toSentence } from "../lib/format.js";
import { Refusal, request } from "../lib/http.js";

/**
 * Messages and hints after a refused sign-in at the identity provider.
 * @type {Map<string, [string, string]>}
 */
const PROVIDER_PROBLEMS = new Map([
  ["no-role", ["none of your groups has access", "ask an administrator to add you to a group"]],
  [
    "name",
    ["your name cannot be used here", "ask an administrator: it is missing, taken or reserved"],
  ],
  ["other-account", ["this browser is signed in as somebody else", "sign out first"]],
  ["provider", ["the identity provider did not sign you in", "try again"]],
  ["unreachable", ["the identity provider does not answer", "try again in a moment"]],
  ["refused", ["you cannot sign in", "ask an administrator"]],
]);

const pageUrl = new URL(location.href);
const linkToken = pageUrl.searchParams.get("token");
const tokenField = byId("token", HTMLInputElement);
const form = byId("sign-in-form", HTMLFormElement);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(tokenField.value.trim());
});

const providerLink = document.getElementById("provider-sign-in");
if (providerLink instanceof HTMLAnchorElement) {
  const next = pageUrl.searchParams.get("next");
  if (next) providerLink.search = new URLSearchParams({ next }).toString();
}

if (pageUrl.searchParams.has("signed_in")) continueSignedIn();
const problem = PROVIDER_PROBLEMS.get(pageUrl.searchParams.get("problem") ?? "");
if (problem) showProblem(new Refusal(403, ...problem));

if (linkToken) {
  // Remove the token from the address bar: it works only once.
  pageUrl.searchParams.delete("token");
  history.replaceState(null, "", pageUrl);
  tokenField.value = linkToken;
  signIn(linkToken);
}

/** Open the wanted page after the identity provider has signed the reviewer in. */
async function continueSignedIn() {
  try {
    /** @type {CurrentReviewer} */
    const me = await request("GET", "/api/me");
    location.replace(targetUrl(me.role));
  } catch (error) {
    showProblem(error);
  }
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
