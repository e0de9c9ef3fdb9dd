"""Compare latent transparency with the paper's two negative controls: alpha in the denoiser, and in the autoencoder.

All three start from one base trained on plain latents of premultiplied images, and train on equally many images.
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
class Variant:
    """A variant of RGBA generation by an RGB base: how images are encoded to latents, and latents decoded."""

    name: str
    encode: Callable[[Tensor], Tensor]  # straight RGBA in [0, 1] to latents
    decode: Callable[[Tensor], Tensor]
    base: BuiltinDenoiser


class WiderAutoencoder(nn.Module):
    """Control (b): the linear autoencoder with a fourth channel of zero weights, whose alpha starts at 1."""

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
        """Encode premultiplied color in [-1, 1] and alpha in [0, 1]."""
        return conv2d(image_B4HW, self.down, self.shift, stride=self.stride)

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Decode latents, the approximate inverse of `encode`."""
        return conv_transpose2d(latent_BCHW, self.up, stride=self.stride) + self.mean.repeat(
            1, *latent_BCHW.shape[2:]
        )


def main() -> None:
    """Print the table and write the sample grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--offset-images",
        type=int,
        default=4_000,
        help="training images of both networks, or of control (b)",
    )
    parser.add_argument(
        "--base-images",
        type=int,
        default=16_000,
        help="training images of the base on plain latents",
    )
    parser.add_argument(
        "--tuned-images",
        type=int,
        default=6_000,
        help="training images of each of the three variants",
    )
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    preset = replace(find_preset("tiny"), threads=1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as folder:
        store = FolderStore(Path(folder) / "objects")
        draw_seed_set(Path(folder) / "seeds", 1_500)
        snapshot = freeze_folder(store, Path(folder) / "seeds")
        train_set, heldout = (
            open_split(store, snapshot, s, preset.image_size) for s in (Split.train, Split.heldout)
        )
        order = TrainingRequest(
            "transparency", "tiny", snapshot, None, None, 0, options.offset_images, {"threads": "1"}
        )
        parts = load_checkpoint(train(order, store, Path(folder) / "run", lambda _: None), store)
        plain = plain_variant(preset, parts)
        plain.base.fit_scale(encode_all(plain, train_set))
        tune(plain, train_set, options.base_images, preset)
        variants = [
            latent_transparency(parts, plain),
            alpha_in_denoiser(preset, parts, plain, train_set),
            alpha_in_autoencoder(preset, parts, plain, train_set, options),
        ]
        compare(
            plain, variants, fit_rule_reviewer(store, snapshot), train_set, heldout, preset, options
        )


def plain_variant(preset: Preset, parts: LoadedCheckpoint) -> Variant:
    """Return the common start: latents of images on gray, without alpha."""
    torch.manual_seed(0)
    encode, decode = (
        (lambda rgba: parts.autoencoder.encode(on_gray(rgba))[0]),
        parts.autoencoder.decode,
    )
    return Variant("base on plain latents", encode, decode, BuiltinDenoiser(preset))


def latent_transparency(parts: LoadedCheckpoint, plain: Variant) -> Variant:
    """Return the variant of latent transparency, with the start's base."""

    def encode(rgba_B4HW: Tensor) -> Tensor:
        return adjust(
            parts.autoencoder, parts.transparency.encoder, rgba_B4HW[:, 3:], pad_colors(rgba_B4HW)
        )

    decoder = parts.transparency.decoder
    return Variant(
        "ours",
        encode,
        lambda latent: decode_rgba(parts.autoencoder, decoder, latent),
        deepcopy(plain.base),
    )


def alpha_in_denoiser(
    preset: Preset, parts: LoadedCheckpoint, plain: Variant, train_set: LayerDataset
) -> Variant:
    """Encode alpha as a gray image by the frozen autoencoder, and add its latent as channels of the denoiser.

    The new weights are 0, and the new channels have zero mean and the standard deviation of the others.
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

    mattes_BCHW = matte(train_set.load_batch(range(len(train_set))))
    center_C11 = mattes_BCHW.mean((0, 2, 3))[:, None, None]
    unit = plain.base.spread / (mattes_BCHW - center_C11).square().mean().sqrt()

    def encode(rgba_B4HW: Tensor) -> Tensor:
        return torch.cat([plain.encode(rgba_B4HW), (matte(rgba_B4HW) - center_C11) * unit], dim=1)

    def decode(latent_BCHW: Tensor) -> Tensor:
        matte_B3HW = parts.autoencoder.decode(latent_BCHW[:, channels:] / unit + center_C11)
        alpha_B1HW = matte_B3HW.mean(1, keepdim=True) / 2 + 0.5
        return unmultiply(parts.autoencoder.decode(latent_BCHW[:, :channels]), alpha_B1HW)

    return Variant("(a) alpha channels in the denoiser", encode, decode, base)


def alpha_in_autoencoder(
    preset: Preset,
    parts: LoadedCheckpoint,
    plain: Variant,
    train_set: LayerDataset,
    options: argparse.Namespace,
) -> Variant:
    """Return the autoencoder with a fourth channel, fine-tuned on as many RGBA images as the offset networks."""
    assert isinstance(parts.autoencoder, LinearAutoencoder)
    wider = WiderAutoencoder(parts.autoencoder)
    optimizer = AdamW(wider.parameters(), lr=preset.transparency_lr, betas=(0.9, 0.99))
    rng = seeded_generator(0, "wider", 0)
    for images_seen in range(0, options.offset_images, preset.transparency_batch):
        image_B4HW = with_alpha(
            train_set.load_batch(
                torch.randint(len(train_set), (preset.transparency_batch,), generator=rng).tolist()
            )
        )
        loss = mse_loss(wider.decode(wider.encode(image_B4HW)), image_B4HW)
        optimizer.param_groups[0]["lr"] = preset.transparency_lr * lr_factor(
            images_seen, options.offset_images
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    wider.requires_grad_(False)

    def decode(latent_BCHW: Tensor) -> Tensor:
        image_B4HW = wider.decode(latent_BCHW)
        return unmultiply(image_B4HW[:, :3], image_B4HW[:, 3:])

    return Variant(
        "(b) alpha in the autoencoder",
        lambda rgba: wider.encode(with_alpha(rgba)),
        decode,
        deepcopy(plain.base),
    )


def compare(
    plain: Variant,
    variants: Sequence[Variant],
    rule_reviewer: RuleReviewer,
    train_set: LayerDataset,
    heldout: LayerDataset,
    preset: Preset,
    options: argparse.Namespace,
) -> None:
    """Print one row per variant: the errors of the unchanged base and decoder on its latents, and its samples."""
    truth_B4HW = heldout.load_batch(range(len(heldout)))
    texts = [train_set.captions[index] for index in range(96)]
    kept = preset.latent_channels

    def image_psnr(latent_BCHW: Tensor) -> Tensor:
        return psnr(on_gray(truth_B4HW) / 2 + 0.5, plain.decode(latent_BCHW) / 2 + 0.5).mean()

    image, columns = (
        image_psnr(plain.encode(truth_B4HW)),
        "noise_mse after | Frechet | both | defects per 100 |",
    )
    print(
        f"| variant | noise_mse before | all channels | decoder's PSNR | round trip, PSNR | {columns}"
    )
    print("|---" * 9 + "|")
    print(
        f"| {plain.name} | {noise_mse(plain, heldout).mean():.3f} | | {image:.2f} | | | | | |",
        flush=True,
    )
    rows = [to_uint8_images(truth_B4HW[:8])]
    for variant in variants:
        before = noise_mse(variant, heldout)
        latent_BCHW = variant.encode(truth_B4HW)
        decoded_psnr = image_psnr(latent_BCHW[:, :kept])
        round_trip = psnr(
            premultiplied(truth_B4HW), premultiplied(variant.decode(latent_BCHW))
        ).mean()
        tune(variant, train_set, options.tuned_images, preset)
        generated_B4HW = draw(variant, texts, preset)
        distance = frechet(generated_B4HW, train_set.load_batch(range(len(train_set))))
        generated = list(zip(to_uint8_images(generated_B4HW), texts, strict=True))
        both = sum(
            bool(agreement and agreement.color and agreement.shape)
            for agreement in (check_prompt(*sample) for sample in generated)
        )
        defects = sum(
            rule_reviewer.decide(*sample).verdict is not Verdict.accept for sample in generated
        )
        print(
            f"| {variant.name} | {before[:kept].mean():.3f} | {before.mean():.3f} | {decoded_psnr:.2f} | {round_trip:.2f} |"
            f" {noise_mse(variant, heldout).mean():.3f} | {distance:.2f} | {both / len(generated):.0%} |"
            f" {100 * defects / len(generated):.0f} |",
            flush=True,
        )
        rows.append(to_uint8_images(generated_B4HW[:8]))
    print(
        f"| real, held out | | | | | | {frechet(truth_B4HW, train_set.load_batch(range(len(train_set)))):.2f} | | |"
    )
    if options.sheet:
        options.sheet.write_bytes(
            render_grid(rows, [heldout.captions[:8], *[texts[:8]] * (len(rows) - 1)])
        )


@torch.no_grad()
def encode_all(variant: Variant, dataset: LayerDataset) -> Tensor:
    """Return the latents of all images."""
    rows = [range(start, min(start + 64, len(dataset))) for start in range(0, len(dataset), 64)]
    return torch.cat([variant.encode(dataset.load_batch(row)) for row in rows])


def tune(variant: Variant, dataset: LayerDataset, images: int, preset: Preset) -> None:
    """Train a variant's base on its latents as the trainer does: v-prediction, caption dropout, lr decay, EMA."""
    clean_NCHW = variant.base.normalize(encode_all(variant, dataset))
    base, schedule = variant.base.train().requires_grad_(True), variant.base.schedule()
    averaged = deepcopy(base).requires_grad_(False)
    optimizer = AdamW(base.parameters(), lr=preset.base_lr, betas=(0.9, 0.99))
    for images_seen in range(0, images, preset.base_batch):
        rng = seeded_generator(0, "tune", images_seen)
        indices = torch.randint(len(dataset), (preset.base_batch,), generator=rng)
        text_conditions = torch.rand(len(indices), generator=rng) >= preset.caption_dropout
        texts = [
            dataset.captions[index] if keeps_caption else ""
            for index, keeps_caption in zip(indices.tolist(), text_conditions.tolist(), strict=True)
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
        optimizer.param_groups[0]["lr"] = preset.base_lr * lr_factor(images_seen, images)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(base.parameters(), 1.0)
        optimizer.step()
        decay = min(preset.ema_decay, (1 + images_seen) / (10 * preset.base_batch + images_seen))
        for mean, weight in zip(averaged.parameters(), base.parameters(), strict=True):
            mean.data.lerp_(weight.data, 1 - decay)
    base.load_state_dict(averaged.state_dict())
    base.eval().requires_grad_(False)


@torch.no_grad()
def noise_mse(variant: Variant, dataset: LayerDataset) -> Tensor:
    """Return the base's error on held-out latents, by channel, at fixed noise levels with fixed noise."""
    clean_BCHW, schedule = (
        variant.base.normalize(encode_all(variant, dataset)),
        variant.base.schedule(),
    )
    conditions, errors = variant.base.encode(dataset.captions), []
    for level in LEVELS:
        noise_BCHW = torch.randn(clean_BCHW.shape, generator=seeded_generator(level, "controls", 0))
        time_B = torch.full((len(clean_BCHW),), level)
        predicted = variant.base.predict(
            schedule.add_noise(clean_BCHW, noise_BCHW, time_B), time_B, conditions
        )
        errors.append(
            (predicted - schedule.get_velocity(clean_BCHW, noise_BCHW, time_B))
            .square()
            .mean((0, 2, 3))
        )
    return torch.stack(errors).mean(0)


@torch.no_grad()
def draw(variant: Variant, texts: list[str], preset: Preset) -> Tensor:
    """Generate straight RGBA by DDIM with guidance, from noise whose first channels are equal for all variants."""
    side, channels = preset.image_size // preset.stride, len(variant.base.centre)
    text_conditions, free, schedule = (
        variant.base.encode(texts),
        variant.base.encode([""] * len(texts)),
        variant.base.schedule(),
    )
    noises = [
        torch.randn(
            len(texts), preset.latent_channels, side, side, generator=seeded_generator(0, "draw", k)
        )
        for k in range(2)
    ]
    latent_BCHW = torch.cat(noises, dim=1)[:, :channels]
    schedule.set_timesteps(preset.draw_steps)
    for time_step in schedule.timesteps:
        time_B = time_step.expand(len(texts))
        with_text, without = (
            variant.base.predict(latent_BCHW, time_B, condition)
            for condition in (text_conditions, free)
        )
        latent_BCHW = schedule.step(
            without + preset.guidance * (with_text - without), time_step, latent_BCHW
        ).prev_sample
    return variant.decode(variant.base.denormalize(latent_BCHW)).clamp(0, 1)


def frechet(generated_B4HW: Tensor, real_B4HW: Tensor) -> float:
    """Return the Frechet distance of the power in 12 bands of spatial frequency of each channel, in dB.

    It is computed on premultiplied RGBA without a network; it detects blocks and grain, and ignores the subject.
    """
    (m1, c1), (m2, c2) = (
        (x.mean(0), torch.cov(x.T)) for x in (bands(generated_B4HW), bands(real_B4HW))
    )
    return float(
        (m1 - m2).square().sum() + torch.trace(c1 + c2) - 2 * sqrtm((c1 @ c2).numpy()).real.trace()
    )


def bands(rgba_B4HW: Tensor) -> Tensor:
    """Return B x 48: the power in bands of the discrete cosine transform, in dB."""
    power_B4HW = torch.from_numpy(
        dctn(premultiplied(rgba_B4HW).double().numpy(), axes=(2, 3), norm="ortho") ** 2
    )
    side = torch.arange(rgba_B4HW.shape[-1])
    band_HW = ((side[:, None] ** 2 + side**2).sqrt() / side[-1] * 12).long().clamp(max=11)
    mean_B4N = torch.stack(
        [power_B4HW[:, :, band_HW == band].mean(-1) for band in range(12)], dim=-1
    )
    return 10 * torch.log10(mean_B4N + 1e-6).flatten(1)


def on_gray(rgba_B4HW: Tensor) -> Tensor:
    """Return the image over mid-gray, in [-1, 1]."""
    return over_gray(rgba_B4HW[:, :3], rgba_B4HW[:, 3:])


def with_alpha(rgba_B4HW: Tensor) -> Tensor:
    """Return premultiplied color in [-1, 1] and alpha in [0, 1]."""
    return torch.cat([on_gray(rgba_B4HW), rgba_B4HW[:, 3:]], dim=1)


def premultiplied(rgba_B4HW: Tensor) -> Tensor:
    """Return premultiplied color and alpha, both in [0, 1]."""
    return torch.cat([rgba_B4HW[:, :3] * rgba_B4HW[:, 3:], rgba_B4HW[:, 3:]], dim=1)


def unmultiply(image_B3HW: Tensor, alpha_B1HW: Tensor) -> Tensor:
    """Return straight RGBA in [0, 1] from color over mid-gray in [-1, 1] and alpha."""
    alpha_B1HW = alpha_B1HW.clamp(0, 1)
    return torch.cat(
        [(image_B3HW / alpha_B1HW.clamp_min(1e-3) / 2 + 0.5).clamp(0, 1), alpha_B1HW], dim=1
    )


def lr_factor(images_seen: int, images: int) -> float:
    """Return the learning rate's factor: a short warm-up, and a decay to zero over the last 30 %."""
    return min(1.0, (images_seen + 32) / 500, (images - images_seen) / (0.3 * images))


if __name__ == "__main__":
    main()
