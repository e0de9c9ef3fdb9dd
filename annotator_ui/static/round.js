/** One round: its funnel, how fast and how well people judge, and what may be done with it. */

import { followAgreement } from "./agreement.js";
import { bars, stateChip, tile } from "./bars.js";
import { button, fill, make, part } from "./elements.js";
import { compared, figureNames, labelOf } from "./figures.js";
import { mayAct, sayError, showMe } from "./frame.js";
import { installHelp } from "./help.js";
import { Keys } from "./keys.js";
import { showGates } from "./gates.js";
import { keepFresh } from "./live.js";
import { showPrice } from "./price.js";
import { read, request } from "./request.js";
import { ago, count, counted, date, duration, figure, kindOf, plain, rate, short } from "./words.js";

const PERIOD_MS = 3_000;
const FUNNEL = ["requested", "generated", "shown", "decided", "accepted"];
const BESIDE = ["refused", "unshown", "waiting", "rejected", "failed"];

const number = Number(location.pathname.split("/").at(-1));
installHelp(new Keys(document));
const me = /** @type {Me | null} */ (await read("/api/me").catch(() => null));
if (me) showMe(me);
followAgreement(number);
const refresh = keepFresh(PERIOD_MS, async () => show(await read(`/api/rounds/${number}`)));

/** @param {RoundReport} report */
function show(report) {
  const { round, funnel } = report;
  part("report").hidden = false;
  document.title = `Round ${round.id} · Layerloop`;
  fill(part("title"), `Round ${round.id} `, stateChip(round.state));
  fill(part("about"), about(round));
  showUntaken(report.untaken);
  showActions(round);
  fill(part("tiles"), ...tiles(report));
  const whole = Math.max(funnel["requested"] ?? 0, ...FUNNEL.map((name) => funnel[name] ?? 0), 1);
  fill(
    part("funnel"),
    bars(
      FUNNEL.map((name) => ({
        name,
        value: funnel[name] ?? 0,
        tone: name,
        note: `${Math.round((100 * (funnel[name] ?? 0)) / whole)} %`,
      })),
      whole,
    ),
  );
  fill(
    part("beside"),
    bars(
      BESIDE.map((name) => ({ name, value: funnel[name] ?? 0, tone: name })),
      whole,
    ),
  );
  fill(
    part("refusals"),
    report.refusals.length
      ? bars(report.refusals.map(({ signal, count: value }) => ({ name: signal, value })))
      : none("Screening refused nothing."),
  );
  showReasons(report.reasons);
  showPrice(report.price);
  showGates(report.gates, round.id);
  fill(part("reviewers"), report.human.reviewers.map(reviewerRow));
  part("reviewers-none").hidden = report.human.reviewers.length > 0;
  part("signals-card").hidden = report.signals.length === 0;
  fill(part("signals"), report.signals.map(signalRow));
  const figures = figureNames([report]);
  part("evaluation-card").hidden = figures.length === 0;
  fill(
    part("evaluation"),
    figures.map((name) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, labelOf(name)),
        make("td", { class: "number" }, compared(name, report.evaluation[name], undefined)),
      ),
    ),
  );
}

/** Work that waits while no worker runs. @param {RoundReport["untaken"]} untaken */
function showUntaken(untaken) {
  const kinds = Object.entries(untaken).map(([kind, waiting]) => `${count(waiting)} ${kind}`);
  part("untaken").hidden = kinds.length === 0;
  fill(
    part("untaken"),
    `For over a minute no worker has taken: ${kinds.join(", ")}. Workers start with `,
    make("code", {}, "layerloop worker --queue gpu"),
    " and ",
    make("code", {}, "layerloop worker --queue cpu"),
    ".",
  );
}

/** People's reasons and the rule_reviewer's, never added up. @param {RoundReport["reasons"]} reasons */
function showReasons(reasons) {
  const said = (/** @type {string} */ kind) =>
    reasons
      .filter((row) => row.kind === kind)
      .map((row) => ({ name: row.layer ? `${row.layer}: ${row.reason}` : row.reason, value: row.count }));
  const rule_reviewer = said("rule_reviewer");
  fill(
    part("reasons"),
    said("person").length ? bars(said("person")) : none("No reason was given yet."),
    rule_reviewer.length > 0 && [make("h3", {}, "The rule_reviewer's"), bars(rule_reviewer)],
  );
}

/** What kind of round this is, in a sentence. @param {RoundRow} round */
function about(round) {
  const by = round.checkpoint
    ? [`${kindOf(round.kind)} drawn by checkpoint `, link(`/checkpoints#${round.checkpoint}`, short(round.checkpoint))]
    : ["a review of imported images"];
  const end = round.closed_at ? `, closed ${ago(round.closed_at)}` : "";
  const { kind = "", share, ...more } = round.policy ?? {};
  const shown = typeof share === "number" ? `; people see ${figure(100 * share, 3)} % of what passes (${kind})` : "";
  const said = Object.entries(more).filter(([, value]) => value !== 0);
  const rest = said.map(([name, value]) => `; ${plain(name)} ${String(value)}`);
  const opened = `, quota ${count(round.quota)}, opened ${ago(round.opened_at)} (${date(round.opened_at)})`;
  return [...by, opened, end, shown, ...rest, "."];
}

/** @param {string} address @param {string} text */
function link(address, text) {
  return make("a", { href: address }, make("code", {}, text));
}

/** @param {RoundReport} report */
function tiles({ human, rule_reviewer, auto_reviewer, defects_per_100: defects, seconds_left, funnel }) {
  const accepted = funnel["accepted"] ?? 0;
  const decided = funnel["decided"] ?? 0;
  const found = [
    tile(
      "Accepted",
      count(accepted),
      decided
        ? `${Math.round((100 * accepted) / decided)} % of ${count(decided)} decided${rule_reviewer.decisions ? ", the rule_reviewer's included" : ""}`
        : human.decisions
          ? `of ${counted(human.decisions, "decision")}, no candidate has all of its own yet`
          : "nothing decided yet",
    ),
    tile("People's time per accept", duration(human.seconds_per_accept), priceNote(human)),
    tile(
      "Defects per 100",
      defects.person ? rate(defects.person.value) : "–",
      interval(defects.person, "people", human.decisions),
    ),
    tile("People's time left", duration(seconds_left), `${counted(funnel["waiting"] ?? 0, "candidate")} waiting`),
  ];
  if (rule_reviewer.decisions)
    found.push(
      tile(
        "Oracle",
        count(rule_reviewer.accepted),
        `accepted of ${count(rule_reviewer.decisions)}; ${defects.rule_reviewer ? `${rate(defects.rule_reviewer.value)} defects per 100, ${interval(defects.rule_reviewer, "the rule_reviewer", rule_reviewer.decisions)}` : ""}`,
      ),
    );
  if (auto_reviewer.decisions)
    found.push(
      tile("Machine", count(auto_reviewer.accepted), `accepted of ${count(auto_reviewer.decisions)} that nobody was shown, within proven bounds`),
    );
  return found;
}

/** @param {RoundReport["human"]} human */
function priceNote({ seconds_per_accept: seconds, decisions }) {
  if (!decisions) return "no person has decided yet";
  const made = counted(decisions, "decision");
  return seconds === null ? `${made} by people, none has led to an accept yet` : `from ${made} by people`;
}

/** @param {Interval | null} found @param {string} who @param {number} decisions how many they made */
function interval(found, who, decisions) {
  if (found) return `95 %: ${rate(found.low)} to ${rate(found.high)}, from ${counted(found.n, "candidate")}`;
  if (!decisions) return `not judged by ${who} yet`;
  return `${counted(decisions, "decision")} by ${who}, no random candidate is settled by them yet`;
}

/** @param {RoundReport["human"]["reviewers"][number]} reviewer */
function reviewerRow(reviewer) {
  const dwell = reviewer.median_dwell_ms === null ? "–" : duration(reviewer.median_dwell_ms / 1000);
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, reviewer.name, reviewer.kind !== "person" && make("small", {}, reviewer.kind)),
    make("td", { class: "number" }, count(reviewer.decisions)),
    make("td", { class: "number" }, count(reviewer.accepted)),
    make("td", { class: "number" }, dwell),
  );
}

/** @param {RoundReport["signals"][number]} signal */
function signalRow({ name, low, median, high }) {
  const numbers = [low, median, high].map((value) => make("td", { class: "number" }, figure(value, 3)));
  return make("tr", {}, make("th", { scope: "row" }, plain(name)), numbers);
}

/** @param {string} text */
function none(text) {
  return make("p", { class: "quiet" }, text);
}

/** Buttons stay where they are unless the state changed, so that a refresh never takes one from under a finger. @param {RoundRow} round */
function showActions(round) {
  const actions = part("actions");
  if (!me || actions.dataset["state"] === round.state) return;
  actions.dataset["state"] = round.state;
  if (!mayAct(me, "engineer")) return;
  const closing = part("closing", HTMLDialogElement);
  part("closing-yes").onclick = () => (closing.close(), act("close"));
  part("closing-no").onclick = () => closing.close();
  fill(
    actions,
    round.state === "open" && make("a", { href: `/review?round=${round.id}`, class: "button" }, "Review it"),
    round.state === "open" && button("Pause", () => act("pause")),
    round.state === "paused" && button("Resume", () => act("resume"), { class: "primary" }),
    round.state !== "closed" && button("Close…", () => closing.showModal()),
  );
}

/** @param {"pause" | "resume" | "close"} verb */
async function act(verb) {
  await request("POST", `/api/rounds/${number}/${verb}`).catch(sayError);
  await refresh();
}
