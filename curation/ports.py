"""Ports: the interfaces of stores, queues, generators and trainers, with at most four methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from curation.domain import (
    Checkpoint,
    GenerationRequest,
    Job,
    LayerRole,
    Progress,
    Prompt,
    TrainingRequest,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RGBA: TypeAlias = "NDArray[np.uint8]"
"""One straight (not premultiplied) image, H x W x 4, sRGB and alpha in 0..255."""

Layers = Mapping[LayerRole, RGBA]
ProgressCallback = Callable[[Progress], None]
"""A callback that receives the progress of long work; it may raise to stop the work."""


# Storage and jobs


class ObjectStore(Protocol):
    """Objects under the sha256 of their content: written atomically and never changed."""

    def put(self, source: bytes | Path) -> str:
        """Store bytes or a file durably, and return the sha256 in hex."""

    def get(self, sha256: str) -> bytes:
        """Return the bytes with that sha256, after checking it. Raises NotFound, Corrupt."""

    def has(self, sha256: str) -> bool:
        """Return whether the object is stored."""

    def address(self, sha256: str, media_type: str, signed_at: int, seconds: int) -> str | None:
        """Return a URL for browsers, valid for `seconds` from `signed_at`; None without one."""


class Queue(Protocol):
    """A queue of jobs; a message only wakes a worker, since the database holds the pending work."""

    def send(self, job: Job) -> None:
        """Send a job to a worker; never raises, since the reconcile job sends lost jobs again."""


# Generation


@dataclass(frozen=True)
class GenerationOptions:
    """Options of generation that override a checkpoint's preset; None keeps the preset's value."""

    negative: str | None = None  # negative prompt
    steps: int | None = None
    guidance: float | None = None
    size: tuple[int, int] | None = None  # width and height in pixels
    # Instead of `size`, width / height: the nearest image size that the model was trained at.
    aspect: float | None = None
    sampler: str | None = None
    image: str | None = None  # sha256 of a stored layer to start from (image-to-image)
    strength: float = 0.75  # share of `image` that is replaced, above 0; 1 replaces all of it
    # Factor by which the result is enlarged, with new detail.
    upscale: float = 1.0
    # Stored layers (sha256) that the generated layers must fit.
    given: Mapping[LayerRole, str] = field(default_factory=dict)


DEFAULT_OPTIONS = GenerationOptions()
"""The options of the preset, unchanged."""


class LayerGenerator(Protocol):
    """A loaded checkpoint that generates layers."""

    batch_size: int
    """The batch size; a smaller batch takes as long as a full one."""

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        """Generate one candidate per request; deterministic in prompt, seed and options.

        A prompt with a foreground or a background text is a request for a pair: foreground,
        background and blended image, of which those in `options.given` are used unchanged.

        Args:
            requests: Prompts and seeds; the result does not depend on the batching.
            options: Overrides of the checkpoint's preset.

        Returns:
            The layers of each request, in order.
        """

    def describe(self, options: GenerationOptions) -> Mapping[str, str]:
        """Return metadata of an image generated with these options: model, sampler, steps etc."""

    def environment(self, options: GenerationOptions, *, pair: bool = False) -> Mapping[str, str]:
        """Return what else the bits of images or pairs depend on: noise, precision, device etc."""


@dataclass(frozen=True)
class TextCoverage:
    """The words of a text that a preset knows, and how many of them, from the first, it reads."""

    words: Sequence[str]
    seen: int


class TextReader(Protocol):
    """The type of the object that LAYERLOOP_TEXT_READER names: a reader of preset texts."""

    def __call__(
        self, preset: str, overrides: Mapping[str, str], texts: Sequence[str]
    ) -> Sequence[TextCoverage] | None:
        """Return the words that a preset reads in each text; None if a text encoder reads them."""


class GeneratorLoader(Protocol):
    """The type of the object that LAYERLOOP_GENERATOR names: a loader of checkpoints."""

    def __call__(self, checkpoint: Checkpoint, store: ObjectStore) -> LayerGenerator:
        """Load a checkpoint's weights from the store."""


# Training and evaluation


class Trainer(Protocol):
    """The type of the object that LAYERLOOP_TRAINER names: a training program."""

    def __call__(
        self, request: TrainingRequest, store: ObjectStore, folder: Path, report: ProgressCallback
    ) -> Checkpoint:
        """Train on a snapshot, resuming exactly from the state in `folder`; store the weights."""


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation: additional metrics and limits."""

    # Number of test-time augmentations of the alpha decoder; None is the preset's number.
    views: int | None = None
    # Also measure in the form of the published benchmark, through JPEG.
    published: bool = False
    perceptual: Path | None = None  # weights of LPIPS
    inception: Path | None = None  # weights for the Frechet inception distance
    original: bool = False  # images in their own size instead of the preset's
    limit: int = 0  # largest number of images; 0 is all
    # Number of captions to generate images and pairs from, as far as the checkpoint generates them.
    draws: int = 0
    # CLIP model by name or folder, for the similarity of pairs to their texts.
    clip: str | None = None


@dataclass(frozen=True)
class MeanWithInterval:
    """A mean or a correlation with its 95 % interval, which is None for a single value."""

    mean: float  # or the correlation
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class EvaluationResult:
    """The metrics of an evaluation; `backgrounds` and `published` are tables: row, then metric."""

    metrics: Mapping[str, float]
    backgrounds: Mapping[str, Mapping[str, float]]
    # Results of other works, measured on other images.
    published: Mapping[str, Mapping[str, float]]
    images: int
    # The metrics that were not measured, each with the reason.
    notes: Sequence[str]
    # PNG: ground truth beside reconstruction.
    sheet: bytes
    # Whether the metrics are comparable with the metrics of the same name that training records.
    standard: bool
    # Name of a metric, then the origin of the pairs.
    pairs: Mapping[str, Mapping[str, MeanWithInterval]] = field(default_factory=dict)
    # PNG of the generated pairs, if there are any.
    pairs_grid: bytes = b""


class Evaluator(Protocol):
    """The type of the object that LAYERLOOP_EVALUATOR names: a full evaluation."""

    def __call__(
        self,
        checkpoint: Checkpoint,
        snapshot: str,
        store: ObjectStore,
        options: EvaluationOptions,
        report: ProgressCallback,
    ) -> EvaluationResult:
        """Evaluate all parts of a checkpoint on the held-out split of a snapshot."""


@dataclass(frozen=True)
class MattingComparison:
    """The same requests generated as layers, and generated as opaque images and then matted."""

    layers: Sequence[RGBA]  # generated with alpha
    matted: Sequence[RGBA]  # generated as opaque images, then matted
    # How the opaque images were generated and matted.
    metadata: Mapping[str, str]
    sheet: bytes  # PNG: layer, opaque image and matted image


class MattingComparer(Protocol):
    """The type of the object that LAYERLOOP_COMPARER names: a comparison with matting."""

    def __call__(
        self,
        checkpoint: Checkpoint,
        store: ObjectStore,
        requests: Sequence[GenerationRequest],
        segmenter: str | None,
        report: ProgressCallback,
    ) -> MattingComparison:
        """Generate layers, and opaque images that a segmenter or the built-in matting cuts out."""


@dataclass(frozen=True)
class StageMemory:
    """The peak memory of a training stage, in bytes by kind of content."""

    stage: str
    device: str  # "gpu" or "processor"
    held: Mapping[str, int]  # bytes by kind of content
    # A sentence: on which device the stage fits, or which setting to change.
    advice: str

    @property
    def peak(self) -> int:
        """The sum over all kinds of content, in bytes."""
        return sum(self.held.values())


class MemoryEstimator(Protocol):
    """The type of the object that LAYERLOOP_ESTIMATOR names: an estimate of training memory."""

    def __call__(self, request: TrainingRequest, image_count: int) -> Sequence[StageMemory]:
        """Estimate the memory of each stage, given the number of training images."""


# Other models


class Captioner(Protocol):
    """An image captioning model."""

    # The model's name and the revision of its weights, as model@revision.
    source: str

    def caption(
        self, images: Sequence[NDArray[np.uint8]], prompt: str, max_tokens: int
    ) -> Sequence[str]:
        """Caption images (H x W x 3) in order, deterministically, in at most `max_tokens` each."""


class CaptionerLoader(Protocol):
    """The type of the object that LAYERLOOP_CAPTIONER names: a loader of captioning models."""

    def __call__(self, model: str) -> Captioner:
        """Load a model by its name or folder. Raises NotFound, Refused."""


@dataclass(frozen=True)
class EmbeddingResult:
    """A candidate's embedding, a vector of D numbers, and the metrics measured with it."""

    vector: NDArray[np.float32]
    metrics: Mapping[str, float]


class Embedder(Protocol):
    """A model that embeds candidates, so that similar candidates have a small distance."""

    # The model's name and the revision of its weights; only embeddings of one source are compared.
    source: str
    # Names of the metrics that it adds to a candidate's signals.
    metric_names: Sequence[str]

    def embed(
        self, layers: Sequence[Layers], prompts: Sequence[Prompt]
    ) -> Sequence[EmbeddingResult]:
        """Embed candidates in order, deterministically, given the layers and prompt of each."""


class EmbedderLoader(Protocol):
    """The type of the object that LAYERLOOP_EMBEDDER names: a loader of embedders."""

    def __call__(self, model: str | None, aesthetic: Path | None) -> Embedder:
        """Load weights by name or folder, and those of a linear aesthetic score from a file.

        Without a model the embedder needs no weights. Raises NotFound, Refused.
        """


class TextGenerator(Protocol):
    """A language model that generates text."""

    # The model's name and, where known, the revision of its weights, as model@revision.
    source: str

    def generate(self, prompt: str, max_tokens: int, seed: int) -> str:
        """Generate an answer of at most `max_tokens` tokens. Raises Refused, Unreachable."""


class TextGeneratorLoader(Protocol):
    """The type of the object that LAYERLOOP_LLM names: a loader of language models."""

    def __call__(self, model: str) -> TextGenerator:
        """Load a model by its name or folder. Raises NotFound, Refused."""


# Exchange of weights with other programs


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights, identified by its content."""

    path: str
    sha256: str
    what: str  # description of the content
    part: str  # name of the checkpoint's part
    tensors: int
    numbers: int


@dataclass(frozen=True)
class ImportResult:
    """Imported files as a checkpoint that is not registered yet, with `notes` for the user."""

    checkpoint: Checkpoint | None  # None if nothing was stored
    files: Sequence[WeightsFile]
    notes: Sequence[str]


class CheckpointImporter(Protocol):
    """The type of the object that LAYERLOOP_IMPORTER names: an import of weights."""

    def __call__(
        self,
        files: Sequence[Path],
        preset: str,
        overrides: Mapping[str, str],
        store: ObjectStore | None,
        report: ProgressCallback,
    ) -> ImportResult:
        """Import other programs' files as one checkpoint; without a store only identify them."""


@dataclass(frozen=True)
class LoraFile:
    """A user's LoRA file, and the weight with which it is applied."""

    path: Path
    weight: float = 1.0


class LoraLoader(Protocol):
    """The type of the object that LAYERLOOP_LORA_LOADER names: a loader of LoRA files."""

    def __call__(
        self, checkpoint: Checkpoint, store: ObjectStore, loras: Sequence[LoraFile]
    ) -> Checkpoint:
        """Store LoRAs as parts of a new checkpoint. Raises NotFound, Refused."""


class CheckpointExporter(Protocol):
    """The type of the object that LAYERLOOP_EXPORTER names: an export of weights."""

    def __call__(
        self,
        checkpoint: Checkpoint,
        store: ObjectStore,
        file_format: str,
        precision: str,
        folder: Path,
    ) -> Sequence[WeightsFile]:
        """Export a checkpoint as files for other programs, and return one entry per part.

        A part that the format cannot hold has no path, and its `what` states the reason.
        """
