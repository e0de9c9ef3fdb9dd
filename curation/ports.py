"""Ports: the interfaces of stores, queues, generators and trainers, with at most four methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curation.domain import (
    Checkpoint,
    DrawRequest,
    Job,
    LayerRole,
    Progress,
    Prompt,
    TrainingRequest,
)

RGBA = NDArray[np.uint8]
"""One straight (not premultiplied) image, H x W x 4, sRGB and alpha in 0..255."""

Layers = Mapping[LayerRole, RGBA]
Report = Callable[[Progress], None]
"""A callback that receives the progress of long work; it may raise to stop the work."""


# Storage and jobs


class ObjectStore(Protocol):
    """Objects under the sha256 of their content: written atomically and never changed."""

    def put(self, source: bytes | Path) -> str:
        """Store bytes or a file, and return the sha256 in hex; durable when it returns."""

    def get(self, sha256: str) -> bytes:
        """Return the bytes with that sha256, after checking it. Raises NotFound, Corrupt."""

    def has(self, sha256: str) -> bool:
        """Return whether the object is stored."""

    def address(self, sha256: str, seconds: int) -> str | None:
        """Return a URL from which anybody may read the object for a time.

        Args:
            sha256: The object's name.
            seconds: How long the URL is valid.

        Returns:
            The URL, or None if the store has no server of its own.
        """


class Queue(Protocol):
    """A queue of jobs; a message only wakes a worker, since the database holds the pending work."""

    def send(self, job: Job) -> None:
        """Send a job to a worker; never raises, since the reconcile job sends lost jobs again."""


# Generation


@dataclass(frozen=True)
class DrawOptions:
    """Options of generation that override a checkpoint's preset; None keeps the preset's value."""

    # Negative prompt.
    negative: str | None = None
    steps: int | None = None
    guidance: float | None = None
    # Width and height in pixels.
    size: tuple[int, int] | None = None
    # Instead of `size`, width / height: the nearest image size that the model was trained at.
    aspect: float | None = None
    sampler: str | None = None
    # sha256 of a stored layer to start from (image-to-image).
    image: str | None = None
    # Share of `image` that is replaced, above 0; 1 replaces all of it.
    strength: float = 0.75
    # Factor by which the result is enlarged, with new detail.
    upscale: float = 1.0
    # Stored layers (sha256) that the generated layers must fit.
    given: Mapping[LayerRole, str] = field(default_factory=dict)


PLAIN = DrawOptions()
"""The options of the preset, unchanged."""


class LayerGenerator(Protocol):
    """A loaded checkpoint that generates layers."""

    at_once: int
    """The batch size: a smaller call costs as much as a full one."""

    def draw(
        self, requests: Sequence[DrawRequest], options: DrawOptions = PLAIN
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

    def describe(self, options: DrawOptions) -> Mapping[str, str]:
        """Return metadata of an image generated with these options: model, sampler, steps etc."""


@dataclass(frozen=True)
class TextRead:
    """The words that a preset knows in a text, and how many of its first words the model reads."""

    words: Sequence[str]
    seen: int


class ReadTexts(Protocol):
    """The type of the object that LAYERLOOP_READER names: a reader of a preset's text input."""

    def __call__(
        self, preset: str, changes: Mapping[str, str], texts: Sequence[str]
    ) -> Sequence[TextRead] | None:
        """Return which words of texts a preset reads, without loading weights.

        Args:
            preset: Name of the preset.
            changes: Overrides of the preset, as text.
            texts: Prompts or captions.

        Returns:
            One result per text, or None if a pretrained text encoder reads them.
        """


class OpenGenerator(Protocol):
    """The type of the object that LAYERLOOP_GENERATOR names: a loader of checkpoints."""

    def __call__(self, checkpoint: Checkpoint, store: ObjectStore) -> LayerGenerator:
        """Load a checkpoint's weights from the store."""


# Training and evaluation


class Trainer(Protocol):
    """The type of the object that LAYERLOOP_TRAINER names: a training program."""

    def __call__(
        self, order: TrainingRequest, store: ObjectStore, folder: Path, report: Report
    ) -> Checkpoint:
        """Train on a snapshot and store the weights.

        Args:
            order: Recipe, preset, snapshot, parent and seed.
            store: Store of the snapshot's images, and of the weights.
            folder: Folder of the run; training resumes exactly from the state in it.
            report: Callback for progress.

        Returns:
            The checkpoint, which is not registered yet.
        """


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation: additional metrics and limits."""

    # Number of test-time augmentations of the alpha decoder; None is the preset's number.
    views: int | None = None
    # Also measure in the form of the published benchmark, through JPEG.
    published: bool = False
    # Weights of LPIPS.
    perceptual: Path | None = None
    # Weights of the network for the Frechet inception distance.
    inception: Path | None = None
    # Measure images in their own size instead of the preset's.
    original: bool = False
    # Largest number of images; 0 is all.
    limit: int = 0
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

    figures: Mapping[str, float]
    backgrounds: Mapping[str, Mapping[str, float]]
    # Results of other works, measured on other images.
    published: Mapping[str, Mapping[str, float]]
    pictures: int
    # The metrics that were not measured, each with the reason.
    notes: Sequence[str]
    # PNG: ground truth beside reconstruction.
    sheet: bytes
    # Whether the metrics are comparable with the metrics of the same name that training records.
    standard: bool
    # Name of a metric, then the origin of the pairs.
    pairs: Mapping[str, Mapping[str, MeanWithInterval]] = field(default_factory=dict)
    # PNG of the generated pairs, if there are any.
    pairs_sheet: bytes = b""


class Evaluator(Protocol):
    """The type of the object that LAYERLOOP_EVALUATOR names: a full evaluation."""

    def __call__(
        self,
        checkpoint: Checkpoint,
        snapshot: str,
        store: ObjectStore,
        wanted: EvaluationOptions,
        report: Report,
    ) -> EvaluationResult:
        """Evaluate a checkpoint on the held-out split of a snapshot.

        Args:
            checkpoint: The checkpoint.
            snapshot: Id of the snapshot.
            store: Store of the weights and images.
            wanted: Additional metrics and limits.
            report: Callback for progress.

        Returns:
            All metrics that the checkpoint's parts allow.
        """


@dataclass(frozen=True)
class MattingComparison:
    """The same requests generated as layers, and generated as opaque images and then matted."""

    drawn: Sequence[RGBA]
    cut: Sequence[RGBA]
    # How the opaque images were generated and matted.
    facts: Mapping[str, str]
    # PNG: layer, opaque image and the matted image.
    sheet: bytes


class MattingComparer(Protocol):
    """The type of the object that LAYERLOOP_COMPARER names: a comparison with matting."""

    def __call__(
        self,
        checkpoint: Checkpoint,
        store: ObjectStore,
        requests: Sequence[DrawRequest],
        segmenter: str | None,
        report: Report,
    ) -> MattingComparison:
        """Generate requests with a checkpoint, and by generation of opaque images and matting.

        Args:
            checkpoint: The checkpoint.
            store: Store of the weights.
            requests: Prompts and seeds.
            segmenter: Segmentation model by name or folder; None uses the built-in matting.
            report: Callback for progress.

        Returns:
            Both results for each request, in order.
        """


@dataclass(frozen=True)
class StageMemory:
    """The peak memory of a training stage, in bytes by kind of content."""

    stage: str
    device: str  # "gpu" or "processor"
    held: Mapping[str, int]
    # A sentence: on which device the stage fits, or which setting to change.
    advice: str

    @property
    def peak(self) -> int:
        """The sum over all kinds of content, in bytes."""
        return sum(self.held.values())


class MemoryEstimator(Protocol):
    """The type of the object that LAYERLOOP_ESTIMATOR names: an estimate of training memory."""

    def __call__(self, order: TrainingRequest, pictures: int) -> Sequence[StageMemory]:
        """Estimate the memory of each stage of a training run, without loading weights.

        Args:
            order: The training run.
            pictures: Number of images in the snapshot.

        Returns:
            One estimate per stage, in order.
        """


# Other models


class Captioner(Protocol):
    """An image captioning model."""

    # The model's name and the revision of its weights, as model@revision.
    source: str

    def describe(
        self, pictures: Sequence[NDArray[np.uint8]], prompt: str, tokens: int
    ) -> Sequence[str]:
        """Caption images deterministically.

        Args:
            pictures: RGB images, each H x W x 3.
            prompt: Instruction for the model.
            tokens: Largest number of tokens in a caption.

        Returns:
            One caption per image, in order.
        """


class OpenCaptioner(Protocol):
    """The type of the object that LAYERLOOP_CAPTIONER names: a loader of captioning models."""

    def __call__(self, model: str) -> Captioner:
        """Load a model by its name or folder. Raises NotFound, Refused."""


@dataclass(frozen=True)
class EmbeddingResult:
    """A candidate's embedding, a vector of D numbers, and the metrics measured with it."""

    vector: NDArray[np.float32]
    figures: Mapping[str, float]


class Embedder(Protocol):
    """A model that embeds candidates, so that similar candidates have a small distance."""

    # The model's name and the revision of its weights; embeddings of two sources are never compared.
    source: str
    # Names of the metrics that it adds to a candidate's signals.
    measures: Sequence[str]

    def see(self, drawn: Sequence[Layers], prompts: Sequence[Prompt]) -> Sequence[EmbeddingResult]:
        """Embed candidates deterministically.

        Args:
            drawn: The layers of each candidate.
            prompts: The prompt of each candidate.

        Returns:
            One result per candidate, in order.
        """


class OpenEmbedder(Protocol):
    """The type of the object that LAYERLOOP_EMBEDDER names: a loader of embedders."""

    def __call__(self, model: str | None, aesthetic: Path | None) -> Embedder:
        """Load an embedder.

        Args:
            model: Weights by name or folder; None for an embedder without weights.
            aesthetic: File with the weights of a linear aesthetic score, if it is wanted.

        Raises:
            NotFound: The weights do not exist.
            Refused: The weights are not usable.
        """


class TextGenerator(Protocol):
    """A language model that generates text."""

    # The model's name and, where known, the revision of its weights, as model@revision.
    source: str

    def write(self, question: str, tokens: int, seed: int) -> str:
        """Answer a question.

        Args:
            question: The prompt.
            tokens: Largest number of tokens in the answer.
            seed: Seed of the sampling; another seed gives another answer.

        Raises:
            Refused: The model does not accept the request.
            Unreachable: The server does not answer.
        """


class OpenTextGenerator(Protocol):
    """The type of the object that LAYERLOOP_WRITER names: a loader of language models."""

    def __call__(self, model: str) -> TextGenerator:
        """Load a model by its name or folder. Raises NotFound, Refused."""


# Exchange of weights with other programs


@dataclass(frozen=True)
class FoundFile:
    """A file of weights, identified by its content."""

    path: str
    sha256: str
    # Description of the content, in words.
    what: str
    # Name of the checkpoint's part.
    part: str
    tensors: int
    numbers: int


@dataclass(frozen=True)
class ImportResult:
    """Imported files as a checkpoint that is not registered yet; `notes` are remarks for the user."""

    # None if nothing was stored.
    checkpoint: Checkpoint | None
    files: Sequence[FoundFile]
    notes: Sequence[str]


class CheckpointImporter(Protocol):
    """The type of the object that LAYERLOOP_IMPORTER names: an import of weights."""

    def __call__(
        self,
        files: Sequence[Path],
        preset: str,
        changes: Mapping[str, str],
        store: ObjectStore | None,
        report: Report,
    ) -> ImportResult:
        """Import other programs' files as one checkpoint.

        Args:
            files: Files of weights.
            preset: Name of the preset that the weights belong to.
            changes: Overrides of the preset, as text.
            store: Store for the converted weights; None only identifies the files.
            report: Callback for progress.
        """


@dataclass(frozen=True)
class LoraFile:
    """A user's LoRA file, and the weight with which it is applied."""

    path: Path
    weight: float = 1.0


class AddLoras(Protocol):
    """The type of the object that LAYERLOOP_STYLER names: a loader of LoRA files."""

    def __call__(
        self, checkpoint: Checkpoint, store: ObjectStore, styles: Sequence[LoraFile]
    ) -> Checkpoint:
        """Store LoRAs as parts of a new checkpoint.

        Args:
            checkpoint: The checkpoint that the LoRAs are added to.
            store: Store of the weights.
            styles: The LoRA files with their weights.

        Raises:
            NotFound: A file does not exist.
            Refused: A file is not a LoRA of this checkpoint's model.
        """


class CheckpointExporter(Protocol):
    """The type of the object that LAYERLOOP_EXPORTER names: an export of weights."""

    def __call__(
        self, checkpoint: Checkpoint, store: ObjectStore, form: str, precision: str, folder: Path
    ) -> Sequence[FoundFile]:
        """Export a checkpoint as files for other programs.

        Args:
            checkpoint: The checkpoint.
            store: Store of the weights.
            form: Name of the file format.
            precision: Floating-point type of the exported weights.
            folder: Folder for the files.

        Returns:
            One entry per part. A part that the format cannot hold has no path, and its `what`
            states the reason.
        """
