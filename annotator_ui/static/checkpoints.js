/** The checkpoints page: is each one better than its parent, what does it draw, and where does it come from. */

import { button, fill, make, part } from "./elements.js";
import { compared, figureNames, labelOf, moreFigures } from "./figures.js";
import { mayAct, say, sayError, showMe } from "./frame.js";
import { installHelp } from "./help.js";
import { Keys } from "./keys.js";
import { keepFresh } from "./live.js";
import { TINY_NOTE } from "./quiet.js";
import { read, request } from "./request.js";
import { presetOf, runRow } from "./runs.js";
import { ago, counted, date, plain, short } from "./words.js";

const PERIOD_MS = 5_000;

installHelp(new Keys(document));
const me = /** @type {Me | null} */ (await read("/api/me").catch(() => null));
if (me) showMe(me);
let seen = "";
const refresh = keepFresh(PERIOD_MS, async () => {
  const [checkpoints, runs] = /** @type {[CheckpointRow[], RunRow[]]} */ (
    await Promise.all([read("/api/checkpoints"), read("/api/runs")])
  );
  showRuns(runs);
  const now = JSON.stringify(
    checkpoints.map(({ id, promoted_at, rounds, evaluation }) => [id, promoted_at, rounds, evaluation]),
  );
  if (now === seen) return; // the sheets stay as they are, unless something changed
  seen = now;
  showCheckpoints(checkpoints);
});

/** @param {RunRow[]} runs */
function showRuns(runs) {
  part("runs-none").hidden = runs.length > 0;
  part("runs-table").hidden = runs.length === 0;
  fill(
    part("runs"),
    runs
      .toSorted((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at))
      .slice(0, 20)
      .map(runRow),
  );
}

/** @param {CheckpointRow[]} checkpoints */
function showCheckpoints(checkpoints) {
  const newest = checkpoints.toSorted((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at));
  const byId = new Map(newest.map((checkpoint) => [checkpoint.id, checkpoint]));
  const drawing = newest
    .filter((checkpoint) => checkpoint.promoted_at)
    .sort((a, b) => Date.parse(b.promoted_at ?? "") - Date.parse(a.promoted_at ?? ""))[0];
  const names = figureNames(newest);
  part("none").hidden = newest.length > 0;
  part("table").hidden = newest.length === 0;
  part("tiny-note").hidden = !newest.some((checkpoint) => checkpoint.preset === "tiny");
  part("tiny-note").textContent = TINY_NOTE;
  fill(
    part("names"),
    make("th", { scope: "col" }, "Checkpoint"),
    names.map((name) => make("th", { scope: "col", class: "number" }, labelOf(name))),
  );
  fill(
    part("figures"),
    newest.map((checkpoint) => {
      const before = checkpoint.parent ? byId.get(checkpoint.parent)?.evaluation : undefined;
      return make(
        "tr",
        {},
        make(
          "th",
          { scope: "row" },
          make("a", { href: `#${checkpoint.id}` }, make("code", {}, short(checkpoint.id))),
          checkpoint === drawing
            ? [" ", make("span", { class: "chip state-open" }, "draws now")]
            : make("small", {}, ago(checkpoint.created_at)),
        ),
        names.map((name) =>
          make("td", { class: "number" }, compared(name, checkpoint.evaluation[name], before?.[name])),
        ),
      );
    }),
  );
  fill(
    part("cards"),
    newest.map((checkpoint) => card(checkpoint, byId, checkpoint === drawing)),
  );
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

/** @param {CheckpointRow} checkpoint @param {Map<string, CheckpointRow>} byId @param {boolean} draws */
function card(checkpoint, byId, draws) {
  const facts = {
    Recipe: `${plain(checkpoint.recipe)}, preset ${presetOf(checkpoint)}`,
    Snapshot: checkpoint.snapshot
      ? make("a", { href: `/snapshots/${checkpoint.snapshot}` }, make("code", {}, short(checkpoint.snapshot)))
      : "none: these weights were not trained here",
    Lineage: lineage(checkpoint, byId),
    Rounds: checkpoint.rounds.length
      ? checkpoint.rounds.flatMap((id, index) => [
          index > 0 && ", ",
          make("a", { href: `/rounds/${id}` }, `round ${id}`),
        ])
      : "drew none yet",
    Seed: `${checkpoint.seed}, code ${checkpoint.code_version}`,
    Made: date(checkpoint.created_at),
  };
  const promote =
    me && mayAct(me, "trainer") && !draws
      ? button("Let it draw the next round", () => act(checkpoint), { class: "primary" })
      : null;
  const sheet = checkpoint.sample_grid_url
    ? make(
        "a",
        { href: checkpoint.sample_grid_url, target: "_blank", class: "sample-sheet" },
        make("img", {
          src: checkpoint.sample_grid_url,
          alt: `Sample sheet of checkpoint ${short(checkpoint.id)}`,
          loading: "lazy",
        }),
      )
    : make("p", { class: "quiet sample-sheet" }, "This checkpoint has no sample sheet.");
  return make(
    "article",
    { class: "card checkpoint", id: checkpoint.id },
    make(
      "header",
      {},
      make("h2", {}, make("code", {}, short(checkpoint.id))),
      draws && make("span", { class: "chip state-open" }, "draws now"),
      promote,
    ),
    sheet,
    make(
      "dl",
      { class: "facts" },
      Object.entries(facts).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]),
    ),
    moreFigures(checkpoint.evaluation, checkpoint.parent ? byId.get(checkpoint.parent)?.evaluation : undefined),
  );
}

/** The chain of parents, newest first. @param {CheckpointRow} checkpoint @param {Map<string, CheckpointRow>} byId */
function lineage(checkpoint, byId) {
  /** @type {(Node | string)[]} */
  const chain = [];
  let parent = checkpoint.parent;
  for (let steps = 0; parent && steps < 5; steps += 1) {
    chain.push(steps ? " ← " : "", make("a", { href: `#${parent}` }, make("code", {}, short(parent))));
    parent = byId.get(parent)?.parent ?? null;
  }
  if (!chain.length) return [checkpoint.snapshot ? "trained from nothing" : "came from files"];
  return parent ? [...chain, " ← …"] : chain;
}

/** @param {CheckpointRow} checkpoint */
async function act(checkpoint) {
  try {
    await request("POST", `/api/checkpoints/${checkpoint.id}/promote`);
    await refresh();
    say(`${short(checkpoint.id)} draws from now on.`, `It made ${counted(checkpoint.rounds.length, "round")} before.`);
  } catch (error) {
    sayError(error);
  }
}
