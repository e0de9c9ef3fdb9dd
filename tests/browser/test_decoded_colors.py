"""The decoder and Chromium show the same colors: each file is drawn to a canvas and compared."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from playwright.sync_api import Browser

from curation.images.decoding import decode_image
from tests.support.image_files import (
    ADOBE,
    P3,
    chromaticities,
    coded,
    gamma,
    make_png,
    profile,
    profile_chunk,
    saved,
)

COLORS = np.array(
    [
        [
            (200, 120, 60),
            (64, 64, 188),
            (90, 200, 140),
            (250, 250, 250),
            (128, 128, 128),
            (40, 70, 50),
        ]
    ]
)
DRAW = """async url => {
    const image = new Image(); image.src = url; await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d"); context.drawImage(image, 0, 0);
    return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data);
}"""
CHUNKS = {
    "plain": [],
    "gamma 1": [gamma(100_000)],
    "gamma 1 / 1.8": [gamma(55_556)],
    "gamma 1 / 2.2 alone": [gamma(45_455)],
    "chromaticities alone": [chromaticities(P3)],
    "gamma and Display P3": [gamma(45_455), chromaticities(P3)],
    "gamma and Adobe RGB": [gamma(45_455), chromaticities(ADOBE)],
    "linear and Display P3": [gamma(100_000), chromaticities(P3)],
    "sRGB before gamma": [(b"sRGB", b"\0"), gamma(100_000), chromaticities(P3)],
    "profile of Display P3": [profile_chunk(profile(P3))],
    "profile of a power": [profile_chunk(profile(ADOBE, 2.2))],
    "profile before sRGB": [profile_chunk(profile(P3)), (b"sRGB", b"\0")],
    "profile for grey on RGB": [profile_chunk(profile(space=b"GRAY"))],
    "cICP before a profile": [coded(1, 13), profile_chunk(profile(P3))],
    **{
        f"cICP {a}, {b}": [coded(a, b)]
        for a, b in ((12, 13), (1, 8), (9, 1), (9, 14), (1, 4), (1, 5), (5, 13), (2, 2))
    },
}


@pytest.mark.parametrize("bits", [8, 16])
def test_colors_are_those_that_a_browser_shows(browser: Browser, bits: int) -> None:
    page = browser.new_page()
    samples = np.repeat(COLORS * (257 if bits == 16 else 1), 4, axis=0)
    try:
        for name, chunks in CHUNKS.items():
            data = make_png(samples, 2, bits, chunks)
            shown = page.evaluate(DRAW, f"data:image/png;base64,{base64.b64encode(data).decode()}")
            wanted = np.array(shown).reshape(*samples.shape[:2], 4)
            got = decode_image(data).rgba.astype(int)
            assert np.abs(got - wanted).max() <= 3, (name, got[0].tolist(), wanted[0].tolist())
        flat = np.full((16, 16, 3), (200, 120, 60), np.uint8)
        for kind, mime in (("WEBP", "webp"), ("JPEG", "jpeg"), ("AVIF", "avif")):
            data = saved(flat, kind, quality=100, icc_profile=profile(P3))
            shown = page.evaluate(
                DRAW, f"data:image/{mime};base64,{base64.b64encode(data).decode()}"
            )
            got = decode_image(data).rgba.astype(int)[8, 8]
            assert np.abs(got - np.array(shown).reshape(16, 16, 4)[8, 8]).max() <= 3, kind
    finally:
        page.close()
