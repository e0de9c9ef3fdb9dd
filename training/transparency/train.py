"""Training of latent transparency: encoder and decoder around a frozen autoencoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from curation.domain import Split, TrainingRequest
from curation.ports import RGBA, ObjectStore, ProgressCallback
from training.data.buckets import BucketSampler, Sampler, bucket_config
from training.data.dataset import LayerDataset
from training.data.sampler import build_sampler
from training.data.splits import heldout_images, open_split
from training.engine.batch import Batch
from training.engine.distributed import DistributedContext, full_tensor
from training.engine.optimizers import build_optimizer
from training.engine.schedule import StageSchedule
from training.engine.trainer import TrainerContext, TrainingStage, fit
from training.metrics.compositing import composite_metrics
from training.presets.preset import Preset
from training.sample_grid import render_grid, to_uint8_images
from training.transparency.autoencoder import Autoencoder
from training.transparency.codec import reconstruct
from training.transparency.losses import discriminator_loss
from training.transparency.networks import Transparency, open_transparency
from training.transparency.objective import TransparencyObjective, blend_on_solid_colors
from training.transparency.padding import pad_colors

STAGE = "transparency"
GRID_IMAGES = 8  # images in a sample grid
PADDED_CACHE_BYTES = 1 << 30  # of padded colors in memory: 21,000 images of 64 pixels, 1,300 of 256


def train_transparency(
    request: TrainingRequest,
    preset: Preset,
    store: ObjectStore,
    folder: Path,
    report: ProgressCallback,
    autoencoder: Autoencoder,
    start: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Train latent transparency (section 3.1) on the snapshot's train split.

    Pairs contribute their foregrounds and, by the preset's `transparency_opaque`, their opaque
    layers. Training resumes from the last saved state in `folder`, and the result is bit-identical
    to an uninterrupted run.

    Args:
        request: The training request.
        preset: The preset.
        store: The store of snapshots and images.
        folder: The folder of the run's state.
        report: The progress callback; an exception from it stops the training.
        autoencoder: The frozen autoencoder.
        start: The tensors to start from, or None.

    Returns:
        The averaged weights.

    Raises:
        Refused: `start` does not fit the preset; and as `fit`.
    """
    # The data: the split's layers, and the sampling order.
    ctx = DistributedContext(preset)
    step = ctx.global_batch_size(preset.transparency_batch)
    buckets = bucket_config(preset, step, folder.parent / "cache" / "sizes")
    memory = preset.in_memory
    opaque, size = preset.transparency_opaque, preset.image_size
    roles = preset.trained_roles(opaque)
    dataset = open_split(
        store, request.snapshot, Split.train, size, in_memory=memory, buckets=buckets, roles=roles
    )
    draws: Sampler = build_sampler(
        store,
        dataset,
        request.previous,
        preset.new_sample_weight,
        request.seed,
        opaque_weight=opaque,
        real_share=preset.real_share,
    )
    draws = BucketSampler(draws, dataset.shapes, step) if buckets else draws

    # The networks: new ones from the seed, or the parent's.
    torch.manual_seed(request.seed)
    networks = (
        Transparency(preset)
        if start is None
        else open_transparency(preset, start).train().requires_grad_(True)
    )
    shown = heldout_images(store, request.snapshot, size, GRID_IMAGES)
    shown_B4HW = shown.load_batch(range(len(shown))) if len(shown) else None
    stage = TransparencyStage(preset, networks, dataset, autoencoder, shown_B4HW)
    fit(stage, TrainerContext(request, preset, ctx, dataset.samples, draws, folder, report))
    return {
        name: full_tensor(tensor.detach()).cpu().clone()
        for name, tensor in networks.state_dict().items()
    }


class TransparencyStage(TrainingStage):
    """Training stage that hides alpha in a latent and recovers it (section 3.1)."""

    name = STAGE

    def __init__(
        self,
        preset: Preset,
        networks: Transparency,
        dataset: LayerDataset,
        autoencoder: Autoencoder,
        shown_B4HW: Tensor | None = None,
    ) -> None:
        """Make the stage.

        Args:
            preset: The preset.
            networks: The networks to train.
            dataset: The dataset.
            autoencoder: The frozen autoencoder.
            shown_B4HW: Held-out images, straight RGBA in [0, 1], for sample grids and validation,
                or None.
        """
        super().__init__()
        self.shown_B4HW = shown_B4HW
        self.preset, self.networks, self.images = preset, networks, dataset
        self.schedule = StageSchedule(
            preset.transparency_images, preset.transparency_batch, preset.transparency_ema
        )
        self.objective = TransparencyObjective(preset, autoencoder)
        # Without a weight it must not be a submodule: DDP waits for every parameter's gradient.
        self.discriminator = self.objective.discriminator if preset.discriminator_weight else None
        # Padding takes a thread longer than a GPU's training step, so use several; on the CPU with
        # images in memory there are no threads to spare.
        alone = preset.in_memory and not torch.cuda.is_available()
        self.readers = None if alone else ThreadPoolExecutor(preset.workers, "decode")
        # Padding is three quarters of the loading time, and its result is the same every epoch.
        self.padded_cache: dict[int, Tensor] = {}

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Build an optimizer for the networks, and one without clipping for the discriminator."""
        name, rate = self.preset.optimizer, self.preset.transparency_lr
        betas = (self.preset.beta1, self.preset.beta2)
        built = {"optimiser": build_optimizer(name, self.networks.parameters(), rate, betas=betas)}
        if self.discriminator is not None:
            built["judge_optimiser"] = build_optimizer(
                name, self.discriminator.parameters(), rate, betas=(0.5, 0.9), max_grad_norm=0
            )
        return built

    def make_batch(
        self, indices: Sequence[int], local_rows: Sequence[int], rng: torch.Generator
    ) -> Batch:
        """Make a batch of images with padded color, half of them mirrored, and which keep their
        offset.

        Args:
            indices: The dataset indices of the global batch.
            local_rows: The rows of it that belong to this process.
            rng: The generator of the random choices, which are drawn for the global batch.
        """
        # Draw for the global batch on every process, so that the number of processes has no effect.
        flips = (torch.rand(len(indices), generator=rng) < 0.5)[local_rows]
        keep_B = (torch.rand(len(indices), generator=rng) >= self.preset.offset_dropout).float()[
            local_rows
        ]
        # Read and pad this process's images, in threads where they help.
        read = map if self.readers is None else self.readers.map
        pairs = list(read(self._prepare, [indices[row] for row in local_rows], flips.tolist()))
        rgba_B4HW, padded_B3HW = (torch.stack(tensors) for tensors in zip(*pairs, strict=True))
        # Blend a share of the images on solid colors, which makes them opaque.
        if share := self.preset.solid_share:
            chosen_B = (torch.rand(len(indices), generator=rng) < share)[local_rows]
            below_B3 = torch.rand(len(indices), 3, generator=rng)[local_rows]
            alpha_B1HW, padded_B3HW = blend_on_solid_colors(
                rgba_B4HW[:, 3:], padded_B3HW, chosen_B, below_B3
            )
            solid_B4HW = torch.cat([padded_B3HW, alpha_B1HW], dim=1)
            rgba_B4HW = torch.where(chosen_B[:, None, None, None], solid_B4HW, rgba_B4HW)
        return {"rgba": rgba_B4HW, "padded": padded_B3HW, "keep": keep_B}

    def forward(self, rows: Batch, seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute L_vae plus the discriminator's own loss.

        Neither has gradients for the other's networks.
        """
        with _frozen(self.discriminator):
            loss = self.objective.loss(
                self.networks, rows["rgba"][:, 3:], rows["padded"], rows["keep"], seen
            )
        if self.discriminator is None or "fooling" not in loss.terms:
            return loss.total, loss.terms
        discriminator = discriminator_loss(
            self.discriminator(*loss.truth), self.discriminator(*loss.drawn)
        )
        return loss.total + discriminator, {**loss.terms, "discriminator": discriminator}

    def core_modules(self) -> Sequence[nn.Module]:
        """Return encoder and decoder."""
        return (self.networks.encoder, self.networks.decoder)

    def ema_module(self) -> nn.Module:
        """Return the networks without the discriminator, which is not stored."""
        return self.networks

    def render_sample_grid(self, rows: Batch) -> bytes:
        """Render the first held-out images, or else training images, and their reconstructions."""
        shown_B4HW = self.shown_B4HW if self.shown_B4HW is not None else rows["rgba"][:GRID_IMAGES]
        return render_grid(
            reconstruction_rows(
                self.objective.autoencoder, self.networks, self._to_device(shown_B4HW)
            )
        )

    def validate(self) -> dict[str, float]:
        """Measure the PSNR (dB, mean over nine backgrounds) of the first held-out images."""
        if self.shown_B4HW is None:
            return {}
        truth_B4HW = self._to_device(self.shown_B4HW)
        reconstructed_B4HW = reconstruct(self.objective.autoencoder, self.networks, truth_B4HW)
        return {
            "psnr": float(
                torch.stack(
                    list(composite_metrics(truth_B4HW, reconstructed_B4HW)["psnr"].values())
                ).mean()
            )
        }

    def _to_device(self, rgba_B4HW: Tensor) -> Tensor:
        return rgba_B4HW.to(next(self.networks.parameters()).device)

    def frozen_modules(self) -> Sequence[nn.Module]:
        """Return the autoencoder and the perceptual network."""
        return self.objective.frozen_modules()

    def _prepare(self, index: int, flip: bool) -> tuple[Tensor, Tensor]:
        """Read an image with padded color, mirrored if `flip`."""
        index, rgba_4HW = self.images.read_or_replace(index)
        padded_3HW = self._pad(index, rgba_4HW)
        return (rgba_4HW.flip(2), padded_3HW.flip(2)) if flip else (rgba_4HW, padded_3HW)

    def _pad(self, index: int, rgba_4HW: Tensor) -> Tensor:
        """Pad the colors of an image, cached in memory up to PADDED_CACHE_BYTES."""
        if index in self.padded_cache:
            return self.padded_cache[index]
        padded_3HW = pad_colors(rgba_4HW[None])[0]
        if (
            self.preset.in_memory
            and (len(self.padded_cache) + 1) * padded_3HW.nbytes <= PADDED_CACHE_BYTES
        ):
            self.padded_cache[index] = padded_3HW
        return padded_3HW


@contextmanager
def _frozen(judge: nn.Module | None) -> Iterator[None]:
    """Compute without gradients for the discriminator's weights."""
    if judge is not None:
        judge.requires_grad_(False)
    try:
        yield
    finally:
        if judge is not None:
            judge.requires_grad_(True)


def reconstruction_rows(
    autoencoder: Autoencoder, networks: Transparency, rgba_B4HW: Tensor
) -> list[list[RGBA]]:
    """Return two rows of images: the originals and their reconstructions."""
    return [
        to_uint8_images(rgba_B4HW),
        to_uint8_images(reconstruct(autoencoder, networks, rgba_B4HW)),
    ]
