"""Published results on the ALPHA benchmark, through JPEG and on its images; for orientation only.

AlphaVAE (arXiv 2507.09308), tables of section 4, and for Qwen-Image its own report
(Qwen-Image-Layered, arXiv 2512.15603). AIM-500 and ALPHA are two test sets of matting images,
scaled and cropped to 1024 x 1024.
"""

from __future__ import annotations

PUBLISHED: dict[str, dict[str, float]] = {
    f"{test}: {work}": dict(
        zip(("psnr_jpeg", "ssim_jpeg", "rfid_jpeg", "lpips_jpeg"), values, strict=True)
    )
    for test, work, *values in (
        ("AIM-500", "LayerDiffuse SDXL", 32.09, 0.9436, 17.70, 0.0418),
        ("AIM-500", "AlphaVAE SDXL", 35.74, 0.9576, 10.92, 0.0495),
        ("AIM-500", "AlphaVAE FLUX", 36.94, 0.9737, 11.79, 0.0283),
        ("AIM-500", "RGBA-VAE Qwen-Image", 38.83, 0.9802, 5.31, 0.0123),
        ("ALPHA", "LayerDiffuse SDXL", 32.45, 0.9473, 6.48, 0.0324),
        ("ALPHA", "AlphaVAE SDXL", 35.56, 0.9605, 3.73, 0.0402),
        ("ALPHA", "AlphaVAE FLUX", 38.20, 0.9792, 1.66, 0.0145),
    )
}
