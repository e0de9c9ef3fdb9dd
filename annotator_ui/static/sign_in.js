/** Signing in with a token that works once: from the address that was printed, or pasted. */

import { fill, make, part } from "./elements.js";
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

/** @param {string} token */
async function signIn(token) {
  if (!token) return;
  form.setAttribute("aria-busy", "true");
  part("problem").hidden = true;
  try {
    await request("POST", "/api/session", { token });
    location.replace(target());
  } catch (error) {
    const refused = error instanceof Refusal;
    const text = error instanceof Error ? error.message : "";
    fill(
      part("problem"),
      make("strong", {}, sentence(text)),
      " ",
      refused ? sentence(error.hint) : "Try again in a moment.",
    );
    part("problem").hidden = false;
    form.removeAttribute("aria-busy");
    if (refused) field.select();
  }
}

/** Where the reviewer wanted to go: a page of ours and nowhere else. */
function target() {
  const next = new URL(address.searchParams.get("next") ?? "/", location.origin);
  return next.origin === location.origin && next.pathname !== "/sign-in" ? next.pathname + next.search : "/";
}
