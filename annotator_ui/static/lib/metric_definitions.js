/** Definitions of the evaluation metrics: label, unit, direction and description. */

/**
 * @typedef {object} Metric
 * @property {string} label
 * @property {string} [unit]
 * @property {"higher" | "lower"} better
 * @property {string} description
 */

/** Metrics in display order, by their name in the API. @type {Map<string, Metric>} */
export const METRICS = new Map(
  Object.entries(
    /** @type {Record<string, Metric>} */ ({
      psnr: {
        label: "PSNR",
        unit: "dB",
        better: "higher",
        description: "Reconstruction against the original, mean over nine backgrounds",
      },
      psnr_inside: {
        label: "PSNR inside",
        unit: "dB",
        better: "higher",
        description: "PSNR without the padding of images that are not square",
      },
      ssim: {
        label: "SSIM",
        better: "higher",
        description: "Structural similarity, mean over nine backgrounds",
      },
      alpha_sad: {
        label: "Alpha SAD",
        better: "lower",
        description: "Sum of absolute alpha differences per image, in thousands",
      },
      alpha_mse: {
        label: "Alpha MSE",
        better: "lower",
        description: "Mean squared error of alpha",
      },
      identity_psnr: {
        label: "Identity PSNR",
        unit: "dB",
        better: "higher",
        description: "Frozen decoder output on latents with hidden transparency, against the image",
      },
      identity_harm_db: {
        label: "Identity harm",
        unit: "dB",
        better: "lower",
        description: "Quality loss of the frozen decoder caused by the hidden transparency",
      },
      noise_mse: {
        label: "Denoising loss",
        better: "lower",
        description: "Error of the predicted noise on held-out samples",
      },
      layers_mse: {
        label: "Layer loss",
        better: "lower",
        description: "Error of the predicted noise on all layers of pairs",
      },
      layers_apart_mse: {
        label: "Layer loss, separate",
        better: "lower",
        description: "Layer loss without shared attention between the layers of a pair",
      },
      background_psnr: {
        label: "Background PSNR",
        unit: "dB",
        better: "higher",
        description: "Pair backgrounds against the original, opaque pixels only",
      },
      pair_harmony: {
        label: "Disharmony",
        better: "lower",
        description: "Difference in light and color between the layers of generated pairs",
      },
      pair_light_r: {
        label: "Light correlation",
        better: "higher",
        description: "Correlation of both layers' brightness over generated pairs",
      },
      pair_leakage: {
        label: "Leakage",
        better: "lower",
        description: "Amount of the subject left in generated backgrounds",
      },
      pair_seam: {
        label: "Seams",
        better: "lower",
        description: "Visible seam along the mask in generated pairs",
      },
      pair_error: {
        label: "Composite error",
        better: "lower",
        description:
          "Generated blended images against foreground over background, in levels of 255",
      },
      pair_empty: {
        label: "Empty pairs",
        better: "lower",
        description: "Share of generated pairs in which a layer is missing",
      },
      psnr_worst: {
        label: "Worst PSNR",
        unit: "dB",
        better: "higher",
        description: "Mean PSNR on the worst of nine backgrounds",
      },
      lpips: {
        label: "LPIPS",
        better: "lower",
        description: "Perceptual distance, mean over nine backgrounds",
      },
      rfid: {
        label: "rFID",
        better: "lower",
        description: "Fréchet distance of reconstructions, mean over nine backgrounds",
      },
      psnr_jpeg: {
        label: "PSNR (JPEG)",
        unit: "dB",
        better: "higher",
        description: "After JPEG compression, as in the ALPHA benchmark; not comparable with PSNR",
      },
      ssim_jpeg: {
        label: "SSIM (JPEG)",
        better: "higher",
        description: "On luma after JPEG compression, as in the ALPHA benchmark",
      },
      lpips_jpeg: {
        label: "LPIPS (JPEG)",
        better: "lower",
        description: "After JPEG compression, as in the ALPHA benchmark",
      },
      rfid_jpeg: {
        label: "rFID (JPEG)",
        better: "lower",
        description: "After JPEG compression, as in the ALPHA benchmark",
      },
      alpha_grad: {
        label: "Alpha gradient error",
        better: "lower",
        description: "Gradient error of the whole matte per image, in thousands",
      },
      alpha_conn: {
        label: "Alpha connectivity error",
        better: "lower",
        description: "Connectivity error of the whole matte, in thousands",
      },
      unknown_sad: {
        label: "Edge SAD",
        better: "lower",
        description: "Alpha SAD in the unknown region of the trimap, in thousands",
      },
      unknown_mse: {
        label: "Edge MSE",
        better: "lower",
        description: "Alpha MSE in the unknown region of the trimap",
      },
      unknown_grad: {
        label: "Edge gradient error",
        better: "lower",
        description: "Gradient error in the unknown region of the trimap, in thousands",
      },
      unknown_conn: {
        label: "Edge connectivity error",
        better: "lower",
        description: "Connectivity error in the unknown region of the trimap, in thousands",
      },
      offset_mean: {
        label: "Offset",
        better: "lower",
        description: "Mean latent offset, in standard deviations of the autoencoder",
      },
      offset_max: {
        label: "Largest offset",
        better: "lower",
        description: "Largest latent offset of an image, in standard deviations of the autoencoder",
      },
      offset_energy: {
        label: "Offset energy",
        better: "lower",
        description: "Share of the offset in the energy of the latent",
      },
      drawn_empty: {
        label: "Empty images",
        better: "lower",
        description: "Share of generated images that are fully transparent",
      },
      drawn_opaque: {
        label: "Opaque images",
        better: "lower",
        description: "Share of generated images without transparency",
      },
      drawn_coverage_gap: {
        label: "Coverage gap",
        better: "lower",
        description: "Difference in mean alpha between generated images and samples",
      },
      pair_text_foreground: {
        label: "Text match, foreground",
        better: "higher",
        description: "CLIP score of generated foregrounds over gray",
      },
      pair_text_background: {
        label: "Text match, background",
        better: "higher",
        description: "CLIP score of generated backgrounds",
      },
      pair_text_blended: {
        label: "Text match, blended",
        better: "higher",
        description: "CLIP score of generated pairs with the full text",
      },
    }),
  ),
);
