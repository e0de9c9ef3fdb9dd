/** Parts of the pages of loops: their step in words, what they spent, and their actions. */

import { confirmAction } from "../lib/confirm.js";
import { button, el } from "../lib/dom.js";
import { formatCount, formatDuration } from "../lib/format.js";
import { request } from "../lib/http.js";
import { showError, showNotice } from "../lib/shell.js";

/** The steps of a loop in words. */
const STEPS = {
  freeze: "freezing a snapshot",
  train: "training",
  promote: "comparing the checkpoint with the gate",
  open: "opening a round",
  review: "generating and reviewing",
  finish: "freezing the last snapshot",
};

/** Quantities of a budget: name, label and format. */
export const QUANTITIES = /** @type {const} */ ([
  ["gpu_seconds", "GPU time", formatSeconds],
  ["human_hours", "Review time", formatHours],
  ["accepted", "Accepted samples", formatCount],
]);

/** Actions by the states in which they are possible, with what to ask before. */
const ACTIONS = /** @type {const} */ ([
  {
    action: "pause",
    label: "Pause",
    done: "paused",
    states: ["running"],
    text: "Its training or round is paused with it; workers stop within one batch.",
  },
  {
    action: "resume",
    label: "Resume",
    done: "running",
    states: ["paused", "failed"],
    text: "It goes on with the step at which it stopped; a failed step is tried again.",
  },
  {
    action: "cancel",
    label: "Cancel",
    done: "cancelled",
    states: ["running", "paused", "failed"],
    text:
      "Its training is cancelled and its round closed. Accepted samples are kept. " +
      "A cancelled loop cannot be resumed.",
  },
]);

/** @param {number | null} seconds */
function formatSeconds(seconds) {
  return seconds === 0 ? "0 s" : formatDuration(seconds);
}

/** @param {number | null} hours */
function formatHours(hours) {
  return formatSeconds(hours === null ? null : hours * 3600);
}

/**
 * Return the turn and the step of a loop, with a link to what it waits for.
 * @param {LoopSummary} loop
 */
export function loopStep(loop) {
  const turn = `turn ${loop.turn} of ${loop.rounds}`;
  if (["finished", "cancelled"].includes(loop.state)) return [turn];
  const at = `${turn}: ${STEPS[loop.step]}`;
  if (loop.step === "review" && loop.round !== null) {
    return [`${at} `, el("a", { href: `/rounds/${loop.round}` }, `round ${loop.round}`)];
  }
  if (loop.step === "train" && loop.run !== null) {
    return [`${at} `, el("a", { href: `/runs/${loop.run}` }, "training run")];
  }
  return [at];
}

/**
 * Return what a loop has spent, each quantity with its limit.
 * @param {LoopSummary} loop
 */
export function loopSpending({ spent, budget }) {
  return QUANTITIES.map(([name, label, format]) => {
    const limit = budget[name] === null ? "" : ` of ${format(budget[name])}`;
    return el("div", {}, el("small", {}, label), ` ${format(spent[name] || 0)}${limit}`);
  });
}

/**
 * Return the buttons of a loop in its present state.
 * @param {LoopSummary} loop
 * @param {() => Promise<void>} refresh refreshes the page after an action
 */
export function loopActions(loop, refresh) {
  const act = async (/** @type {typeof ACTIONS[number]} */ { action, label, done, text }) => {
    const agreed = await confirmAction({
      title: `${label} loop ${loop.id}?`,
      text,
      label: `${label} loop`,
      danger: action === "cancel",
    });
    if (!agreed) return;
    try {
      await request("POST", `/api/loops/${loop.id}/${action}`);
      showNotice(`Loop ${loop.id} is ${done}.`);
    } catch (error) {
      showError(error);
    }
    await refresh();
  };
  return ACTIONS.filter(({ states }) => states.some((state) => state === loop.state)).map((one) =>
    button(`${one.label}…`, () => act(one), { "aria-label": `${one.label} loop ${loop.id}` }),
  );
}
