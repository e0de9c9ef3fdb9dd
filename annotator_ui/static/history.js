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
 * The acts that were still on their way when the page was loaded, oldest first.
 * @param {import("./outbox.js").Entry[]} entries
 * @returns {Act[]}
 */
export function onTheirWay(entries) {
  const undone = new Set(entries.map((entry) => entry.of));
  return entries
    .filter((entry) => entry.kind === "decision" && entry.card && !undone.has(entry.key))
    .map((entry) => act(entry.key, /** @type {Card} */ (entry.card), entry.body, null, "pending"));
}

/**
 * The acts that the server knows, oldest first.
 * @param {LatestRow[]} latest the newest first
 * @returns {Act[]}
 */
export function takenBefore(latest) {
  return latest.toReversed().map(({ decision, candidate, ...said }) => {
    const body = { ...said, candidate: candidate.id, dwell_ms: null };
    return act(`decision ${decision}`, candidate, body, decision, "sent");
  });
}

/** @param {string} key @param {Card} card @param {DecisionBody} body @param {number | null} decision @param {Row["state"]} state */
function act(key, card, body, decision, state) {
  return /** @type {Act} */ ({ rows: [{ key, card, held: null, body, decision, state }] });
}
