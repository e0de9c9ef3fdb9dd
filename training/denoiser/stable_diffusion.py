"""Stable Diffusion as the denoiser: 1.5, 2.1, XL and fine-tuned variants, through diffusers."""

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
    copy_finetuned,
    finetuned_state_dict,
    load_finetuned,
    trainable_parameters,
)
from training.presets.preset import Preset
from training.pretrained.families import Family, check_family, find_family
from training.pretrained.loading import load_config, load_pipeline


class StableDiffusion(Denoiser):
    """A pretrained UNet with its text encoders, which are neither trained nor stored.

    Training updates all weights of the UNet (kind "weights"), as in the paper's section 3.2, or, if
    the preset has an adapter_rank, a LoRA on its attentions (kind "adapter"), as in its release.
    `pipeline` is the diffusers pipeline of the same parts, without an autoencoder. Trained weights
    are float32; the frozen UNet under an adapter has the preset's precision, to which autocast
    would otherwise cast it in every step.
    """

    def __init__(
        self,
        preset: Preset,
        stored: tuple[Mapping[str, Tensor], Mapping[str, str]] | None = None,
        *,
        pipeline: Any = None,
    ) -> None:
        """Load the model of a preset.

        Args:
            preset: The preset.
            stored: Fine-tuned tensors and their metadata; None for the pretrained model.
            pipeline: A loaded pipeline that already includes the fine-tuned weights, for sampling.

        Raises:
            NotFound: The model does not exist.
            Refused: It cannot be loaded.
            RuntimeError: The stored tensors do not fit it.
        """
        super().__init__()
        self.preset, self.family = preset, _family(preset)
        assert preset.model is not None  # noqa: S101 - checked by _family
        check_family(preset.model, self.family)
        self.pipeline = pipeline or load_pipeline(
            preset.model, self.family.pipeline, preset.variant, dtype=torch.float32
        )
        self.unet = self.pipeline.unet
        self.texts = nn.ModuleList(
            self.pipeline.components[name] for name in self.family.text_encoders
        )
        # Of the autoencoder only the scaling of latents is needed.
        latents = load_config(AutoencoderKL, preset.model, "vae")
        self.scaling, self.shift = (
            float(latents["scaling_factor"]),
            float(latents.get("shift_factor") or 0),
        )
        self.adapter = {"rank": str(preset.adapter_rank), "alpha": str(preset.adapter_rank)}
        # Load the fine-tuning, or add a LoRA that has no effect yet.
        self.kind = "adapter" if preset.adapter_rank and not pipeline else "weights"
        if stored:
            self.kind = load_finetuned(self.unet, *stored)
            self.adapter |= {
                name: stored[1][name] for name in ("rank", "alpha") if name in stored[1]
            }
        elif self.kind == "adapter":
            add_adapter(self.unet, preset.adapter_rank, preset.adapter_rank)
        self.settle().train(False)

    def settle(self) -> Self:
        """Unfreeze the trained parameters, and cast frozen ones to the dtype of the training."""
        self.requires_grad_(True)
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.preset.precision)
        if half and self.kind == "adapter" and not self.preset.fsdp:  # FSDP needs one dtype
            for parameter in self.unet.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(half)
        return self

    @torch.no_grad()
    def encode(self, texts: Sequence[str], sizes_B6: Tensor | None = None) -> Conditions:
        """Encode texts as the model's pipeline does.

        "" is the model's unconditional prompt, which for SDXL is all zeros.

        Args:
            texts: One text per row.
            sizes_B6: SDXL's size conditioning in pixels; None for the preset's square, uncropped.
        """
        device = next(self.unet.parameters()).device
        encoded: Any = self.pipeline.encode_prompt(
            list(texts), device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if not self.family.sizes:
            return Conditions(encoded[0])
        # SDXL: pooled embedding, zeros for empty prompts, and size conditioning.
        states_BLD, pooled_BP = encoded[0], encoded[2]
        if self.pipeline.config.force_zeros_for_empty_prompt:
            nonempty_B = torch.tensor([bool(text) for text in texts], device=device)
            states_BLD = states_BLD * nonempty_B[:, None, None]
            pooled_BP = pooled_BP * nonempty_B[:, None]
        if sizes_B6 is None:
            side = float(self.preset.image_size)
            sizes_B6 = torch.tensor([side, side, 0, 0, side, side]).repeat(len(texts), 1)
        return Conditions(
            states_BLD, pooled_BP=pooled_BP, sizes_B6=sizes_B6.to(device, torch.float32)
        )

    def predict(self, noisy_BCHW: Tensor, time_B: Tensor, conditions: Conditions) -> Tensor:
        """Return the UNet's prediction in the dtype of `noisy`."""
        # A frozen UNet may be in half precision while the loop computes in float32.
        dtype = next(self.unet.parameters()).dtype
        added_conditions = None
        if conditions.pooled_BP is not None:
            added_conditions = {
                "text_embeds": conditions.pooled_BP.to(dtype),
                "time_ids": conditions.sizes_B6,
            }
        predicted: Tensor = self.unet(
            noisy_BCHW.to(dtype),
            time_B,
            encoder_hidden_states=conditions.states_BLD.to(dtype),
            added_cond_kwargs=added_conditions,
            return_dict=False,
        )[0]
        return predicted.to(noisy_BCHW.dtype)

    def normalize(self, latent_BCHW: Tensor) -> Tensor:
        """Apply the autoencoder's shift and scale: (latent - shift) * scaling_factor."""
        return (latent_BCHW - self.shift) * self.scaling

    def denormalize(self, normalized_BCHW: Tensor) -> Tensor:
        """Invert `normalize`."""
        return normalized_BCHW / self.scaling + self.shift

    def schedule(self) -> Any:
        """Return the model's noise schedule with the preset's changes. Raises Refused."""
        build: Any = DDIMScheduler.from_config
        options = {"timestep_spacing": "trailing", "clip_sample": False, "thresholding": False}
        return build(
            {**override_scheduler_config(self.pipeline.scheduler.config, self.preset), **options}
        )

    def finetuned_state_dict(self) -> dict[str, Tensor]:
        """Return the UNet's weights, or those of its adapter."""
        return finetuned_state_dict(self.unet, self.kind)

    def load_finetuned(self, tensors: Mapping[str, Tensor]) -> None:
        """Load fine-tuned tensors."""
        copy_finetuned(self.unet, self.kind, tensors)

    def metadata(self) -> dict[str, str]:
        """Return the kind, family and model, and an adapter's rank and alpha."""
        metadata = {"kind": self.kind, "family": self.family.name, "model": str(self.preset.model)}
        return metadata | (self.adapter if self.kind == "adapter" else {})

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the UNet or of its adapter."""
        return trainable_parameters(self.unet, self.kind)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze or unfreeze the trained parameters; all others stay frozen."""
        super().requires_grad_(False)
        for parameter in self.trainable_parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all networks but the text encoders, which stay in eval mode."""
        super().train(mode)
        self.texts.eval()
        return self


def override_scheduler_config(config: Mapping[str, Any], preset: Preset) -> dict[str, Any]:
    """Return a scheduler's configuration with the changes of a preset, for training and sampling.

    The prediction type stays the model's if the preset's is "model"; another one has to be trained.
    A zero terminal SNR (Lin et al., 2024), of the model or the preset, needs v-prediction, since
    pure noise does not determine the image, and sampling that starts at the last level.

    Args:
        config: The model's scheduler configuration.
        preset: The preset.

    Raises:
        Refused: Noise would be predicted with a zero terminal SNR.
    """
    changed = dict(config)
    if preset.prediction != "model":
        changed["prediction_type"] = preset.prediction
    if preset.zero_terminal_snr or config.get("rescale_betas_zero_snr"):
        changed |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if changed.get("prediction_type", "epsilon") == "epsilon":
            hint = "add --set prediction=v_prediction, or leave zero_terminal_snr off"
            raise Refused("a zero terminal SNR does not work with noise prediction", hint)
    return changed


def _family(preset: Preset) -> Family:
    """Return the preset's family. Raises NotFound; Refused without a denoiser or a model."""
    family = find_family(preset.family or "")
    if family.denoiser is None:
        hint = "use the recipe 'transparency'; a base can be trained for sd15, sd21 and sdxl"
        raise Refused(f"{family.name} supports training of latent transparency only", hint)
    if preset.model is None:
        raise Refused(f"preset {preset.name!r} has no model", "give one with --set model=FOLDER")
    return family
