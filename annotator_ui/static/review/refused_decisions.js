/** The list of decisions that the server refused, with actions to resend or discard them. */

import { button, byId, el, replace } from "../lib/dom.js";
import { toSentence } from "../lib/format.js";
import { describeReasons } from "./reason_layers.js";

/** @typedef {import("./outbox.js").Entry} Entry */

const VERDICT_LABELS = { accept: "Accept", reject: "Reject", skip: "Skip" };

/**
 * @param {import("./session.js").ReviewSession} session
 * @param {import("./outbox.js").Outbox} outbox
 */
export function installRefusedDecisions(session, outbox) {
  let renderedKeys = "";
  const render = () => {
    const keys = outbox.refused.map((entry) => entry.key).join();
    if (keys === renderedKeys) return; // unchanged: a focused button keeps the focus
    renderedKeys = keys;
    byId("refused").hidden = outbox.refused.length === 0;
    replace(
      byId("refused-list"),
      outbox.refused.map((entry) => createItem(entry, session, outbox)),
    );
    const actions = [
      button("Send all again", () => [...outbox.refused].forEach((entry) => outbox.retry(entry))),
      button("Discard all", () => [...outbox.refused].forEach((entry) => outbox.drop(entry))),
    ];
    replace(byId("refused-actions"), outbox.refused.length > 1 && actions);
  };
  outbox.addEventListener("change", render);
  render();
}

/**
 * @param {Entry} entry
 * @param {import("./session.js").ReviewSession} session
 * @param {import("./outbox.js").Outbox} outbox
 */
function createItem(entry, session, outbox) {
  const { body, card, why } = entry;
  const reasons = describeReasons(body).join(", ");
  const verdict = VERDICT_LABELS[/** @type {DecisionRequest["verdict"]} */ (body.verdict)];
  const summary = `${verdict}${reasons && ` (${reasons})`}: `;
  return el(
    "li",
    {},
    el("p", {}, el("strong", {}, summary), card?.prompt ?? "unknown candidate"),
    body.comment && el("p", {}, `“${body.comment}”`),
    el("p", { class: "muted" }, toSentence(why?.message ?? ""), " ", toSentence(why?.hint ?? "")),
    el(
      "p",
      { class: "actions" },
      button("Send again", () => outbox.retry(entry)),
      card && button("Review again", () => session.reopen(entry)),
      button("Discard", () => outbox.drop(entry)),
    ),
  );
}
