/** Signing in with a token that works once: from the address that was printed, or pasted. */

import { button, fill, make, part } from "./elements.js";
import { Refusal, request } from "./request.js";
import { sentence } from "./words.js";

const address = new URL(location.href);
const given = address.searchParams.get("token");
const field = part("token", HTMLInputElement);
const form = part("sign-in-form", HTMLFormElement);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(field.value.trim());
});

if (given) {
  address.searchParams.delete("token");
  history.replaceState(null, "", address); // a spent token need not stay in the address bar
  field.value = given;
  signIn(given);
}

/** @param {string} token @param {boolean} [confirmed] whether the person agreed to switch accounts */
async function signIn(token, confirmed = false) {
  if (!token) return;
  form.setAttribute("aria-busy", "true");
  part("problem").hidden = true;
  part("switch").hidden = true;
  try {
    const me = /** @type {Me} */ (await request("POST", "/api/session", { token, switch: confirmed }));
    location.replace(target(me.role));
  } catch (error) {
    form.removeAttribute("aria-busy");
    if (error instanceof Refusal && error.status === 409) return askToSwitch(token, error.message);
    const refused = error instanceof Refusal;
    const text = error instanceof Error ? error.message : "";
    fill(
      part("problem"),
      make("strong", {}, sentence(text)),
      " ",
      refused ? sentence(error.hint) : "Try again in a moment.",
    );
    part("problem").hidden = false;
    if (refused) field.select();
  }
}

/** Asks before the account changes: a link that somebody else sent would do so unnoticed. @param {string} token @param {string} text */
function askToSwitch(token, text) {
  fill(
    part("switch"),
    make("p", {}, make("strong", {}, sentence(text)), " Decisions that were not sent yet stay in this browser."),
    make(
      "p",
      { class: "actions" },
      button("Keep the account", () => location.replace("/"), { class: "primary", id: "keep-account" }),
      button("Switch accounts", () => void signIn(token, true), { id: "switch-account" }),
    ),
  );
  part("switch").hidden = false;
  part("keep-account").focus();
}

/**
 * The page the person wanted, and no other site. The very URL that was checked is returned: parsed again from its
 * path alone, "/.//other.example" would name another host. Without a wish it is where their work is: the review page
 * takes candidates for whoever opens it, so only annotators land there.
 * @param {Access} access
 * @returns {URL}
 */
function target(access) {
  const front = new URL(access === "annotator" ? "/review" : "/rounds", location.origin);
  const wanted = address.searchParams.get("next") ?? front.pathname;
  if (!URL.canParse(wanted, location.origin)) return front;
  const next = new URL(wanted, location.origin);
  const ours = next.origin === location.origin && next.protocol === location.protocol;
  return ours && next.pathname !== "/sign-in" ? next : front;
}
