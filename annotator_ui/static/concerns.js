/** Reasons and the layers they concern: "residue" of a single layer, "background:residue" of a layer of a pair. */

import { plain } from "./words.js";

/** The layer that a reason given now would concern: the one that is looked at, and the whole where it is all of them. */
export const CONCERNED = new Map([
  ["foreground", "foreground"],
  ["background", "background"],
]);

/** @param {string} reason @param {string} layer */
export function concerning(reason, layer) {
  return layer ? `${layer}:${reason}` : reason;
}

/** What a decision says of reasons: their names, and of pairs their layers in the same order. @param {string[]} reasons */
export function told(reasons) {
  const parts = reasons.map((reason) => reason.split(":"));
  return {
    reasons: parts.map((words) => words.at(-1) ?? ""),
    layers: parts.every((words) => words.length > 1) ? parts.map((words) => words[0] ?? "") : [],
  };
}

/** The inverse of `told`. @param {{reasons: string[], layers?: string[]}} body */
export function collected({ reasons, layers = [] }) {
  return reasons.map((reason, index) => concerning(reason, layers[index] ?? ""));
}

/** Reasons in words: "background: residue". @param {{reasons: string[], layers?: string[]}} body */
export function inWords({ reasons, layers = [] }) {
  return reasons.map((reason, index) => (layers[index] ? `${layers[index]}: ${plain(reason)}` : plain(reason)));
}
