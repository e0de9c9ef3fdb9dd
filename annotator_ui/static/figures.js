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
  [
    "layers_mse",
    { label: "Layers' loss", unit: "", better: "lower", means: "Error of the predicted noise on all layers of pairs" },
  ],
  [
    "layers_apart_mse",
    {
      label: "Layers' loss, apart",
      unit: "",
      better: "lower",
      means: "The same where the layers of a pair do not see each other",
    },
  ],
  [
    "background_psnr",
    {
      label: "Background PSNR",
      unit: "dB",
      better: "higher",
      means: "Backgrounds of pairs against the truth, where opaque",
    },
  ],
  [
    "pair_harmony",
    {
      label: "Disharmony",
      unit: "",
      better: "lower",
      means: "Light and colour of a drawn pair's layers against each other",
    },
  ],
  [
    "pair_light_r",
    {
      label: "Common light",
      unit: "",
      better: "higher",
      means: "How the brightness of both layers correlates over drawn pairs",
    },
  ],
  [
    "pair_leakage",
    { label: "Leakage", unit: "", better: "lower", means: "How much of the subject drawn backgrounds still hold" },
  ],
  [
    "pair_seam",
    { label: "Seams", unit: "", better: "lower", means: "The trace along the mask in drawn pairs" },
  ],
  [
    "pair_error",
    {
      label: "Blended error",
      unit: "",
      better: "lower",
      means: "Drawn blended images against foreground over background, in levels",
    },
  ],
  [
    "pair_empty",
    { label: "Empty pairs", unit: "", better: "lower", means: "The share of drawn pairs that do not show both layers" },
  ],
  [
    "psnr_worst",
    { label: "Worst PSNR", unit: "dB", better: "higher", means: "Mean PSNR on the background where it is least" },
  ],
  [
    "lpips",
    { label: "LPIPS", unit: "", better: "lower", means: "Distance in a network's features, mean of nine backgrounds" },
  ],
  [
    "rfid",
    { label: "rFID", unit: "", better: "lower", means: "Frechet distance of features, mean of nine backgrounds" },
  ],
  [
    "psnr_jpeg",
    { label: "PSNR, published", unit: "dB", better: "higher", means: "Through JPEG, as ALPHA measures; unlike PSNR" },
  ],
  [
    "ssim_jpeg",
    { label: "SSIM, published", unit: "", better: "higher", means: "Of the luma, through JPEG, as ALPHA measures" },
  ],
  [
    "lpips_jpeg",
    { label: "LPIPS, published", unit: "", better: "lower", means: "Through JPEG, as ALPHA measures" },
  ],
  [
    "rfid_jpeg",
    { label: "rFID, published", unit: "", better: "lower", means: "Through JPEG, as ALPHA measures" },
  ],
  [
    "alpha_grad",
    { label: "Alpha gradient error", unit: "", better: "lower", means: "Of the whole matte, in thousands, per image" },
  ],
  [
    "alpha_conn",
    { label: "Alpha connectivity", unit: "", better: "lower", means: "Of the whole matte, in thousands" },
  ],
  [
    "unknown_sad",
    { label: "Edge SAD", unit: "", better: "lower", means: "In thousands, where a trimap knows nothing" },
  ],
  [
    "unknown_mse",
    { label: "Edge MSE", unit: "", better: "lower", means: "Where a trimap knows nothing" },
  ],
  [
    "unknown_grad",
    { label: "Edge gradient error", unit: "", better: "lower", means: "In thousands, where a trimap knows nothing" },
  ],
  [
    "unknown_conn",
    { label: "Edge connectivity", unit: "", better: "lower", means: "In thousands, where a trimap knows nothing" },
  ],
  [
    "offset_mean",
    { label: "Offset", unit: "", better: "lower", means: "Its mean size, in the autoencoder's deviations" },
  ],
  [
    "offset_max",
    { label: "Largest offset", unit: "", better: "lower", means: "An image's largest, in the same deviations" },
  ],
  [
    "offset_energy",
    { label: "Offset energy", unit: "", better: "lower", means: "The offset's share of the latent's energy" },
  ],
  [
    "drawn_empty",
    { label: "Empty drawings", unit: "", better: "lower", means: "The share of drawings with nothing to be seen" },
  ],
  [
    "drawn_opaque",
    { label: "Opaque drawings", unit: "", better: "lower", means: "The share of drawings with nothing transparent" },
  ],
  [
    "drawn_coverage_gap",
    { label: "Coverage gap", unit: "", better: "lower", means: "Of mean alpha, drawings against samples" },
  ],
  [
    "pair_text_foreground",
    {
      label: "Text agreement, foreground",
      unit: "",
      better: "higher",
      means: "CLIP score of drawn foregrounds, over grey",
    },
  ],
  [
    "pair_text_background",
    { label: "Text agreement, background", unit: "", better: "higher", means: "CLIP score of drawn backgrounds" },
  ],
  [
    "pair_text_blended",
    {
      label: "Text agreement, blended",
      unit: "",
      better: "higher",
      means: "CLIP score of drawn pairs with the whole text",
    },
  ],
]);

/** Those that every training measures, first in the table above; the others come of the command that evaluates. */
const MAIN = [...KNOWN.keys()].slice(0, [...KNOWN.keys()].indexOf("noise_mse") + 1);

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

/**
 * The names of the main figures there are, then of those that nobody here knows.
 * @param {{evaluation: Record<string, number>}[]} evaluated
 */
export function figureNames(evaluated) {
  const present = new Set(evaluated.flatMap(({ evaluation }) => Object.keys(evaluation)));
  return [...MAIN.filter((name) => present.has(name)), ...[...present].filter((name) => !KNOWN.has(name)).sort()];
}

/**
 * The other figures, folded; nothing where there are none.
 * @param {Record<string, number>} evaluation @param {Record<string, number> | undefined} before the parent's
 */
export function moreFigures(evaluation, before) {
  const names = [...KNOWN.keys()].filter((name) => name in evaluation && !MAIN.includes(name));
  if (!names.length) return null;
  const rows = names.map((name) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, labelOf(name)),
      make("td", { class: "number" }, compared(name, evaluation[name], before?.[name])),
    ),
  );
  return make(
    "details",
    { class: "more-figures" },
    make("summary", {}, `${names.length} more figures`),
    make("table", { class: "compact" }, make("tbody", {}, rows)),
  );
}
