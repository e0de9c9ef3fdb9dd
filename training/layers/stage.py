"""The training stage of layers: pairs are denoised together, with adapters per role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.data.layer_set_dataset import LayerSetDataset
from training.denoiser.cache import LatentCache, TextEmbeddingCache
from training.denoiser.denoiser import Conditions
from training.denoiser.denoising_stage import DenoisingStage, denoising_target
from training.draw_batches import to_layers
from training.engine.batch import Batch
from training.engine.optimizers import build_optimizer
from training.engine.schedule import StageSchedule
from training.layers.model import LayeredDenoiser
from training.layers.sampling import LayerRequest, sample_layers
from training.presets.preset import Preset
from training.pretrained.families import find_family
from training.sample_grid import render_grid
from training.transparency.autoencoder import Autoencoder
from training.transparency.codec import decode_rgba
from training.transparency.networks import Transparency

STAGE = "layers"
GRID_IMAGES = 4  # images in a sample grid, each with all its layers
GIVABLE_ROLES = 2  # the first two roles may be given: foreground and background


class LayersStage(DenoisingStage):
    """Trains adapters to predict noise, or v, of all layers of an image together (section 3.3).

    The loss is the mean square over eps_m = [eps_f, eps_b] of an image. All its layers have the
    same noise level, as in sampling. In some pairs one layer is given: it enters as its clean
    latent at timestep 0, which the base knows as almost noiseless, and its error does not count
    (the paper's eps_f = 0). Only adapters are trained.
    """

    name = STAGE

    def __init__(
        self,
        preset: Preset,
        layered: LayeredDenoiser,
        layer_sets: LayerSetDataset,
        latents: LatentCache,
        texts: TextEmbeddingCache | None,
        autoencoder: Autoencoder,
        transparency: Transparency,
    ) -> None:
        """Create the stage.

        Args:
            preset: The preset.
            layered: The base with the adapters to train.
            layer_sets: The training layer sets.
            latents: The latents of `layer_sets.layers`.
            texts: Embeddings by a pretrained model's text encoders; None for the base's own.
            autoencoder: The autoencoder, for sample grids.
            transparency: Its decoder is used for sample grids.
        """
        super().__init__()
        self.preset, self.layered, self.layer_sets = preset, layered, layer_sets
        self.latents, self.texts = latents, texts
        self.schedule = StageSchedule(preset.layers_images, preset.layers_batch, preset.ema_decay)
        self.learning_rate = preset.layers_lr
        self.noise_schedule = layered.denoiser.schedule()
        # In a tuple, so that frozen networks do not become submodules.
        self._frozen_networks = (autoencoder, transparency.decoder)

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Build the preset's optimizer over the adapters."""
        parameters = self.layered.adapters.parameters()
        betas = (self.preset.beta1, self.preset.beta2)
        return {
            "optimiser": build_optimizer(
                self.preset.optimizer, parameters, self.learning_rate, betas=betas
            )
        }

    @property
    def network(self) -> LayeredDenoiser:
        """The base with the adapters."""
        return self.layered

    def readable_indices(self, images: Sequence[int]) -> list[int]:
        """Replace unreadable layer sets by others of their size and roles. Raises Corrupt."""
        return self.layer_sets.readable_indices(images)

    def make_rows(
        self, images: Sequence[int], local: Sequence[int], count: int, rng: torch.Generator
    ) -> Batch:
        """Make rows of layer sets: latents, noise, timestep, given layer and texts.

        All layer sets of a step have the same roles. Captions are dropped for all layers of an
        image at once, as in sampling.

        Args:
            images: Indices of the layer sets.
            local: The position of each in the global batch.
            count: Positions of the global batch.
            rng: The step's random number generator, equal in all processes.
        """
        # The latents of all layers, one axis for images and one for layers.
        preset, roles = self.preset, self.layer_sets.roles[images[0]]
        layers = [row for index in images for row in self.layer_sets.layer_indices[index]]
        mean_BCHW, std_BCHW = self.latents.get(layers)
        shape = (count, len(roles), *mean_BCHW.shape[1:])
        mean_PLCHW, std_PLCHW = (part.view(-1, *shape[1:]) for part in (mean_BCHW, std_BCHW))
        # Random numbers are drawn for the global batch, so that the order of draws is fixed.
        dropped_P = (torch.rand(count, generator=rng) < preset.caption_dropout)[local]
        time_P = torch.randint(len(self.noise_schedule.alphas_cumprod), (count,), generator=rng)[
            local
        ]
        noise_PLCHW = torch.randn(shape, generator=rng)[local]
        given_P = (torch.rand(count, generator=rng) < preset.given_layer_prob)[local]
        which_P = torch.randint(GIVABLE_ROLES, (count,), generator=rng)[local]
        # At most one layer is given, and only where there is another one to generate.
        known_PL = (
            (which_P[:, None] == torch.arange(len(roles))) & given_P[:, None] & (len(roles) > 1)
        )
        if preset.posterior_noise:
            mean_PLCHW = mean_PLCHW + std_PLCHW * torch.randn(shape, generator=rng)[local]
        captions = [
            [""] * len(roles) if drop else self.layer_sets.captions(index)
            for index, drop in zip(images, dropped_P, strict=True)
        ]
        per_set = {"time": time_P, "known": known_PL, "roles": [roles] * len(images)}
        rows: Batch = {"latent": mean_PLCHW, "noise": noise_PLCHW, **per_set}
        if self.texts is None:
            return {**rows, "texts": captions}
        return {**rows, "conditions": self._conditions(self.texts, captions, layers)}

    def errors(self, batch: Batch, network: LayeredDenoiser) -> Tensor:
        """Compute the mean squared error of the layers of each image that are not given."""
        noise_PLCHW, known_PL, roles = batch["noise"], batch["known"], batch["roles"][0]
        clean_PLCHW = network.denoiser.normalize(batch["latent"].flatten(0, 1)).view_as(noise_PLCHW)
        # Flatten images and layers to rows; all layers of an image have its timestep.
        time_PL = batch["time"][:, None].expand_as(known_PL)
        noise_BCHW, clean_BCHW, time_B = (
            each.flatten(0, 1) for each in (noise_PLCHW, clean_PLCHW, time_PL)
        )
        known_B = known_PL.flatten()
        # Given layers stay clean, and enter at timestep 0.
        noisy_BCHW = self.noise_schedule.add_noise(clean_BCHW, noise_BCHW, time_B)
        noisy_BCHW = torch.where(known_B[:, None, None, None], clean_BCHW, noisy_BCHW)
        predicted_BCHW = network.predict(
            noisy_BCHW, torch.where(known_B, 0, time_B), self._flat_conditions(batch), roles
        )
        target_BCHW = denoising_target(self.noise_schedule, clean_BCHW, noise_BCHW, time_B)
        error_PL = (predicted_BCHW.float() - target_BCHW).square().mean((1, 2, 3)).view_as(time_PL)
        # Average over the layers that count, then over images.
        counted_PL = (~known_PL).float()
        error_P: Tensor = (error_PL * counted_PL).sum(1) / counted_PL.sum(1)
        return error_P

    def render_sample_grid(self, batch: Batch) -> bytes:
        """Generate the first captions at fixed seeds: a row per role, joined and then separate."""
        del batch  # the grid is the same at every interval
        complete = [index for index, roles in enumerate(self.layer_sets.roles) if len(roles) > 1]
        indices = complete[:GRID_IMAGES]
        roles = self.layer_sets.roles[indices[0]]
        captions = [self.layer_sets.captions(index) for index in indices]
        requests = [
            [LayerRequest(role, text) for role, text in zip(roles, texts, strict=True)]
            for texts in captions
        ]
        grid = []
        for joined in (True, False):
            latent_PLCHW = sample_layers(
                self.layered, self.preset, requests, list(range(len(indices))), joint=joined
            )
            for latent_BCHW in latent_PLCHW.unbind(1):
                # Decoded one at a time to limit memory.
                restored_BCHW = self.layered.denoiser.denormalize(latent_BCHW)
                decoded = [self._decode(latent) for latent in torch.split(restored_BCHW, 1)]
                grid.append(to_layers(torch.cat(decoded)))
        return render_grid(grid, [list(texts) for texts in zip(*captions, strict=True)] * 2)

    def core_modules(self) -> Sequence[nn.Module]:
        """Return the denoising network, which does most of the work although it is frozen."""
        return (getattr(self.layered.denoiser, "unet" if self.texts is not None else "network"),)

    def frozen_modules(self) -> Sequence[nn.Module]:
        """Return the networks of sample grids and a pretrained model's text encoders."""
        return (*self._frozen_networks, *getattr(self.layered.denoiser, "texts", ()))

    def _conditions(
        self, cache: TextEmbeddingCache, captions: list[list[str]], layers: list[int]
    ) -> Conditions:
        """Return a pretrained base's conditions with the axes image and layer."""
        count = len(captions[0])
        conditions = cache.get([text for texts in captions for text in texts])
        if find_family(str(self.preset.family)).sizes:
            conditions = replace(
                conditions, sizes_B6=self.layer_sets.layers.size_conditions(layers)
            )
        return conditions.map(lambda _, tensor: tensor.view(-1, count, *tensor.shape[1:]))

    def _flat_conditions(self, batch: Batch) -> Conditions:
        """Return the conditions of all layers as rows."""
        if "conditions" in batch:
            flat: Conditions = batch["conditions"].map(lambda _, tensor: tensor.flatten(0, 1))
            return flat
        with torch.no_grad():
            return self.layered.denoiser.encode(
                [text for texts in batch["texts"] for text in texts]
            )

    def _decode(self, latent_1CHW: Tensor) -> Tensor:
        return decode_rgba(*self._frozen_networks, latent_1CHW)
