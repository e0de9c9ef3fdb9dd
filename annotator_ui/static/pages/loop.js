/** The page of one loop: its plan, cost and turns, its actions, and a form to change the plan. */

import { stateChip } from "../charts/bars.js";
import { loopActions, loopStep, QUANTITIES } from "../charts/loops.js";
import { byId, el, replace } from "../lib/dom.js";
import {
  formatCount,
  formatDate,
  formatNumber,
  humanize,
  kindLabel,
  shortId,
} from "../lib/format.js";
import { read, request } from "../lib/http.js";
import { poll } from "../lib/polling.js";
import { hasRole, showError, showNotice, showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const PERIOD_MS = 4_000;
const loopId = Number(location.pathname.split("/").at(-1));
const PATH = `/api/loops/${loopId}`;
const ENDED = ["finished", "cancelled"];
/** Fields of the form with numbers; those of the budget are empty where there is no limit. */
const NUMBERS = ["rounds", "quota", "priority", "gpu_seconds", "human_hours", "accepted"];

installShortcutHelp(new Shortcuts(document));
const me = /** @type {CurrentReviewer | null} */ (await read("/api/me").catch(() => null));
if (me) showSignedIn(me);
const form = byId("change", HTMLFormElement);
/** The values that the form showed first; a field that differs from them was edited. */
let shown = /** @type {Record<string, string>} */ ({});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  change();
});
const refresh = poll(PERIOD_MS, async () => render(await read(PATH)));

/** @param {LoopDetails} details */
function render(details) {
  const { loop } = details;
  document.title = `Loop ${loop.id} · Layerloop`;
  byId("loop").hidden = false;
  replace(byId("title"), `Loop ${loop.id} `, stateChip(loop.state));
  replace(byId("step"), loopStep(loop));
  byId("reason").hidden = !loop.reason;
  byId("reason").textContent = loop.reason ?? "";
  byId("summary").textContent = summary(details);
  replace(byId("costs"), QUANTITIES.map((quantity) => costRow(quantity, details)));
  replace(byId("turns"), details.turns.map(turnRow));

  // Buttons and form are replaced only when the state changes, so that neither a click nor an edit
  // is lost.
  const actions = byId("actions");
  if (!me || !hasRole(me, "engineer")) return;
  byId("change-card").hidden = ENDED.includes(loop.state);
  if (Object.keys(shown).length === 0) fillForm(details);
  if (actions.dataset["state"] === loop.state) return;
  actions.dataset["state"] = loop.state;
  replace(actions, loopActions(loop, refresh));
}

/** @param {LoopDetails} details */
function summary({ loop, recipe, images, kind, policy, gate }) {
  const share = policy["share"];
  const parts = [
    `${formatCount(loop.quota)} ${kindLabel(kind)} a round`,
    `recipe ${humanize(recipe)} with preset ${loop.preset}` +
      (images ? ` and ${formatCount(images)} images` : ""),
    loop.reviewer === "rules" ? "the rule reviewer decides" : "people decide",
    typeof share === "number" && share < 1 && `${humanize(String(policy["kind"]))} ${share}`,
    gate.length ? `gate ${gate.join(", ")}` : "no gate",
    loop.priority !== 0 && `priority ${loop.priority}`,
    `started ${formatDate(loop.started_at)}`,
  ];
  return `${parts.filter(Boolean).join("; ")}.`;
}

/**
 * Return what is spent of a quantity, its limit, and the estimate for the whole plan.
 * @param {typeof QUANTITIES[number]} quantity
 * @param {LoopDetails} details
 */
function costRow([name, label, format], { loop, estimate }) {
  const names = name === "gpu_seconds" ? ["training_seconds", "generation_seconds"] : [name];
  const parts = names.map((part) => estimate[part] ?? { value: null, basis: "" });
  const known = parts.every(({ value }) => value !== null);
  const total = known ? parts.reduce((sum, { value }) => sum + (value ?? 0), 0) : null;
  const limit = loop.budget[name];
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, label),
    el("td", { class: "number" }, format(loop.spent[name])),
    el("td", { class: "number" }, limit === null ? "no limit" : format(limit)),
    el("td", { class: "number" }, total === null ? "unknown" : format(total)),
    el(
      "td",
      { class: "text" },
      parts.map(({ value, basis }, index) => {
        const part = names.length > 1 ? `${humanize(names[index] ?? "").split(" ")[0]}: ` : "";
        const each = names.length > 1 && value !== null ? `${format(value)}, ` : "";
        return el("div", {}, el("small", {}, `${part}${each}${basis}`));
      }),
    ),
  );
}

/** @param {LoopDetails["turns"][number]} turn */
function turnRow(turn) {
  const { round, guard_note: guard } = turn;
  const note = guard && el("small", {}, guard);
  const link = (/** @type {string | null} */ id, /** @type {string} */ path) =>
    id ? el("a", { href: `${path}${id}` }, el("code", {}, shortId(id))) : "–";
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, turn.turn),
    el("td", {}, link(turn.snapshot, "/snapshots/")),
    el("td", { class: "text" }, link(turn.run, "/runs/"), note),
    el("td", {}, link(turn.checkpoint, "/checkpoints#")),
    el("td", { class: "text" }, gateResult(turn)),
    el("td", {}, round ? el("a", { href: `/rounds/${round}` }, `Round ${round}`) : "–"),
  );
}

/** @param {LoopDetails["turns"][number]} turn */
function gateResult({ promoted, gate }) {
  if (promoted === null) return "–";
  const conditions = gate.map(({ condition, value, passed }) =>
    el("small", {}, `${condition}: ${formatNumber(value)} ${passed ? "✓" : "✗"}`),
  );
  return [promoted ? "promoted" : el("span", { class: "worse" }, "refused"), ...conditions];
}

/** @param {LoopDetails} details */
function fillForm({ loop, gate, diversity_guard: guard }) {
  const values = {
    rounds: loop.rounds,
    quota: loop.quota,
    priority: loop.priority,
    reviewer: loop.reviewer,
    diversity_guard: guard,
    gate: gate.join(", "),
    ...loop.budget,
  };
  shown = {};
  for (const [name, value] of Object.entries(values)) {
    shown[name] = value === null ? "" : String(value);
    field(name).value = shown[name];
  }
}

/** @param {string} name */
function field(name) {
  return /** @type {HTMLInputElement | HTMLSelectElement} */ (form.elements.namedItem(name));
}

/** Send the fields that were edited. */
async function change() {
  /** @type {Record<string, unknown>} */
  const changes = {};
  for (const [name, before] of Object.entries(shown)) {
    const text = field(name).value.trim();
    if (text === before) continue;
    if (name === "gate") {
      const conditions = text.split(",").map((part) => part.trim());
      changes[name] = conditions.filter((part) => part !== "");
    } else if (NUMBERS.includes(name)) changes[name] = text === "" ? null : Number(text);
    else changes[name] = text;
  }
  if (Object.keys(changes).length === 0) {
    showNotice("Nothing was changed.");
    return;
  }
  try {
    const details = /** @type {LoopDetails} */ (await request("POST", `${PATH}/change`, changes));
    fillForm(details);
    render(details);
    const effect = "Workers follow the new plan from their next batch on.";
    showNotice(`Loop ${loopId} is changed.`, effect);
  } catch (error) {
    showError(error);
  }
}
