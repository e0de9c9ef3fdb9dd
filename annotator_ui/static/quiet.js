/** What the review page says while nothing waits: what is being drawn and trained, and how far it is. */

import { fill, make, part } from "./elements.js";
import { request } from "./request.js";
import { count, counted, plain, short } from "./words.js";

export const TINY_NOTE =
  "On real photographs the tiny preset draws coloured shapes with clean alpha and no more; the presets sd15 and sdxl are for real work.";

/** Looks at rounds and training runs and tells what goes on; what this reviewer may not read is left out. */
export async function tellWhatGoesOn() {
  const [rounds, runs] = await Promise.all([
    /** @type {Promise<RoundRow[]>} */ (request("GET", "/api/rounds").catch(() => [])),
    /** @type {Promise<RunRow[]>} */ (request("GET", "/api/runs").catch(() => [])),
  ]);
  const lines = [...rounds.flatMap(roundLines), ...runs.flatMap(runLines)];
  part("quiet-title").textContent = "Nothing waits for you";
  fill(part("goings-on"), lines);
  part("quiet-text").textContent = lines.length
    ? "New candidates appear here by themselves as soon as they are ready."
    : "No round is being drawn. When an engineer opens one, its candidates appear here by themselves.";
  part("quiet-note").hidden = !runs.some((run) => run.preset === "tiny");
}

/** Says instead that the server shows nothing, for the reason that stands in the notice of the page. */
export function tellRefusal() {
  part("quiet-title").textContent = "Nothing is shown to you for now";
  part("quiet-text").textContent = "The line at the top says why. When that is over, candidates appear here by themselves.";
  fill(part("goings-on"));
}

/** @param {RoundRow} round */
function roundLines(round) {
  if (round.state === "paused") return [line(`Round ${round.id} is paused`, "it shows nothing until it goes on", null)];
  if (round.state !== "open") return [];
  const states = round.counts;
  const toDraw = (states["requested"] ?? 0) + (states["drawing"] ?? 0);
  const toScreen = (states["drawn"] ?? 0) + (states["screened"] ?? 0);
  const all = Object.values(states).reduce((sum, number) => sum + number, 0);
  if (toDraw)
    return [
      line(
        `Round ${round.id} is being drawn`,
        `${count(all - toDraw)} of ${count(all)} candidates`,
        (all - toDraw) / all,
      ),
    ];
  if (toScreen)
    return [line(`Round ${round.id} is being screened`, `${counted(toScreen, "candidate")} to go`, 1 - toScreen / all)];
  if (states["showing"])
    return [
      line(`Round ${round.id} is nearly done`, `${counted(states["showing"], "candidate")} being looked at`, null),
    ];
  return [];
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
