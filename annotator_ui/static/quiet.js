/** What the review page says while nothing waits: what is being drawn and trained, and how far it is. */

import { fill, make, part } from "./elements.js";
import { request } from "./request.js";
import { count, counted, plain, short } from "./words.js";

export const TINY_NOTE =
  "On real photographs the tiny preset draws coloured shapes with clean alpha and no more; the presets sd15 and sdxl are for real work.";

/**
 * Looks at rounds and training runs and tells what goes on; what this reviewer may not read is left out.
 * @param {number | null} only the round whose candidates the page shows; null for all
 * @param {boolean} idle whether nobody is at the page, so that it takes nothing by itself
 */
export async function tellWhatGoesOn(only, idle) {
  const [rounds, runs] = await Promise.all([
    /** @type {Promise<RoundRow[]>} */ (request("GET", "/api/rounds").catch(() => [])),
    /** @type {Promise<RunRow[]>} */ (request("GET", "/api/runs").catch(() => [])),
  ]);
  const here = rounds.filter((round) => only === null || round.id === only);
  const waiting = here.reduce((sum, round) => sum + (round.own?.waiting ?? 0), 0);
  const lines = [...rounds.flatMap((round) => roundLines(round, here.includes(round))), ...runs.flatMap(runLines)];
  const where = only === null ? "" : ` in round ${only}`;
  part("quiet-title").textContent = waiting ? `${count(waiting)} wait for you${where}` : `Nothing waits for you${where}`;
  fill(part("goings-on"), lines);
  part("quiet-text").textContent = told(waiting, idle, rounds.some((round) => round.state === "open"));
  part("quiet-note").hidden = !runs.some((run) => run.preset === "tiny");
}

/** @param {number} waiting @param {boolean} idle @param {boolean} open whether any round is open */
function told(waiting, idle, open) {
  if (idle) return "Nobody has been at this page for a while. Press a key to get candidates.";
  if (waiting) return "They appear here by themselves in a moment.";
  return open
    ? "New candidates appear here by themselves as soon as they are ready."
    : "No round is open. When an engineer opens one, its candidates appear here by themselves.";
}

/** Says instead that the server shows nothing, for the reason that stands in the notice of the page. */
export function tellRefusal() {
  part("quiet-title").textContent = "Nothing is shown to you for now";
  part("quiet-text").textContent = "The line at the top says why. When that is over, candidates appear here by themselves.";
  fill(part("goings-on"));
}

/** What is to be said of a round, each number the count of what it names. @param {RoundRow} round @param {boolean} here whether this page shows its candidates */
function roundLines(round, here) {
  if (round.state === "paused")
    return [line(`Round ${round.id} is paused`, "it shows nothing new; what was shown can still be decided", null)];
  if (round.state !== "open") return [];
  const states = round.counts;
  const waiting = round.own?.waiting ?? 0;
  const elsewhere = waiting && !here ? [roundLink(round.id, waiting)] : [];
  const toDraw = (states["requested"] ?? 0) + (states["generating"] ?? 0);
  const toScreen = states["generated"] ?? 0;
  const all = round.quota;
  if (toDraw)
    return [
      ...elsewhere,
      line(
        `Round ${round.id} is being drawn`,
        `${count(all - toDraw)} of ${count(all)} candidates`,
        (all - toDraw) / all,
      ),
    ];
  if (toScreen)
    return [...elsewhere, line(`Round ${round.id} is being screened`, `${counted(toScreen, "candidate")} to go`, null)];
  if (elsewhere.length || !here || waiting) return elsewhere;
  const mine = round.own?.mine ?? 0;
  return mine ? [line(`Round ${round.id} is open`, `${count(mine)} decided by you`, null)] : [];
}

/** @param {number} id @param {number} waiting */
function roundLink(id, waiting) {
  const link = make("a", { href: `/review?round=${id}` }, `Round ${id}`);
  return make("li", {}, make("span", {}, link), make("span", { class: "quiet" }, `${count(waiting)} wait for you`));
}

/** @param {RunRow} run */
function runLines(run) {
  if (run.state === "requested")
    return [line(`Training ${plain(run.recipe)}, preset ${run.preset}`, "waits for a worker", null)];
  if (run.state !== "running") return [];
  const { stage, done, total } = run.progress ?? { stage: "starting", done: 0, total: 0 };
  const far = total ? `${plain(stage)}: ${count(done)} of ${count(total)}` : plain(stage);
  return [line(`Training on snapshot ${short(run.snapshot)}, preset ${run.preset}`, far, total ? done / total : null)];
}

/** @param {string} name @param {string} far @param {number | null} share */
function line(name, far, share) {
  const bar = share === null ? null : make("progress", { max: 1, value: share.toFixed(4), "aria-label": name });
  return make("li", {}, make("span", {}, name), make("span", { class: "quiet" }, far), bar);
}
