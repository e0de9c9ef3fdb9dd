/** The figures of a checkpoint's evaluation: their names, units, and which way is better. */

import { make } from "./elements.js";
import { figure, plain } from "./words.js";

/** @type {Map<string, {label: string, unit: string, better: "higher" | "lower", means: string}>} */
const KNOWN = new Map([
  [
    "psnr",
    {
      label: "PSNR",
      unit: "dB",
      better: "higher",
      means: "Reconstruction against the truth, mean over nine backgrounds",
    },
  ],
  ["ssim", { label: "SSIM", unit: "", better: "higher", means: "Structural similarity, mean over nine backgrounds" }],
  [
    "alpha_sad",
    {
      label: "Alpha SAD",
      unit: "",
      better: "lower",
      means: "Sum of absolute alpha differences, in thousands of pixels, per image",
    },
  ],
  ["alpha_mse", { label: "Alpha MSE", unit: "", better: "lower", means: "Mean squared difference of alpha" }],
  [
    "identity_psnr",
    {
      label: "Identity PSNR",
      unit: "dB",
      better: "higher",
      means: "The frozen decoder on latents with hidden transparency, against the picture",
    },
  ],
  [
    "identity_harm_db",
    {
      label: "Identity harm",
      unit: "dB",
      better: "lower",
      means: "What the frozen decoder loses by the hidden transparency",
    },
  ],
  [
    "noise_mse",
    { label: "Denoising loss", unit: "", better: "lower", means: "Error of the predicted noise on held-out samples" },
  ],
]);

/** @param {string} name */
export function labelOf(name) {
  const known = KNOWN.get(name);
  if (!known) return make("span", {}, plain(name));
  const arrow = known.better === "higher" ? "higher is better" : "lower is better";
  return make(
    "span",
    { title: `${known.means}; ${arrow}` },
    known.label,
    make("small", {}, [known.unit, arrow].filter(Boolean).join(", ")),
  );
}

/**
 * A figure's value and what became of it since the parent, in words and with its sign.
 * @param {string} name @param {number | undefined} value @param {number | undefined} before
 */
export function compared(name, value, before) {
  if (value === undefined) return make("span", { class: "quiet" }, "–");
  if (before === undefined) return make("span", {}, figure(value));
  const difference = value - before;
  const better = KNOWN.get(name)?.better;
  const gain = better === "lower" ? -difference : difference;
  const same = Math.abs(difference) <= 1e-9 * Math.max(Math.abs(value), 1);
  const word = same ? "same" : better === undefined ? "changed" : gain > 0 ? "better" : "worse";
  const sign = difference > 0 ? "+" : "−";
  return make(
    "span",
    { class: word },
    figure(value),
    make("small", {}, same ? "same" : `${sign}${figure(Math.abs(difference), 2)} ${word}`),
  );
}

/** The names of all figures there are, known ones first. @param {{evaluation: Record<string, number>}[]} evaluated */
export function figureNames(evaluated) {
  const present = new Set(evaluated.flatMap(({ evaluation }) => Object.keys(evaluation)));
  return [
    ...[...KNOWN.keys()].filter((name) => present.has(name)),
    ...[...present].filter((name) => !KNOWN.has(name)).sort(),
  ];
}
