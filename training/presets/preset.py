"""What a preset's row is made of: the columns of the table, each with what its number means."""

from __future__ import annotations

from dataclasses import dataclass

from curation.domain import LayerRole


@dataclass(frozen=True)
class Preset:
    """One row: every number of every stage. Counts are images, never steps; rates are AdamW's."""

    name: str
    threads: int  # torch threads; 0 leaves torch's own choice
    in_memory: (
        bool  # whether a split's pixels and latents are kept in memory; else latents and texts are cached on disk
    )
    cache_precision: str  # of cached latents, whose offsets are small beside their means: "fp32" or "fp16"
    workers: int  # threads that read and decode pictures ahead
    buckets: bool  # whether pictures keep about their own aspect ratio, in shapes of image_size x image_size pixels
    bucket_step: int  # sides of these shapes are multiples of it, pixels
    bucket_ratio: float  # the longest side over the shortest, at most

    # The frozen image autoencoder ("backbone").
    model: str | None  # a diffusers model id or folder with a `vae`; None fits a linear patch autoencoder
    family: str | None  # how that model is spoken to (training.pretrained.families); None has a denoiser of its own
    variant: str | None  # which files of the model, as diffusers names them: "fp16", or None for the plain ones
    image_size: int  # side of the square that images are letterboxed into, pixels
    stride: int  # image pixels per latent pixel
    latent_channels: int
    whitening: float  # linear backbone: 0 keeps the spread of the components, 1 makes them equal

    # Latent transparency (paper, section 3.1).
    offset_scale: float  # lambda_offset; stored beside the weights, since files in the wild differ by it
    networks: str  # "light", as released, or "heavy", as in the paper
    encoder_widths: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    decoder_layers: int  # residual blocks per level on the way down; one more on the way up
    decoder_attention: int  # so many of the deepest levels attend
    decoder_groups: int  # of group normalisation, in a heavy encoder too
    fold: int  # squares of so many pixels become channels before the first convolution; 1 is the paper's layout
    decoder_views: int  # 1, or 8: the median over the symmetries of the square, at eight times the cost
    decoder_unfold: bool  # the latent joins at the first level too, each of its pixels unfolded to a square
    decoder_residual: bool  # the decoder corrects the decoded image rather than draw it anew
    tile: int  # pictures of more pixels than tile x tile are encoded and decoded in squares of that side; 0 is never
    transparency_images: int
    transparency_batch: int
    transparency_lr: float
    transparency_ema: float
    reconstruction_weight: float
    identity_weight: float
    discriminator_weight: float
    discriminator_start: int  # images before the discriminator counts
    discriminator_width: int
    discriminator_adaptive: bool  # its weight times VQGAN's ratio of gradients
    blend_weight: float  # alpha-blend MSE (AlphaVAE, arXiv 2507.09308), not of the paper
    blend_background: str  # whose moments it takes: "natural" images', or the nine "solid" colours'
    error: str  # what a difference counts for in the terms above: "square" (paper), "charbonnier", "decibel"
    edge_weight: float
    perceptual: str | None  # weights of LPIPS (safetensors), which then compares blends on black and on white
    perceptual_weight: float
    solid_share: float  # this share of the pictures is blended on random solid colours first
    offset_dropout: float
    transparency_opaque: float  # how often a pair's opaque layers are trained on, its foreground being 1

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
    adapter_rank: int  # rank of the LoRA that a pretrained UNet learns by; 0 trains all of its weights
    prediction: str  # "epsilon", "v_prediction", or "model": what a pretrained one was trained for
    zero_terminal_snr: bool
    snr_gamma: float  # min-SNR weighting; 0 is none
    posterior_noise: bool  # whether a latent is drawn from its posterior, or is its mean
    caption_dropout: float
    base_opaque: float  # as transparency_opaque
    base_images: int
    background_images: int  # so many more where there are backgrounds to learn too, and figures in any light
    base_batch: int
    base_lr: float
    ema_decay: float

    # Layers drawn together ("layers").
    layer_roles: tuple[str, ...]  # those that are: foreground and background, and blended, as in the release
    layer_rank: int  # rank of each role's LoRA
    layer_modules: str  # what they adapt: "attention" (paper), or "all" linear layers of a block
    join_text: bool  # whether a layer attends to the texts of all, or to its own alone
    known_share: float  # share of the pairs one of whose layers is given, and the other to be drawn to it
    single_share: float  # share of pictures that are a foreground alone
    layers_images: int  # a picture counts once, however many layers it has
    layers_batch: int
    layers_lr: float

    # Drawing.
    draw_steps: int
    draw_batch: int  # drawn at a time; batches are filled up to it, so that a request's bits never depend on others
    guidance: float
    layers_guidance: float  # of layers drawn together: it magnifies also what layers tell each other (training/LOG.md)
    inpainter: str | None  # a model of diffusers that completes pairs by inpainting (training.synthesis); None: none
    erosion: float  # of 1,024 pixels along the longer side: how far it leaves a foreground behind (paper: 8)

    # All trainings.
    warmup_images: int
    cooldown: float  # the last share of a run, over which the rate falls to 0
    new_weight: float  # how much more often newly added samples are drawn (paper, section 3.4)
    save_images: int  # images between two saved states of a run
    sheet_images: int  # images between two sample sheets
    optimiser: str  # a name of training.course.optimisers
    precision: str  # "fp32", "bf16" or "fp16": what is computed in; weights stay float32
    accumulation: int  # batches whose gradients are added up before a step
    gradient_checkpointing: bool  # blocks compute again on the way back what they did not keep
    average_apart: bool  # the weights' average stays in the processor's memory
    compiled: bool  # networks through torch.compile
    channels_last: bool  # the memory format that convolutions on GPUs like
    processes: int  # one per GPU; more than one are started through torchrun
    sharded: bool  # whether they share out weights and optimiser too (FSDP2), or the images only (DDP)
    tracker: str | None  # "wandb" or "trackio" beside TensorBoard, which is always written

    def roles_learnt(self, opaque: float) -> tuple[LayerRole, ...]:
        """The layers of a pair that a stage trains on which weighs its opaque ones so."""
        roles = (LayerRole(role) for role in self.layer_roles)
        return tuple(role for role in roles if role == LayerRole.foreground or opaque > 0)
