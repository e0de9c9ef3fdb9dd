/** Reject reasons with their layer: "residue" of a single layer, "background:residue" of a pair. */

import { humanize } from "../lib/format.js";

/** The layer that a reason refers to, by the layer on display; otherwise the whole image. */
export const REASON_LAYERS = new Map([
  ["foreground", "foreground"],
  ["background", "background"],
]);

/**
 * @param {string} reason
 * @param {string} layer empty for a single layer
 */
export function withLayer(reason, layer) {
  return layer ? `${layer}:${reason}` : reason;
}

/**
 * Split reasons into names and layers, as the API expects them.
 * @param {string[]} reasons
 */
export function splitReasons(reasons) {
  const parts = reasons.map((reason) => reason.split(":"));
  return {
    reasons: parts.map((words) => words.at(-1) ?? ""),
    layers: parts.every((words) => words.length > 1) ? parts.map((words) => words[0] ?? "") : [],
  };
}

/**
 * Combine names and layers; the inverse of `splitReasons`.
 * @param {{reasons: string[], layers?: string[]}} body
 */
export function joinReasons({ reasons, layers = [] }) {
  return reasons.map((reason, index) => withLayer(reason, layers[index] ?? ""));
}

/**
 * Return reasons for display: "background: residue".
 * @param {{reasons: string[], layers?: string[]}} body
 */
export function describeReasons({ reasons, layers = [] }) {
  return reasons.map((reason, index) =>
    layers[index] ? `${layers[index]}: ${humanize(reason)}` : humanize(reason),
  );
}
