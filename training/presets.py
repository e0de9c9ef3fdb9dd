"""The table of numbers: one row per preset, the same columns for a laptop and for Stable Diffusion."""

from __future__ import annotations

from dataclasses import dataclass, replace

from curation.errors import NotFound


@dataclass(frozen=True)
class Preset:
    """One row: every number of every stage. Counts are images, never steps; rates are AdamW's."""

    name: str
    threads: int  # torch threads; 0 leaves torch's own choice
    in_memory: bool  # whether a split's pixels are kept decoded between epochs

    # The frozen image autoencoder ("backbone").
    model: str | None  # a diffusers model id or folder with a `vae`; None fits a linear patch autoencoder
    image_size: int  # side of the square that images are letterboxed into, pixels
    stride: int  # image pixels per latent pixel
    latent_channels: int
    whitening: float  # linear backbone: 0 keeps the spread of the components, 1 makes them equal

    # Latent transparency (paper, section 3.1).
    offset_scale: float  # lambda_offset; stored beside the weights, since files in the wild differ by it
    encoder_widths: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    decoder_layers: int  # residual blocks per level on the way down; one more on the way up
    decoder_attention: int  # so many of the deepest levels attend
    decoder_groups: int
    fold: int  # squares of so many pixels become channels before the first convolution; 1 is the paper's layout
    decoder_views: int  # 1, or 8: the median over the symmetries of the square, at eight times the cost
    decoder_residual: bool  # the decoder corrects the decoded image rather than draw it anew
    transparency_images: int
    transparency_batch: int
    transparency_lr: float
    transparency_ema: float
    reconstruction_weight: float
    identity_weight: float
    discriminator_weight: float
    discriminator_start: int  # images before the discriminator counts
    discriminator_width: int
    blend_weight: float  # alpha-blend MSE (AlphaVAE, arXiv 2507.09308), not of the paper
    offset_dropout: float

    # Text and denoiser ("base").
    text_vocabulary: int  # buckets of the hashing tokenizer
    text_width: int
    text_layers: int
    text_length: int
    denoiser: str  # "transformer" or "unet"
    dit_width: int
    dit_layers: int
    dit_patch: int  # latent pixels per token, along one side
    unet_channels: tuple[int, ...]
    unet_layers: int
    unet_attention: tuple[bool, ...]  # which levels attend to the prompt
    unet_head_width: int
    prediction: str  # "epsilon" or "v_prediction"
    zero_terminal_snr: bool
    snr_gamma: float  # min-SNR weighting; 0 is none
    caption_dropout: float
    base_images: int
    base_batch: int
    base_lr: float
    ema_decay: float

    # Drawing.
    draw_steps: int
    draw_batch: int
    guidance: float

    # Both trainings.
    warmup_images: int
    cooldown: float  # the last share of a run, over which the rate falls to 0
    new_weight: float  # how much more often newly added samples are drawn (paper, section 3.4)
    save_images: int  # images between two saved states of a run
    sheet_images: int  # images between two sample sheets


TINY = Preset(
    name="tiny",
    threads=2,
    in_memory=True,
    model=None,
    image_size=64,
    stride=8,
    latent_channels=32,
    whitening=0.5,
    offset_scale=3.0,
    encoder_widths=(32, 64, 128),
    decoder_widths=(16, 32, 64),
    decoder_layers=1,
    decoder_attention=0,
    decoder_groups=8,
    fold=2,
    decoder_views=1,
    decoder_residual=True,
    transparency_images=8_000,
    transparency_batch=8,
    transparency_lr=2e-3,
    transparency_ema=0.99,
    reconstruction_weight=1.0,
    identity_weight=1.0,
    discriminator_weight=0.0,
    discriminator_start=0,
    discriminator_width=24,
    blend_weight=1.0,
    offset_dropout=0.3,
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
    prediction="v_prediction",
    zero_terminal_snr=True,
    snr_gamma=0.0,
    caption_dropout=0.1,
    base_images=24_000,
    base_batch=32,
    base_lr=2e-3,
    ema_decay=0.995,
    draw_steps=25,
    draw_batch=16,
    guidance=3.0,
    warmup_images=500,
    cooldown=0.3,
    new_weight=2.0,
    save_images=2_000,
    sheet_images=8_000,
)

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
    transparency_batch=8,
    text_vocabulary=512,
    text_width=32,
    dit_width=64,
    dit_layers=2,
    dit_patch=1,
    unet_channels=(32, 64),
    unet_head_width=16,
    base_images=512,
    base_lr=3e-3,
    base_batch=16,
    draw_steps=4,
    draw_batch=4,
    warmup_images=32,
    save_images=64,
    sheet_images=128,
)

SD15 = replace(
    TINY,
    name="sd15",
    threads=0,
    in_memory=False,
    model="stable-diffusion-v1-5/stable-diffusion-v1-5",
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
    decoder_residual=False,
    transparency_images=1_280_000,
    transparency_batch=8,
    transparency_lr=1e-5,
    transparency_ema=0.9999,
    discriminator_weight=0.01,
    blend_weight=0.0,
    text_vocabulary=49_408,
    text_width=768,
    text_layers=12,
    text_length=77,
    denoiser="unet",
    unet_channels=(320, 640, 1280, 1280),
    unet_layers=2,
    unet_attention=(True, True, True, False),
    unet_head_width=8,
    prediction="epsilon",
    zero_terminal_snr=False,
    snr_gamma=0.0,
    base_images=160_000,
    base_batch=16,
    base_lr=1e-5,
    ema_decay=0.9999,
    guidance=7.0,
    warmup_images=8_000,
    save_images=40_000,
    sheet_images=40_000,
)

SDXL = replace(
    SD15,
    name="sdxl",
    model="stabilityai/stable-diffusion-xl-base-1.0",
    image_size=1024,
    text_width=2048,
    text_layers=32,
    unet_channels=(320, 640, 1280),
    unet_attention=(False, True, True),
)

PRESETS: dict[str, Preset] = {row.name: row for row in (MICRO, TINY, SD15, SDXL)}


def find_preset(name: str) -> Preset:
    """The row of that name. Raises NotFound."""
    try:
        return PRESETS[name]
    except KeyError:
        raise NotFound(f"no preset {name!r}", f"choose one of {', '.join(PRESETS)}") from None
