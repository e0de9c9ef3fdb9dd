"""Stable Diffusion as the denoiser of adjusted latents: 1.5, 2.1, XL and their fine-tuned kin, through diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn

from curation.errors import Refused
from training.denoiser.denoiser import Conditions, Denoiser
from training.denoiser.finetuned_weights import (
    add_adapter,
    learning,
    learnt_of,
    replace_learnt,
    teach,
)
from training.presets.preset import Preset
from training.pretrained.families import Family, check_family, find_family
from training.pretrained.loading import load_config, load_pipeline


class StableDiffusion(Denoiser):
    """A pretrained UNet with its text encoders, which are never trained and never stored.

    Trained are all weights of the UNet (kind "weights"), as in the paper's section 3.2, or, where the preset has an
    adapter_rank, a LoRA on its attentions (kind "adapter"), as in its release. `pipeline` is the diffusers pipeline
    of the same parts, without an autoencoder. Weights that learn are float32; a UNet that an adapter leaves frozen is
    in the preset's precision, which autocast would take it to in every step anew.
    """

    def __init__(
        self,
        preset: Preset,
        stored: tuple[Mapping[str, Tensor], Mapping[str, str]] | None = None,
        *,
        taught: Any = None,
    ) -> None:
        """taught: a pipeline to draw with that is loaded, and has learnt what is stored, already.

        Raises NotFound, Refused for the model; RuntimeError where what is stored does not fit it.
        """
        super().__init__()
        self.preset, self.family = preset, _family(preset)
        assert preset.model is not None  # noqa: S101 - _family has looked
        check_family(preset.model, self.family)
        self.pipeline = taught or load_pipeline(
            preset.model, self.family.pipeline, preset.variant, dtype=torch.float32
        )
        self.unet = self.pipeline.unet
        self.texts = nn.ModuleList(
            self.pipeline.components[name] for name in self.family.text_encoders
        )
        latents = load_config(AutoencoderKL, preset.model, "vae")
        self.scaling, self.shift = (
            float(latents["scaling_factor"]),
            float(latents.get("shift_factor") or 0),
        )
        self.adapter = {"rank": str(preset.adapter_rank), "alpha": str(preset.adapter_rank)}
        self.kind = "adapter" if preset.adapter_rank and not taught else "weights"
        if stored:
            self.kind = teach(self.unet, *stored)
            self.adapter |= {
                name: stored[1][name] for name in ("rank", "alpha") if name in stored[1]
            }
        elif self.kind == "adapter":
            add_adapter(self.unet, preset.adapter_rank, preset.adapter_rank)
        self.settle().train(False)

    def settle(self) -> Self:
        """Let learn what is trained, and give the rest the type that it has in every step."""
        self.requires_grad_(True)
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.preset.precision)
        if half and self.kind == "adapter" and not self.preset.sharded:  # shards are of one type
            for parameter in self.unet.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(half)
        return self

    @torch.no_grad()
    def encode(self, texts: Sequence[str], sizes_B6: Tensor | None = None) -> Conditions:
        """As the model's own pipeline does it; "" is what it takes for no prompt, which for SDXL is zeros.

        sizes: SDXL's original height and width, crop top and left, target height and width, in pixels; without them
        the preset's square, uncropped.
        """
        device = next(self.unet.parameters()).device
        told: Any = self.pipeline.encode_prompt(
            list(texts), device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if not self.family.sizes:
            return Conditions(told[0])
        states_BLD, pooled_BP = told[0], told[2]
        if self.pipeline.config.force_zeros_for_empty_prompt:
            said_B = torch.tensor([bool(text) for text in texts], device=device)
            states_BLD, pooled_BP = states_BLD * said_B[:, None, None], pooled_BP * said_B[:, None]
        if sizes_B6 is None:
            side = float(self.preset.image_size)
            sizes_B6 = torch.tensor([side, side, 0, 0, side, side]).repeat(len(texts), 1)
        return Conditions(
            states_BLD, pooled_BP=pooled_BP, sizes_B6=sizes_B6.to(device, torch.float32)
        )

    def predict(self, noisy_BCHW: Tensor, time_B: Tensor, conditions: Conditions) -> Tensor:
        """The UNet's prediction, in the type of `noisy`."""
        dtype = next(self.unet.parameters()).dtype
        more = None
        if conditions.pooled_BP is not None:
            more = {"text_embeds": conditions.pooled_BP.to(dtype), "time_ids": conditions.sizes_B6}
        predicted: Tensor = self.unet(
            noisy_BCHW.to(dtype),
            time_B,
            encoder_hidden_states=conditions.states_BLD.to(dtype),
            added_cond_kwargs=more,
            return_dict=False,
        )[0]
        return predicted.to(noisy_BCHW.dtype)

    def normalise(self, latent_BCHW: Tensor) -> Tensor:
        """By the autoencoder's own shift and scale: (latent - shift) * scaling_factor."""
        return (latent_BCHW - self.shift) * self.scaling

    def restore(self, normal_BCHW: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return normal_BCHW / self.scaling + self.shift

    def schedule(self) -> Any:
        """The model's own noise levels and prediction, where the preset does not overrule them. Raises Refused."""
        build: Any = DDIMScheduler.from_config
        options = {"timestep_spacing": "trailing", "clip_sample": False, "thresholding": False}
        return build({**overrule(self.pipeline.scheduler.config, self.preset), **options})

    def learnt(self) -> dict[str, Tensor]:
        """The UNet's weights, or its adapter's alone."""
        return learnt_of(self.unet, self.kind)

    def load_learnt(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `learnt`."""
        replace_learnt(self.unet, self.kind, tensors)

    def facts(self) -> dict[str, str]:
        """The kind, the model that what is stored belongs to, and an adapter's rank and alpha."""
        facts = {"kind": self.kind, "family": self.family.name, "model": str(self.preset.model)}
        return facts | (self.adapter if self.kind == "adapter" else {})

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Those of the UNet, or of its adapter."""
        return learning(self.unet, self.kind)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Only what is trained can be let learn; all else stays frozen."""
        super().requires_grad_(False)
        for parameter in self.trainable_parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def train(self, mode: bool = True) -> Self:
        """The text encoders stay as they are in drawing."""
        super().train(mode)
        self.texts.eval()
        return self


def overrule(config: Mapping[str, Any], preset: Preset) -> dict[str, Any]:
    """A scheduler's configuration with what the preset says otherwise, for training and for drawing.

    The model's prediction stands where the preset's is "model"; another has to be learnt anew. A zero terminal SNR
    (Lin et al., 2024) is the model's or the preset's; it needs v, since noise cannot be predicted from itself alone,
    and drawings that begin at the last level. Raises Refused.
    """
    changed = dict(config)
    if preset.prediction != "model":
        changed["prediction_type"] = preset.prediction
    if preset.zero_terminal_snr or config.get("rescale_betas_zero_snr"):
        changed |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if changed.get("prediction_type", "epsilon") == "epsilon":
            hint = "add --set prediction=v_prediction, or leave zero_terminal_snr off"
            raise Refused("with a zero terminal SNR noise cannot be predicted", hint)
    return changed


def _family(preset: Preset) -> Family:
    """The preset's family. Raises NotFound; Refused where it has no denoiser here or the preset names no model."""
    family = find_family(preset.family or "")
    if family.denoiser is None:
        hint = "train it with the recipe 'transparency'; a base is trained for sd15, sd21 and sdxl"
        raise Refused(f"for {family.name} latent transparency alone is trained here, no base", hint)
    if preset.model is None:
        raise Refused(f"preset {preset.name!r} names no model", "give one with --set model=FOLDER")
    return family
