"""What a preset's row is made of: the columns of the table, each with what its number means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from curation.domain import LayerRole

# The ranges of the columns: training.presets.overrides.check_row refuses every value outside of them.
Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1)]  # 1 is the rate that Prodigy scales by itself
Ratio = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
PartialShare = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Preset:
    """One row: every number of every stage. Counts are images, never steps; rates are AdamW's."""

    name: str
    threads: Natural  # torch threads; 0 leaves torch's own choice
    # whether a split's pixels and latents are kept in memory; else latents and texts are cached on disk
    in_memory: bool
    # of cached latents, whose offsets are small beside their means: "fp32" or "fp16"
    cache_precision: Literal["fp32", "fp16"]
    workers: Count  # threads that read and decode pictures ahead
    # whether pictures keep about their own aspect ratio, in shapes of image_size x image_size pixels
    buckets: bool
    bucket_step: Count  # sides of these shapes are multiples of it, pixels
    bucket_ratio: Ratio  # the longest side over the shortest, at most

    # The frozen image autoencoder ("backbone").
    # a diffusers model id or folder with a `vae`; None fits a linear patch autoencoder
    model: str | None
    # how that model is spoken to (training.pretrained.families); None has a denoiser of its own
    family: Literal["sd15", "sd21", "sdxl", "sd3"] | None
    # which files of the model, as diffusers names them: "fp16", or None for the plain ones
    variant: str | None
    image_size: Count  # side of the square that images are letterboxed into, pixels
    stride: Count  # image pixels per latent pixel
    latent_channels: Count
    whitening: Share  # linear backbone: 0 keeps the spread of the components, 1 makes them equal

    # Latent transparency (paper, section 3.1).
    # lambda_offset; stored beside the weights, since files in the wild differ by it
    offset_scale: Positive
    networks: Literal["light", "heavy"]  # "light", as released, or "heavy", as in the paper
    encoder_widths: tuple[Count, ...]
    decoder_widths: tuple[Count, ...]
    decoder_layers: Natural  # residual blocks per level on the way down; one more on the way up
    decoder_attention: Natural  # so many of the deepest levels attend
    decoder_groups: Count  # of group normalisation, in a heavy encoder too
    # squares of so many pixels become channels before the first convolution; 1 is the paper's layout
    fold: Count
    # 1, or 8: the median over the symmetries of the square, at eight times the cost
    decoder_views: Literal[1, 8]
    # the latent joins at the first level too, each of its pixels unfolded to a square
    decoder_unfold: bool
    decoder_residual: bool  # the decoder corrects the decoded image rather than draw it anew
    # pictures of more pixels than tile x tile are encoded and decoded in squares of that side; 0 is never
    tile: Natural
    transparency_images: Count
    transparency_batch: Count
    transparency_lr: Rate
    transparency_ema: PartialShare
    reconstruction_weight: Weight
    identity_weight: Weight
    discriminator_weight: Weight
    discriminator_start: Natural  # images before the discriminator counts
    discriminator_width: Count
    discriminator_adaptive: bool  # its weight times VQGAN's ratio of gradients
    blend_weight: Weight  # alpha-blend MSE (AlphaVAE, arXiv 2507.09308), not of the paper
    # whose moments it takes: "natural" images', or the nine "solid" colours'
    blend_background: Literal["natural", "solid"]
    # what a difference counts for in the terms above: "square" (paper), "charbonnier", "decibel"
    error: Literal["square", "charbonnier", "decibel"]
    edge_weight: Weight
    # weights of LPIPS (safetensors), which then compares blends on black and on white
    perceptual: str | None
    perceptual_weight: Weight
    solid_share: Share  # this share of the pictures is blended on random solid colours first
    offset_dropout: Share
    # how often a pair's opaque layers are trained on, its foreground being 1
    transparency_opaque: Share

    # Text and denoiser ("base").
    text_vocabulary: Annotated[int, Field(ge=3)]  # buckets of the hashing tokenizer
    text_width: Count
    text_layers: Count
    text_length: Count
    denoiser: Literal["transformer", "unet"]  # "transformer" or "unet"
    dit_width: Count
    dit_layers: Count
    dit_patch: Count  # latent pixels per token, along one side
    unet_channels: tuple[Count, ...]
    unet_layers: Count
    unet_attention: tuple[bool, ...]  # which levels attend to the prompt
    unet_head_width: Count
    # rank of the LoRA that a pretrained UNet learns by; 0 trains all of its weights
    adapter_rank: Natural
    # "epsilon", "v_prediction", or "model": what a pretrained one was trained for
    prediction: Literal["epsilon", "v_prediction", "model"]
    zero_terminal_snr: bool
    snr_gamma: Weight  # min-SNR weighting; 0 is none
    noise_offset: Weight  # strength of noise that is equal over all pixels of a channel; 0 is none
    posterior_noise: bool  # whether a latent is drawn from its posterior, or is its mean
    caption_dropout: Share
    base_opaque: Share  # as transparency_opaque
    base_images: Count
    # so many more where there are backgrounds to learn too, and figures in any light
    background_images: Natural
    base_batch: Count
    base_lr: Rate
    ema_decay: PartialShare

    # Layers drawn together ("layers").
    # those that are: foreground and background, and blended, as in the release
    layer_roles: tuple[str, ...]
    layer_rank: Count  # rank of each role's LoRA
    # what they adapt: "attention" (paper), or "all" linear layers of a block
    layer_modules: Literal["attention", "all"]
    join_text: bool  # whether a layer attends to the texts of all, or to its own alone
    # share of the pairs one of whose layers is given, and the other to be drawn to it
    known_share: PartialShare
    single_share: PartialShare  # share of pictures that are a foreground alone
    layers_images: Count  # a picture counts once, however many layers it has
    layers_batch: Count
    layers_lr: Rate

    # Drawing.
    draw_steps: Count
    # drawn at a time; batches are filled up to it, so that a request's bits never depend on others
    draw_batch: Count
    guidance: Weight
    # of layers drawn together: it magnifies also what layers tell each other (training/LOG.md)
    layers_guidance: Weight
    # a model of diffusers that completes pairs by inpainting (training.synthesis); None: none
    inpainter: str | None
    # of 1,024 pixels along the longer side: how far it leaves a foreground behind (paper: 8)
    erosion: Weight

    # All trainings.
    warmup_images: Natural
    decay: Literal["linear", "cosine"]  # how the rate falls over the cooldown
    cooldown: Share  # the last share of a run, over which the rate falls to 0
    new_weight: Weight  # how much more often newly added samples are drawn (paper, section 3.4)
    keep_states: Count  # saved states of a run that stay on disk; it goes on from the last
    save_images: Count  # images between two saved states of a run
    sheet_images: Count  # images between two sample sheets
    # a name of training.engine.optimizers
    beta1: PartialShare  # of Adam's first moment
    beta2: PartialShare  # of Adam's second moment
    optimiser: Literal["adamw", "adamw_fused", "adamw8bit", "adafactor", "lion", "prodigy"]
    # "fp32", "bf16" or "fp16": what is computed in; weights stay float32
    precision: Literal["fp32", "bf16", "fp16"]
    accumulation: Count  # batches whose gradients are added up before a step
    gradient_checkpointing: bool  # blocks compute again on the way back what they did not keep
    average_apart: bool  # the weights' average stays in the processor's memory
    compiled: bool  # networks through torch.compile
    channels_last: bool  # the memory format that convolutions on GPUs like
    processes: Count  # one per GPU; more than one are started through torchrun
    # whether they share out weights and optimiser too (FSDP2), or the images only (DDP)
    sharded: bool
    # "wandb" or "trackio" beside TensorBoard, which is always written
    tracker: Literal["wandb", "trackio"] | None

    def roles_learnt(self, opaque: float) -> tuple[LayerRole, ...]:
        """The layers of a pair that a stage trains on which weighs its opaque ones so."""
        roles = (LayerRole(role) for role in self.layer_roles)
        return tuple(role for role in roles if role == LayerRole.foreground or opaque > 0)
