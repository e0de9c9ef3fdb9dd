/** The latest decisions of this page as small pictures with their verdicts; dashed until the server has them. */

import { inWords } from "./concerns.js";
import { fill, make, part } from "./elements.js";

const KEPT = 12;
const MARKS = { accept: "✓", reject: "✕", skip: "»" };
const NAMES = { accept: "accepted", reject: "rejected", skip: "skipped" };

export class Trail {
  /** @type {{decided: import("./desk.js").Decided, state: "pending" | "sent" | "refused"}[]} */
  #rows = [];

  /** @param {import("./desk.js").Decided} decided */
  add(decided) {
    this.#rows = [...this.#rows, { decided, state: /** @type {const} */ ("pending") }].slice(-KEPT);
    this.#show();
  }

  /** @param {string} key @param {"sent" | "refused"} state */
  mark(key, state) {
    for (const row of this.#rows) if (row.decided.entry.key === key) row.state = state;
    this.#show();
  }

  /** @param {string} key */
  remove(key) {
    this.#rows = this.#rows.filter((row) => row.decided.entry.key !== key);
    this.#show();
  }

  #show() {
    part("trail-empty").hidden = this.#rows.length > 0;
    fill(
      part("trail"),
      this.#rows.toReversed().map(({ decided, state }) => {
        const body = /** @type {DecisionBody} */ (decided.entry.body);
        const reasons = inWords(body).join(", ");
        const told = { pending: ", being sent", sent: "", refused: ", not counted" }[state];
        const label = `${NAMES[body.verdict]}${reasons && `: ${reasons}`}${told}`;
        return make(
          "li",
          { class: `${body.verdict} ${state}`, title: `${decided.held.card.prompt} – ${label}` },
          thumbnail(decided.held.card),
          make("span", { class: "mark", "aria-hidden": "true" }, state === "refused" ? "!" : MARKS[body.verdict]),
          make("span", { class: "unseen" }, label),
        );
      }),
    );
  }
}

/** @param {Card} card */
function thumbnail(card) {
  const layer = card.layers.blended ?? card.layers.foreground;
  return make("img", { src: layer?.url, alt: "", width: 40, height: 40 });
}
