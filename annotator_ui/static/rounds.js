/** The rounds page: every round, where it stands and how far it is. */

import { stateChip } from "./bars.js";
import { fill, make, part } from "./elements.js";
import { mayAct, showMe } from "./frame.js";
import { installHelp } from "./help.js";
import { Keys } from "./keys.js";
import { keepFresh } from "./live.js";
import { read } from "./request.js";
import { ago, count, kindOf, short } from "./words.js";

const PERIOD_MS = 4_000;
const DECIDED = ["accepted", "rejected"];
const NEVER_SHOWN = ["refused", "unshown", "failed", "withdrawn"];

installHelp(new Keys(document));
const me = /** @type {Me} */ (await read("/api/me").catch(() => null));
if (me) showMe(me);
const mayOpen = me !== null && mayAct(me, "engineer");
const annotating = me !== null && !mayOpen;
keepFresh(PERIOD_MS, async () => {
  const rounds = /** @type {RoundRow[]} */ (await read("/api/rounds"));
  part("none").hidden = rounds.length > 0;
  part("table").hidden = rounds.length === 0;
  part("decided-head").textContent = annotating ? "Decided by me" : "Decided";
  part("accepted-head").textContent = annotating ? "I accepted" : "Accepted";
  part("waiting-head").textContent = annotating ? "Waiting for me" : "Waiting";
  fill(part("rows"), rounds.toSorted((a, b) => b.id - a.id).map(row));
});

/** A link for whoever may open it; for others what it says. @param {string} href @param {string | HTMLElement} said */
function linked(href, said) {
  return mayOpen ? make("a", { href }, said) : said;
}

/** How far a round is: for annotators by their own decisions, for others by all. @param {RoundRow} round */
function progress(round) {
  const number = (/** @type {string[]} */ states) => states.reduce((sum, state) => sum + (round.counts[state] ?? 0), 0);
  if (annotating) {
    const { waiting, mine, accepted } = round.own ?? { waiting: 0, mine: 0, accepted: 0 };
    return { decided: mine, toJudge: mine + waiting, accepted, waiting, refused: number(["refused"]) };
  }
  const toJudge = number(Object.keys(round.counts)) - number(NEVER_SHOWN);
  const waiting = number(["waiting", "showing"]);
  return { decided: number(DECIDED), toJudge, accepted: number(["accepted"]), waiting, refused: number(["refused"]) };
}

/** @param {RoundRow} round */
function row(round) {
  const { decided, toJudge, accepted, waiting, refused } = progress(round);
  return make(
    "tr",
    {},
    make(
      "th",
      { scope: "row" },
      linked(`/rounds/${round.id}`, `Round ${round.id}`),
      make("small", {}, round.purpose === "seeds" ? "imported images" : kindOf(round.kind)),
    ),
    make("td", {}, stateChip(round.state)),
    make(
      "td",
      {},
      make("progress", {
        max: 1,
        value: toJudge ? (decided / toJudge).toFixed(4) : "0",
        "aria-label": `Round ${round.id} decided`,
      }),
      make("small", {}, `${count(decided)} of ${count(toJudge)} decided`),
    ),
    make(
      "td",
      { class: "number" },
      count(accepted),
      decided > 0 && make("small", {}, `${Math.round((100 * accepted) / decided)} %`),
    ),
    make("td", { class: "number" }, count(waiting)),
    make("td", { class: "number" }, count(refused)),
    make(
      "td",
      {},
      round.checkpoint
        ? linked(`/checkpoints#${round.checkpoint}`, make("code", {}, short(round.checkpoint)))
        : make("span", { class: "quiet" }, round.purpose === "seeds" ? "imported" : "–"),
    ),
    make("td", {}, make("span", { title: round.opened_at }, ago(round.opened_at))),
  );
}
