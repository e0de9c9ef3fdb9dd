/** Decisions that the server refused: what each was, what the server said, and how to send, change or drop it. */

import { inWords } from "./concerns.js";
import { button, fill, make, part } from "./elements.js";
import { sentence } from "./words.js";

/** @typedef {import("./outbox.js").Entry} Entry */

const NAMES = { accept: "Accept", reject: "Reject", skip: "Skip" };

/**
 * @param {import("./desk.js").Desk} desk
 * @param {import("./outbox.js").Outbox} outbox
 */
export function installSetAside(desk, outbox) {
  let shown = "";
  const show = () => {
    const now = outbox.aside.map((entry) => entry.key).join();
    if (now === shown) return; // a button that has the focus keeps it
    shown = now;
    part("set-aside").hidden = outbox.aside.length === 0;
    fill(part("set-aside-list"), outbox.aside.map((entry) => item(entry, desk, outbox)));
    const all = [
      button("Send all again", () => [...outbox.aside].forEach((entry) => outbox.retry(entry))),
      button("Drop all", () => [...outbox.aside].forEach((entry) => outbox.drop(entry))),
    ];
    fill(part("set-aside-all"), outbox.aside.length > 1 && all);
  };
  outbox.addEventListener("change", show);
  show();
}

/** @param {Entry} entry @param {import("./desk.js").Desk} desk @param {import("./outbox.js").Outbox} outbox */
function item(entry, desk, outbox) {
  const { body, card, why } = entry;
  const reasons = inWords(body).join(", ");
  const verdict = NAMES[/** @type {DecisionBody["verdict"]} */ (body.verdict)];
  return make(
    "li",
    {},
    make("p", {}, make("strong", {}, `${verdict}${reasons && ` (${reasons})`}: `), card?.prompt ?? "a candidate"),
    body.comment && make("p", { class: "said" }, `“${body.comment}”`),
    make("p", { class: "quiet" }, sentence(why?.message ?? ""), " ", sentence(why?.hint ?? "")),
    make(
      "p",
      { class: "actions" },
      button("Send again", () => outbox.retry(entry)),
      card && button("Decide again", () => desk.reopen(entry)),
      button("Drop", () => outbox.drop(entry)),
    ),
  );
}
