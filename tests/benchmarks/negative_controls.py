"""Latent transparency beside the paper's two negative controls: alpha channels in the denoiser, and in the autoencoder.

The three begin at one base that was trained on plain latents of premultiplied pictures, and learn from as many images.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from scipy.fft import dctn
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, mse_loss
from torch.optim import AdamW

from curation.domain import Split, TrainingRequest, Verdict
from curation.object_store import FolderStore
from curation.screening.rule_reviewer import RuleReviewer, fit_rule_reviewer
from curation.synthetic.dataset import check_prompt, draw_seed_set
from tests.benchmarks.offset_ablation import freeze_folder
from training.checkpoint import LoadedCheckpoint, load_checkpoint
from training.data.dataset import LayerDataset
from training.data.splits import open_split
from training.denoiser.builtin import BuiltinDenoiser
from training.engine.resume import seeded_generator
from training.metrics.compositing import psnr
from training.presets.preset import Preset
from training.presets.presets import find_preset
from training.sample_grid import render_grid, to_uint8_images
from training.train import train
from training.transparency.autoencoder import LinearAutoencoder
from training.transparency.codec import adjust, decode_rgba
from training.transparency.padding import over_gray, pad_colors

LEVELS = (99, 299, 499, 699, 899)  # noise levels at which a base is measured


@dataclass(frozen=True)
class Way:
    """A way to make a base that draws RGB draw RGBA: latents of pictures, and pictures of latents."""

    name: str
    encode: Callable[[Tensor], Tensor]  # straight RGBA in [0, 1] to latents
    decode: Callable[[Tensor], Tensor]
    base: BuiltinDenoiser


class WiderAutoencoder(nn.Module):
    """Control (b): the linear autoencoder with a fourth channel, whose new weights are 0 and whose alpha starts at 1."""

    def __init__(self, autoencoder: LinearAutoencoder) -> None:
        super().__init__()
        self.stride = autoencoder.stride
        rows = (-1, 3, self.stride, self.stride)
        alpha = torch.zeros(autoencoder.latent_channels, 1, self.stride, self.stride)
        down, up = (
            autoencoder.basis / autoencoder.gain[:, None],
            autoencoder.basis * autoencoder.gain[:, None],
        )
        self.down = nn.Parameter(torch.cat([down.view(rows), alpha], dim=1))
        self.shift = nn.Parameter(-(autoencoder.basis @ autoencoder.mean) / autoencoder.gain)
        self.up = nn.Parameter(torch.cat([up.view(rows), alpha], dim=1))
        self.mean = nn.Parameter(
            torch.cat([autoencoder.mean.view(3, *rows[2:]), torch.ones(1, *rows[2:])])
        )

    def encode(self, image_B4HW: Tensor) -> Tensor:
        """Premultiplied colour in [-1, 1] and alpha in [0, 1] to latents."""
        return conv2d(image_B4HW, self.down, self.shift, stride=self.stride)

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Return the inverse, nearly."""
        return conv_transpose2d(latent_BCHW, self.up, stride=self.stride) + self.mean.repeat(
            1, *latent_BCHW.shape[2:]
        )


def main() -> None:
    """Print the table and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--offset-images", type=int, default=4_000, help="for both networks, or for control (b)"
    )
    parser.add_argument(
        "--base-images", type=int, default=16_000, help="of the base on plain latents"
    )
    parser.add_argument(
        "--tuned-images", type=int, default=6_000, help="of each of the three from there"
    )
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    preset = replace(find_preset("tiny"), threads=1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as folder:
        store = FolderStore(Path(folder) / "objects")
        draw_seed_set(Path(folder) / "seeds", 1_500)
        snapshot = freeze_folder(store, Path(folder) / "seeds")
        learnt, heldout = (
            open_split(store, snapshot, s, preset.image_size) for s in (Split.train, Split.heldout)
        )
        order = TrainingRequest(
            "transparency", "tiny", snapshot, None, None, 0, given.offset_images, {"threads": "1"}
        )
        parts = load_checkpoint(train(order, store, Path(folder) / "run", lambda _: None), store)
        plain = plain_way(preset, parts)
        plain.base.fit_scale(encode_all(plain, learnt))
        tune(plain, learnt, given.base_images, preset)
        ways = [
            ours(parts, plain),
            control_a(preset, parts, plain, learnt),
            control_b(preset, parts, plain, learnt, given),
        ]
        compare(plain, ways, fit_rule_reviewer(store, snapshot), learnt, heldout, preset, given)


def plain_way(preset: Preset, parts: LoadedCheckpoint) -> Way:
    """Where all begin: pictures on grey, a base of their latents, and no alpha."""
    torch.manual_seed(0)
    encode, decode = (
        (lambda rgba: parts.autoencoder.encode(grey(rgba))[0]),
        parts.autoencoder.decode,
    )
    return Way("base on plain latents", encode, decode, BuiltinDenoiser(preset))


def ours(parts: LoadedCheckpoint, plain: Way) -> Way:
    """Latent transparency."""

    def encode(rgba_B4HW: Tensor) -> Tensor:
        return adjust(
            parts.autoencoder, parts.transparency.encoder, rgba_B4HW[:, 3:], pad_colors(rgba_B4HW)
        )

    decoder = parts.transparency.decoder
    return Way(
        "ours",
        encode,
        lambda latent: decode_rgba(parts.autoencoder, decoder, latent),
        deepcopy(plain.base),
    )


def control_a(preset: Preset, parts: LoadedCheckpoint, plain: Way, learnt: LayerDataset) -> Way:
    """Alpha as a grey picture through the same frozen autoencoder, its latent as further channels of the denoiser.

    The new weights are 0, and the new channels have zero mean and the spread that the base knows.
    """
    channels = preset.latent_channels
    base = BuiltinDenoiser(replace(preset, latent_channels=2 * channels))
    old, wider = plain.base.state_dict(), base.state_dict()
    for name, tensor in wider.items():
        new = tuple(
            size - before for size, before in zip(tensor.shape, old[name].shape, strict=True)
        )
        axis = next((axis for axis, size in enumerate(new) if size), None)
        wider[name] = (
            old[name]
            if axis is None
            else torch.cat([old[name], torch.zeros_like(old[name])], dim=axis)
        )
    base.load_state_dict(wider)

    def matte(rgba_B4HW: Tensor) -> Tensor:
        return parts.autoencoder.encode((rgba_B4HW[:, 3:] * 2 - 1).expand(-1, 3, -1, -1))[0]

    mattes_BCHW = matte(learnt.load_batch(range(len(learnt))))
    centre_C11 = mattes_BCHW.mean((0, 2, 3))[:, None, None]
    unit = plain.base.spread / (mattes_BCHW - centre_C11).square().mean().sqrt()

    def encode(rgba_B4HW: Tensor) -> Tensor:
        return torch.cat([plain.encode(rgba_B4HW), (matte(rgba_B4HW) - centre_C11) * unit], dim=1)

    def decode(latent_BCHW: Tensor) -> Tensor:
        matte_B3HW = parts.autoencoder.decode(latent_BCHW[:, channels:] / unit + centre_C11)
        alpha_B1HW = matte_B3HW.mean(1, keepdim=True) / 2 + 0.5
        return unmultiply(parts.autoencoder.decode(latent_BCHW[:, :channels]), alpha_B1HW)

    return Way("(a) alpha channels in the denoiser", encode, decode, base)


def control_b(
    preset: Preset,
    parts: LoadedCheckpoint,
    plain: Way,
    learnt: LayerDataset,
    given: argparse.Namespace,
) -> Way:
    """Return the autoencoder with a fourth channel, all of it tuned on as many RGBA images as ours saw."""
    assert isinstance(parts.autoencoder, LinearAutoencoder)
    wider = WiderAutoencoder(parts.autoencoder)
    optimizer = AdamW(wider.parameters(), lr=preset.transparency_lr, betas=(0.9, 0.99))
    rng = seeded_generator(0, "wider", 0)
    for seen in range(0, given.offset_images, preset.transparency_batch):
        image_B4HW = stacked(
            learnt.load_batch(
                torch.randint(len(learnt), (preset.transparency_batch,), generator=rng).tolist()
            )
        )
        loss = mse_loss(wider.decode(wider.encode(image_B4HW)), image_B4HW)
        optimizer.param_groups[0]["lr"] = preset.transparency_lr * fall(seen, given.offset_images)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    wider.requires_grad_(False)

    def decode(latent_BCHW: Tensor) -> Tensor:
        image_B4HW = wider.decode(latent_BCHW)
        return unmultiply(image_B4HW[:, :3], image_B4HW[:, 3:])

    return Way(
        "(b) alpha in the autoencoder",
        lambda rgba: wider.encode(stacked(rgba)),
        decode,
        deepcopy(plain.base),
    )


def compare(
    plain: Way,
    ways: Sequence[Way],
    rule_reviewer: RuleReviewer,
    learnt: LayerDataset,
    heldout: LayerDataset,
    preset: Preset,
    given: argparse.Namespace,
) -> None:
    """One row per way: how strange its latents are to the untouched base and decoder, and what it draws."""
    truth_B4HW = heldout.load_batch(range(len(heldout)))
    texts = [learnt.captions[index] for index in range(96)]
    kept = preset.latent_channels

    def image_psnr(latent_BCHW: Tensor) -> Tensor:
        return psnr(grey(truth_B4HW) / 2 + 0.5, plain.decode(latent_BCHW) / 2 + 0.5).mean()

    image, columns = (
        image_psnr(plain.encode(truth_B4HW)),
        "noise_mse after | Frechet | both | defects per 100 |",
    )
    print(
        f"| way | noise_mse before | all channels | decoder's PSNR | there and back, PSNR | {columns}"
    )
    print("|---" * 9 + "|")
    print(
        f"| {plain.name} | {noise_mse(plain, heldout).mean():.3f} | | {image:.2f} | | | | | |",
        flush=True,
    )
    rows = [to_uint8_images(truth_B4HW[:8])]
    for way in ways:
        before = noise_mse(way, heldout)
        latent_BCHW = way.encode(truth_B4HW)
        seen = image_psnr(latent_BCHW[:, :kept])
        back = psnr(premultiplied(truth_B4HW), premultiplied(way.decode(latent_BCHW))).mean()
        tune(way, learnt, given.tuned_images, preset)
        drawn_B4HW = draw(way, texts, preset)
        distance = frechet(drawn_B4HW, learnt.load_batch(range(len(learnt))))
        drawn = list(zip(to_uint8_images(drawn_B4HW), texts, strict=True))
        both = sum(
            bool(message and message.color and message.shape)
            for message in (check_prompt(*one) for one in drawn)
        )
        defects = sum(rule_reviewer.decide(*one).verdict is not Verdict.accept for one in drawn)
        print(
            f"| {way.name} | {before[:kept].mean():.3f} | {before.mean():.3f} | {seen:.2f} | {back:.2f} |"
            f" {noise_mse(way, heldout).mean():.3f} | {distance:.2f} | {both / len(drawn):.0%} |"
            f" {100 * defects / len(drawn):.0f} |",
            flush=True,
        )
        rows.append(to_uint8_images(drawn_B4HW[:8]))
    print(
        f"| real, held out | | | | | | {frechet(truth_B4HW, learnt.load_batch(range(len(learnt)))):.2f} | | |"
    )
    if given.sheet:
        given.sheet.write_bytes(
            render_grid(rows, [heldout.captions[:8], *[texts[:8]] * (len(rows) - 1)])
        )


@torch.no_grad()
def encode_all(way: Way, pictures: LayerDataset) -> Tensor:
    """Latents of all pictures."""
    rows = [range(start, min(start + 64, len(pictures))) for start in range(0, len(pictures), 64)]
    return torch.cat([way.encode(pictures.load_batch(row)) for row in rows])


def tune(way: Way, pictures: LayerDataset, images: int, preset: Preset) -> None:
    """Train a way's base on its latents as the product does: v-prediction, dropped captions, a falling rate, its average."""
    clean_NCHW = way.base.normalize(encode_all(way, pictures))
    base, schedule = way.base.train().requires_grad_(True), way.base.schedule()
    averaged = deepcopy(base).requires_grad_(False)
    optimizer = AdamW(base.parameters(), lr=preset.base_lr, betas=(0.9, 0.99))
    for seen in range(0, images, preset.base_batch):
        rng = seeded_generator(0, "tune", seen)
        indices = torch.randint(len(pictures), (preset.base_batch,), generator=rng)
        text_conditions = torch.rand(len(indices), generator=rng) >= preset.caption_dropout
        texts = [
            pictures.captions[index] if tell else ""
            for index, tell in zip(indices.tolist(), text_conditions.tolist(), strict=True)
        ]
        clean_BCHW, time_B = (
            clean_NCHW[indices],
            torch.randint(1000, (len(indices),), generator=rng),
        )
        noise_BCHW = torch.randn(clean_BCHW.shape, generator=rng)
        predicted = base.predict(
            schedule.add_noise(clean_BCHW, noise_BCHW, time_B), time_B, base.encode(texts)
        )
        loss = mse_loss(predicted, schedule.get_velocity(clean_BCHW, noise_BCHW, time_B))
        optimizer.param_groups[0]["lr"] = preset.base_lr * fall(seen, images)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(base.parameters(), 1.0)
        optimizer.step()
        decay = min(preset.ema_decay, (1 + seen) / (10 * preset.base_batch + seen))
        for mean, weight in zip(averaged.parameters(), base.parameters(), strict=True):
            mean.data.lerp_(weight.data, 1 - decay)
    base.load_state_dict(averaged.state_dict())
    base.eval().requires_grad_(False)


@torch.no_grad()
def noise_mse(way: Way, pictures: LayerDataset) -> Tensor:
    """Return the base's error on held-out latents, by channel, at fixed noise levels with fixed noise."""
    clean_BCHW, schedule = way.base.normalize(encode_all(way, pictures)), way.base.schedule()
    conditions, errors = way.base.encode(pictures.captions), []
    for level in LEVELS:
        noise_BCHW = torch.randn(clean_BCHW.shape, generator=seeded_generator(level, "controls", 0))
        time_B = torch.full((len(clean_BCHW),), level)
        predicted = way.base.predict(
            schedule.add_noise(clean_BCHW, noise_BCHW, time_B), time_B, conditions
        )
        errors.append(
            (predicted - schedule.get_velocity(clean_BCHW, noise_BCHW, time_B))
            .square()
            .mean((0, 2, 3))
        )
    return torch.stack(errors).mean(0)


@torch.no_grad()
def draw(way: Way, texts: list[str], preset: Preset) -> Tensor:
    """Straight RGBA of prompts by DDIM with guidance, from noise whose first channels are the same for every way."""
    side, channels = preset.image_size // preset.stride, len(way.base.centre)
    text_conditions, free, schedule = (
        way.base.encode(texts),
        way.base.encode([""] * len(texts)),
        way.base.schedule(),
    )
    parts = [
        torch.randn(
            len(texts), preset.latent_channels, side, side, generator=seeded_generator(0, "draw", k)
        )
        for k in range(2)
    ]
    latent_BCHW = torch.cat(parts, dim=1)[:, :channels]
    schedule.set_timesteps(preset.draw_steps)
    for time_step in schedule.timesteps:
        time_B = time_step.expand(len(texts))
        with_text, without = (
            way.base.predict(latent_BCHW, time_B, given) for given in (text_conditions, free)
        )
        latent_BCHW = schedule.step(
            without + preset.guidance * (with_text - without), time_step, latent_BCHW
        ).prev_sample
    return way.decode(way.base.denormalize(latent_BCHW)).clamp(0, 1)


def frechet(drawn_B4HW: Tensor, real_B4HW: Tensor) -> float:
    """Return the Frechet distance of what a image is made of: decibels in 12 bands of spatial frequency of each channel.

    Of premultiplied RGBA; fixed, and without weights. It hears blocks and grain, and knows nothing of subjects.
    """
    (m1, c1), (m2, c2) = (
        (x.mean(0), torch.cov(x.T)) for x in (bands(drawn_B4HW), bands(real_B4HW))
    )
    return float(
        (m1 - m2).square().sum() + torch.trace(c1 + c2) - 2 * sqrtm((c1 @ c2).numpy()).real.trace()
    )


def bands(rgba_B4HW: Tensor) -> Tensor:
    """B x 48: power in bands of the discrete cosine transform, in dB."""
    power_B4HW = torch.from_numpy(
        dctn(premultiplied(rgba_B4HW).double().numpy(), axes=(2, 3), norm="ortho") ** 2
    )
    side = torch.arange(rgba_B4HW.shape[-1])
    band_HW = ((side[:, None] ** 2 + side**2).sqrt() / side[-1] * 12).long().clamp(max=11)
    mean_B4N = torch.stack(
        [power_B4HW[:, :, band_HW == band].mean(-1) for band in range(12)], dim=-1
    )
    return 10 * torch.log10(mean_B4N + 1e-6).flatten(1)


def grey(rgba_B4HW: Tensor) -> Tensor:
    """Return the image on grey, in [-1, 1]."""
    return over_gray(rgba_B4HW[:, :3], rgba_B4HW[:, 3:])


def stacked(rgba_B4HW: Tensor) -> Tensor:
    """Premultiplied colour in [-1, 1] and alpha in [0, 1]."""
    return torch.cat([grey(rgba_B4HW), rgba_B4HW[:, 3:]], dim=1)


def premultiplied(rgba_B4HW: Tensor) -> Tensor:
    """Premultiplied colour and alpha, both in [0, 1]: as it lies on black, and how much of it."""
    return torch.cat([rgba_B4HW[:, :3] * rgba_B4HW[:, 3:], rgba_B4HW[:, 3:]], dim=1)


def unmultiply(image_B3HW: Tensor, alpha_B1HW: Tensor) -> Tensor:
    """Straight RGBA in [0, 1] of colour on grey in [-1, 1] and its alpha."""
    alpha_B1HW = alpha_B1HW.clamp(0, 1)
    return torch.cat(
        [(image_B3HW / alpha_B1HW.clamp_min(1e-3) / 2 + 0.5).clamp(0, 1), alpha_B1HW], dim=1
    )


def fall(seen: int, images: int) -> float:
    """Return the share of the full rate: falling to nothing over the last 30 %."""
    return min(1.0, (seen + 32) / 500, (images - seen) / (0.3 * images))


if __name__ == "__main__":
    main()
