/** The figures there are: their names, units, what they mean, and which way is better. */

/** @type {Map<string, {label: string, unit: string, better: "higher" | "lower", means: string}>} */
export const KNOWN = new Map([
  [
    "psnr",
    {
      label: "PSNR",
      unit: "dB",
      better: "higher",
      means: "Reconstruction against the truth, mean over nine backgrounds",
    },
  ],
  [
    "psnr_inside",
    { label: "PSNR inside", unit: "dB", better: "higher", means: "PSNR without the margins around images that are not square" },
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
