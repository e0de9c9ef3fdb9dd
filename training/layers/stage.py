"""The recipe of layers: pairs denoised together by adapters of their roles, each layer to fit the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.data.layer_set_dataset import LayerSetDataset
from training.denoiser.cache import ConditionsCache, LatentCache
from training.denoiser.denoiser import Conditions
from training.denoiser.stage import denoising_target, loss_weight
from training.draw_batches import as_layers
from training.engine.batch import Rows
from training.engine.optimizers import build_optimiser
from training.engine.schedule import LRSchedule
from training.engine.trainer import TrainingStage
from training.layers.model import LayeredDenoiser
from training.layers.sampling import LayerRequest, sample_layers
from training.presets.preset import Preset
from training.pretrained.families import find_family
from training.sample_grid import draw_sheet
from training.transparency.autoencoder import Autoencoder
from training.transparency.codec import decode_rgba
from training.transparency.networks import Transparency

STAGE = "layers"
SHEET = 4  # pictures on a sample sheet, each in all its layers
GIVEN = 2  # of the roles, the first two may be given: foreground and background


class LayersStage(TrainingStage):
    """To predict what was added to each layer of a picture, or v, from all of them and their texts (section 3.3).

    The loss is the mean square over eps_m = [eps_f, eps_b] of a picture. All its layers are at one noise level, as in
    drawing. Of some pairs one layer is known: it enters as its clean latent in place of noise, at time 0, which is what
    the base knows as hardly noisy, and its own error does not count (the paper's eps_f = 0). Only adapters learn.
    """

    stage = STAGE

    def __init__(
        self,
        preset: Preset,
        layered: LayeredDenoiser,
        pictures: LayerSetDataset,
        latents: LatentCache,
        texts: ConditionsCache | None,
        backbone: Autoencoder,
        transparency: Transparency,
    ) -> None:
        """latents: of `pictures.layers`; texts: those of a pretrained model's encoders, else the base's own speaks."""
        super().__init__()
        self.preset, self.layered, self.pictures, self.latents, self.texts = (
            preset,
            layered,
            pictures,
            latents,
            texts,
        )
        self.pace = LRSchedule(preset.layers_images, preset.layers_batch, preset.ema_decay)
        self.schedule = layered.denoiser.schedule()
        self._beside = (
            backbone,
            transparency.decoder,
        )  # in a tuple: networks that never learn are none of its parts

    def build_optimisers(self) -> dict[str, Optimizer]:
        """Return the optimiser that the preset names, over the adapters alone."""
        parameters = self.layered.adapters.parameters()
        betas = (self.preset.beta1, self.preset.beta2)
        return {
            "optimiser": build_optimiser(
                self.preset.optimiser, parameters, self.preset.layers_lr, betas=betas
            )
        }

    def lay_out(self, places: Sequence[int], mine: Sequence[int], rng: torch.Generator) -> Rows:
        """A row is a picture: its layers' latents and noise, one time, which layer is known, and the layers' texts.

        All pictures of a step have the same roles. Captions are dropped of all layers at once, as in drawing.
        """
        preset, count = self.preset, len(places)
        chosen = self.pictures.sound([places[row] for row in mine])
        roles = self.pictures.roles[chosen[0]]
        layers = [row for place in chosen for row in self.pictures.rows[place]]
        mean_BCHW, std_BCHW = self.latents.take(layers)
        shape = (count, len(roles), *mean_BCHW.shape[1:])
        mean_PLCHW, std_PLCHW = (part.view(-1, *shape[1:]) for part in (mean_BCHW, std_BCHW))
        dropped_P = (torch.rand(count, generator=rng) < preset.caption_dropout)[mine]
        time_P = torch.randint(len(self.schedule.alphas_cumprod), (count,), generator=rng)[mine]
        noise_PLCHW = torch.randn(shape, generator=rng)[mine]
        given_P = (torch.rand(count, generator=rng) < preset.known_share)[mine]
        which_P = torch.randint(GIVEN, (count,), generator=rng)[mine]
        known_PL = (
            (which_P[:, None] == torch.arange(len(roles))) & given_P[:, None] & (len(roles) > 1)
        )
        if preset.posterior_noise:
            mean_PLCHW = mean_PLCHW + std_PLCHW * torch.randn(shape, generator=rng)[mine]
        captions = [
            [""] * len(roles) if drop else self.pictures.captions(place)
            for place, drop in zip(chosen, dropped_P, strict=True)
        ]
        told = {"time": time_P, "known": known_PL, "roles": [roles] * len(chosen)}
        rows: Rows = {"latent": mean_PLCHW, "noise": noise_PLCHW, **told}
        if self.texts is None:
            return {**rows, "texts": captions}
        return {**rows, "conditions": self._conditions(self.texts, captions, layers)}

    def forward(self, rows: Rows, seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over pictures of the mean square over a picture's layers that are not known."""
        del seen
        noise_PLCHW, known_PL, roles = rows["noise"], rows["known"], rows["roles"][0]
        clean_PLCHW = self.layered.denoiser.normalise(rows["latent"].flatten(0, 1)).view_as(
            noise_PLCHW
        )
        time_PL = rows["time"][:, None].expand_as(known_PL)
        noise_BCHW, clean_BCHW, time_B = (
            each.flatten(0, 1) for each in (noise_PLCHW, clean_PLCHW, time_PL)
        )
        known_B = known_PL.flatten()
        noisy_BCHW = self.schedule.add_noise(clean_BCHW, noise_BCHW, time_B)
        noisy_BCHW = torch.where(known_B[:, None, None, None], clean_BCHW, noisy_BCHW)
        predicted_BCHW = self.layered.predict(
            noisy_BCHW, torch.where(known_B, 0, time_B), self._told(rows), roles
        )
        wanted_BCHW = denoising_target(self.schedule, clean_BCHW, noise_BCHW, time_B)
        error_PL = (predicted_BCHW.float() - wanted_BCHW).square().mean((1, 2, 3)).view_as(time_PL)
        counted_PL = (~known_PL).float()
        error_P = (error_PL * counted_PL).sum(1) / counted_PL.sum(1)
        level_P = self.schedule.alphas_cumprod[rows["time"]]
        weight_P = loss_weight(self.schedule.config.prediction_type, self.preset.snr_gamma, level_P)
        loss = (weight_P * error_P).mean()
        return loss, {"denoising": loss, "error": error_P.mean()}

    def draw_sheet(self, rows: Rows) -> bytes:
        """The first pictures' texts, drawn at fixed seeds: a row for each role, together and then apart."""
        del rows
        places = [place for place, roles in enumerate(self.pictures.roles) if len(roles) > 1][
            :SHEET
        ]
        roles = self.pictures.roles[places[0]]
        captions = [self.pictures.captions(place) for place in places]
        wishes = [
            [LayerRequest(role, text) for role, text in zip(roles, texts, strict=True)]
            for texts in captions
        ]
        sheet = []
        for joined in (True, False):
            latent_PLCHW = sample_layers(
                self.layered, self.preset, wishes, list(range(len(places))), joined=joined
            )
            for latent_BCHW in latent_PLCHW.unbind(1):
                restored_BCHW = self.layered.denoiser.restore(latent_BCHW)
                sheet.append(
                    as_layers(
                        torch.cat([self._decode(one) for one in torch.split(restored_BCHW, 1)])
                    )
                )
        return draw_sheet(sheet, [list(texts) for texts in zip(*captions, strict=True)] * 2)

    def cores(self) -> Sequence[nn.Module]:
        """The network that denoises, which does most of the work although it does not learn."""
        return (getattr(self.layered.denoiser, "unet" if self.texts is not None else "network"),)

    def frozen(self) -> Sequence[nn.Module]:
        """The backbone and the decoder that sheets are drawn with, and a pretrained model's text encoders."""
        return (*self._beside, *getattr(self.layered.denoiser, "texts", ()))

    def _conditions(
        self, cache: ConditionsCache, captions: list[list[str]], layers: list[int]
    ) -> Conditions:
        """What a pretrained base is told, by picture and layer."""
        count = len(captions[0])
        told = cache.take([text for texts in captions for text in texts])
        if find_family(str(self.preset.family)).sizes:
            told = replace(told, sizes_B6=self.pictures.layers.sizes(layers))
        return told.map(lambda _, tensor: tensor.view(-1, count, *tensor.shape[1:]))

    def _told(self, rows: Rows) -> Conditions:
        if "conditions" in rows:
            told: Conditions = rows["conditions"].map(lambda _, tensor: tensor.flatten(0, 1))
            return told
        with torch.no_grad():
            return self.layered.denoiser.encode([text for texts in rows["texts"] for text in texts])

    def _decode(self, latent_1CHW: Tensor) -> Tensor:
        return decode_rgba(*self._beside, latent_1CHW)
