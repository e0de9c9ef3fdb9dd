/** What was decided lately: acts of one decision, or of a contact sheet's, each of which can be undone. */

/**
 * @typedef {object} Row
 * @property {string} key of the decision in the outbox
 * @property {Card} card
 * @property {import("./tray.js").Held | null} held its pictures, where this page still has them
 * @property {DecisionBody} body
 * @property {number | null} decision its number, once the server has said it
 * @property {"pending" | "sent" | "refused"} state
 * @typedef {{rows: Row[]}} Act
 */

/** Acts that are remembered, and shown. */
export const KEPT = 24;

/**
 * The acts of a page that was loaded anew, oldest first: those that the server knows and those still on their way.
 * @param {LatestRow[]} latest the newest first
 * @param {import("./outbox.js").Entry[]} entries
 * @returns {Act[]}
 */
export function recall(latest, entries) {
  const undos = entries.filter((entry) => entry.kind === "undo");
  const decisions = entries.filter((entry) => entry.kind === "decision" && entry.card);
  const waiting = new Set(decisions.map((entry) => entry.body.candidate));
  const sent = latest
    .filter(({ decision, candidate }) => !undos.some((undo) => undo.body.decision === decision) && !waiting.has(candidate.id))
    .map(({ decision, candidate, ...said }) => {
      const body = { ...said, candidate: candidate.id, dwell_ms: null };
      return row(`decision ${decision}`, candidate, body, decision, "sent");
    });
  const pending = decisions
    .filter((entry) => !undos.some((undo) => undo.of === entry.key))
    .map((entry) => row(entry.key, /** @type {Card} */ (entry.card), entry.body, null, "pending"));
  return [...sent.toReversed(), ...pending].map((one) => ({ rows: [one] }));
}

/** @param {string} key @param {Card} card @param {DecisionBody} body @param {number | null} decision @param {Row["state"]} state */
function row(key, card, body, decision, state) {
  return /** @type {Row} */ ({ key, card, held: null, body, decision, state });
}
