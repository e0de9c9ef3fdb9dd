"""The columns of a preset, each with the meaning of its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from curation.domain import LayerRole, RejectReason

# The ranges of the columns; training.presets.overrides.check_preset rejects values outside of them.
Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1)]  # 1 for Prodigy, which adapts the rate itself
Ratio = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
PartialShare = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Preset:
    """A preset. Counts are in images, never steps; learning rates are for AdamW."""

    name: str
    threads: Natural  # torch threads; 0 leaves torch's own choice
    # keep a split's pixels and latents in memory; otherwise latents and texts are cached on disk
    in_memory: bool
    # dtype of cached latents, whose offsets are small compared with their means
    cache_precision: Literal["fp32", "fp16"]
    workers: Count  # threads that read and decode images ahead
    # aspect-ratio bucketing: shapes of about image_size x image_size pixels
    buckets: bool
    bucket_step: Count  # height and width of the shapes are multiples of it, pixels
    bucket_ratio: Ratio  # maximum aspect ratio of the shapes

    # The frozen image autoencoder.
    # a diffusers hub id or folder with a `vae`; None fits a linear patch autoencoder
    model: str | None
    # architecture of the model (training.pretrained.families); None uses the built-in denoiser
    family: Literal["sd15", "sd21", "sdxl", "sd3"] | None
    # variant of the model's files as in diffusers: "fp16", or None for the default files
    variant: str | None
    image_size: Count  # side of the square that images are letterboxed into, pixels
    stride: Count  # image pixels per latent pixel, along one side
    latent_channels: Count
    # linear autoencoder: 0 keeps the variances of the components, 1 equalizes them
    whitening: Share

    # Latent transparency (paper, section 3.1).
    # lambda_offset; stored with the weights, since released files differ in it
    offset_scale: Positive
    networks: Literal["light", "heavy"]  # "light" as released, "heavy" as in the paper
    encoder_widths: tuple[Count, ...]
    decoder_widths: tuple[Count, ...]
    decoder_layers: Natural  # residual blocks per down block; up blocks have one more
    decoder_attention: Natural  # number of deepest levels with attention
    decoder_groups: Count  # group normalization groups, in a heavy encoder too
    # pixel unshuffle factor before the first convolution; 1 is the paper's
    fold: Count
    # test-time augmentation: 1 pass, or 8 for the median over the symmetries of the square
    decoder_views: Literal[1, 8]
    # decoded alpha below it becomes 0, and up to twice it is steeper; 0 turns it off
    alpha_floor: Share
    # add the latent at the first level too, by pixel shuffle
    decoder_unfold: bool
    decoder_residual: bool  # the decoder predicts a correction of the decoded image
    # tile size in pixels for images of more than tile x tile pixels; 0 turns tiling off
    tile: Natural
    transparency_images: Count
    transparency_batch: Count
    transparency_lr: Rate
    transparency_ema: PartialShare
    reconstruction_weight: Weight
    identity_weight: Weight
    discriminator_weight: Weight
    discriminator_start: Natural  # images before the adversarial loss is used
    discriminator_width: Count
    discriminator_adaptive: bool  # scale its weight by VQGAN's ratio of gradient norms
    blend_weight: Weight  # alpha-blend MSE (AlphaVAE, arXiv 2507.09308), not in the paper
    # moments of its background: those of "natural" images or of the nine "solid" colors
    blend_background: Literal["natural", "solid"]
    # error function of the terms above: "square" (paper), "charbonnier" or "decibel"
    error: Literal["square", "charbonnier", "decibel"]
    edge_weight: Weight
    # path of LPIPS weights (safetensors) for a perceptual loss on black and on white; or None
    perceptual: str | None
    perceptual_weight: Weight
    solid_share: Share  # share of the images that are blended on random solid colors first
    offset_dropout: Share  # probability of dropping an image's offset
    # sampling weight of a pair's opaque layers, relative to its foreground
    transparency_opaque: Share

    # Text and denoiser ("base").
    text_vocabulary: Annotated[int, Field(ge=3)]  # buckets of the hashing tokenizer
    text_width: Count
    text_layers: Count
    text_length: Count
    denoiser: Literal["transformer", "unet"]  # architecture of the built-in denoiser
    dit_width: Count
    dit_layers: Count
    dit_patch: Count  # latent pixels per token, along one side
    unet_channels: tuple[Count, ...]
    unet_layers: Count
    unet_attention: tuple[bool, ...]  # levels with attention to the prompt
    unet_head_width: Count
    # rank of the LoRA of a pretrained UNet; 0 trains all of its weights
    adapter_rank: Natural
    # prediction type; "model" is that of the pretrained model
    prediction: Literal["epsilon", "v_prediction", "model"]
    zero_terminal_snr: bool
    snr_gamma: Weight  # gamma of min-SNR weighting; 0 turns it off
    noise_offset: Weight  # strength of noise that is constant over a channel; 0 turns it off
    posterior_noise: bool  # sample latents from the posterior instead of taking its mean
    caption_dropout: Share
    base_opaque: Share  # as transparency_opaque
    base_images: Count
    # additional images if the snapshot has backgrounds
    background_images: Natural
    base_batch: Count
    base_lr: Rate
    ema_decay: PartialShare

    # Layers generated together ("layers").
    # foreground and background, or also blended as in the release
    layer_roles: tuple[str, ...]
    layer_rank: Count  # rank of each role's LoRA
    # target modules of the LoRAs: "attention" (paper), or "all" linear layers of a block
    layer_modules: Literal["attention", "all"]
    joint_text_attention: (
        bool  # a layer attends to the texts of all layers instead of its own alone
    )
    # probability that one layer of a pair is given and the other generated around it
    given_layer_prob: PartialShare
    foreground_only_prob: PartialShare  # share of images that are a single foreground
    layers_images: Count  # an image counts once, with any number of layers
    layers_batch: Count
    layers_lr: Rate

    # Learning from decisions ("kto", "dpo" and the same for layers).
    # strength of the bond to the reference, for errors that are means over a normalized latent
    preference_beta: Positive
    preference_images: Count  # an image counts once; of "dpo" a pair counts once
    preference_batch: Count
    preference_lr: Rate
    # so that diversity is kept: share of the batch that is plain denoising of snapshot samples, and
    # in all other trainings the least share of imported seeds among the images
    real_share: PartialShare
    desirable_share: Share  # share of the decided candidates in a batch that were accepted
    # largest weight of a candidate by inverse propensity; 1 turns such weights off
    propensity_clip: Ratio
    # share of the decided candidates that are noised with the noise they were generated from
    stored_noise: Share
    automatic_decisions: bool  # learn from verdicts of the rule reviewer and automatic ones too
    # reasons of rejects that teach the base
    base_reasons: tuple[RejectReason, ...]
    # reasons of rejects that teach the layer adapters
    layers_reasons: tuple[RejectReason, ...]

    # Generation.
    draw_steps: Count
    # batch size; batches are padded to it, so that a result never depends on other requests
    draw_batch: Count
    guidance: Weight
    # guidance of layers generated together, which also amplifies their interaction
    layers_guidance: Weight
    # a diffusers inpainting model to complete pairs (training.synthesis), or None
    inpainter: str | None
    # margin around the foreground when inpainting the background, in 1/1024 of the longer side
    erosion: Weight

    # All trainings.
    warmup_images: Natural
    decay: Literal["linear", "cosine"]  # learning-rate decay over the cooldown
    cooldown: Share  # the last share of a run, over which the learning rate decays to 0
    # weight added to images whose caption has words of rejected prompts, for an excess of rejects
    # of 100 %; it needs a snapshot with decisions; 0 turns it off
    reject_emphasis: Weight
    new_sample_weight: Weight  # sampling weight of newly added samples (paper, section 3.4)
    keep_states: Count  # saved training states to keep on disk
    checkpoint_every_images: Count  # images between two saved training states
    sample_every_images: Count  # images between two sample grids
    beta1: PartialShare  # Adam's beta1
    beta2: PartialShare  # Adam's beta2
    # a name of training.engine.optimizers
    optimizer: Literal["adamw", "adamw_fused", "adamw8bit", "adafactor", "lion", "prodigy"]
    # compute precision; weights stay float32
    precision: Literal["fp32", "bf16", "fp16"]
    accumulation: Count  # gradient accumulation steps
    gradient_checkpointing: bool  # recompute activations in the backward pass
    ema_on_cpu: bool  # keep the weight average (EMA) in CPU memory
    torch_compile: bool  # use torch.compile
    channels_last: bool  # use the channels-last memory format
    # one per GPU; the global batch is batch x accumulation x processes on any number of processes
    processes: Count
    # shard weights and optimizer (FSDP2) instead of data parallelism alone (DDP)
    fsdp: bool
    # "wandb" or "trackio" in addition to TensorBoard, which is always written
    tracker: Literal["wandb", "trackio"] | None

    def trained_roles(self, opaque: float) -> tuple[LayerRole, ...]:
        """Return the layers of a pair to train on, given the sampling weight of opaque layers."""
        roles = (LayerRole(role) for role in self.layer_roles)
        return tuple(role for role in roles if role == LayerRole.foreground or opaque > 0)


def stage_column(stage: str, name: str) -> str:
    """Return the column of a stage, such as base_lr; those that learn from decisions share theirs.

    Args:
        stage: Name of the training stage.
        name: images, batch or lr.
    """
    own = f"{stage}_{name}"
    return own if own in Preset.__dataclass_fields__ else f"preference_{name}"
