/** The undo history: recent actions, each a single decision or a submitted grid. */

/**
 * @typedef {object} Row
 * @property {string} key key of the decision in the outbox
 * @property {ReviewItem} card
 * @property {import("./queue.js").QueuedItem | null} held the loaded images, if this page has them
 * @property {DecisionRequest} body
 * @property {number | null} decision id of the decision, known once the server has responded
 * @property {"pending" | "sent" | "refused"} state
 *
 * @typedef {{rows: Row[]}} Action
 */

/** Number of actions that are kept and shown. */
export const MAX_ACTIONS = 24;

/**
 * Return the actions that were unsent when the page was loaded, oldest first.
 * @param {import("./outbox.js").Entry[]} entries
 * @returns {Action[]}
 */
export function pendingActions(entries) {
  const undone = new Set(entries.map((entry) => entry.of));
  return entries
    .filter((entry) => entry.kind === "decision" && entry.card && !undone.has(entry.key))
    .map((entry) => {
      const card = /** @type {ReviewItem} */ (entry.card);
      return createAction(entry.key, card, entry.body, null, "pending");
    });
}

/**
 * Return the actions that the server has stored, oldest first.
 * @param {RecentDecision[]} recent newest first
 * @returns {Action[]}
 */
export function serverActions(recent) {
  return recent.toReversed().map(({ decision, candidate, ...fields }) => {
    const body = { ...fields, candidate: candidate.id, dwell_ms: null };
    return createAction(`decision ${decision}`, candidate, body, decision, "sent");
  });
}

/**
 * @param {string} key
 * @param {ReviewItem} card
 * @param {DecisionRequest} body
 * @param {number | null} decision
 * @param {Row["state"]} state
 * @returns {Action}
 */
function createAction(key, card, body, decision, state) {
  return { rows: [{ key, card, held: null, body, decision, state }] };
}
