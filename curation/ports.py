"""Ports: the interfaces of stores, queues, generators and trainings, each with at most four methods."""

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


class ObjectStore(Protocol):
    """Bytes under the sha256 of their content: written whole or not at all, never changed."""

    def put(self, source: bytes | Path) -> str:
        """Store bytes, or a file's bytes, and return their sha256 in hex; durable when it returns."""

    def get(self, sha256: str) -> bytes:
        """The bytes of that name, checked against it. Raises NotFound, Corrupt."""

    def has(self, sha256: str) -> bool:
        """Whether the bytes of that name are stored."""

    def address(self, sha256: str, seconds: int) -> str | None:
        """A URL at which anybody may read the bytes for so long, or None where the store has no such thing."""


class Queue(Protocol):
    """Where jobs are asked for; a nudge only, since the database knows what is to be done."""

    def send(self, job: Job) -> None:
        """Ask a worker to do it; never raises: a job that is lost here is asked for again by the sweep."""


@dataclass(frozen=True)
class DrawOptions:
    """How to draw otherwise than a checkpoint's preset says; None is as it says."""

    negative: str | None = None  # a prompt for what is not wanted
    steps: int | None = None
    guidance: float | None = None
    size: tuple[int, int] | None = None  # width and height, pixels
    aspect: float | None = None  # or width / height alone: a size that the model knows
    sampler: str | None = None
    image: str | None = None  # sha256 of a stored layer to begin from
    strength: float = 0.75  # how much of `image` is drawn anew, above 0, to 1 for all of it
    upscale: float = 1.0  # the result so many times larger, with new detail
    given: Mapping[LayerRole, str] = field(
        default_factory=dict
    )  # stored layers that the drawn ones are to fit


PLAIN = DrawOptions()
"""As the preset says."""


class LayerGenerator(Protocol):
    """A loaded checkpoint that draws."""

    at_once: int
    """How many requests are drawn together: a call of fewer costs as much."""

    def draw(
        self, requests: Sequence[DrawRequest], options: DrawOptions = PLAIN
    ) -> Sequence[Layers]:
        """Draw one candidate per request, in order; deterministic in prompt, seed and options, not in the batch.

        A prompt with a foreground or a background text of its own asks for a pair: foreground, background and blended,
        of which those in `options.given` are taken as they are.
        """

    def describe(self, options: DrawOptions) -> Mapping[str, str]:
        """What a drawing with these options is made with: model, sampler, steps, guidance and the like."""


@dataclass(frozen=True)
class TextRead:
    """The words that a preset finds in a text, and how many of them, from the first, it sees at most."""

    words: Sequence[str]
    seen: int


class ReadTexts(Protocol):
    """The dotted name in LAYERLOOP_READER is one of these."""

    def __call__(
        self, preset: str, changes: Mapping[str, str], texts: Sequence[str]
    ) -> Sequence[TextRead] | None:
        """Tell how a preset reads texts, without weights; None where a pretrained model reads them."""


class OpenGenerator(Protocol):
    """The dotted name in LAYERLOOP_GENERATOR is one of these."""

    def __call__(self, checkpoint: Checkpoint, store: ObjectStore) -> LayerGenerator:
        """Load a checkpoint's weights from the store."""


class Trainer(Protocol):
    """The dotted name in LAYERLOOP_TRAINER is one of these."""

    def __call__(
        self, order: TrainingRequest, store: ObjectStore, folder: Path, report: Report
    ) -> Checkpoint:
        """Train from a snapshot, resuming exactly from what `folder` holds, and store the weights."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What else a checkpoint is to be measured by."""

    views: int | None = None  # of the alpha decoder; None is the preset's
    published: bool = False  # also in the form of the published benchmark, through JPEG
    perceptual: Path | None = None  # weights of LPIPS
    inception: Path | None = None  # weights for the Frechet inception distance
    original: bool = False  # pictures in their own size, not the preset's
    limit: int = 0  # so many pictures; 0 is all
    draws: int = (
        0  # so many captions are drawn, where there is a base, and pairs, where it draws them
    )
    clip: str | None = None  # a CLIP by name or folder, for the agreement of pairs with their texts


@dataclass(frozen=True)
class MeanWithInterval:
    """A mean, or a correlation, with the ends of its 95 % interval, which a mean of one has not."""

    mean: float  # or the correlation
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class EvaluationResult:
    """What was measured; `backgrounds` and `published` are tables: a row's name, then a figure's."""

    figures: Mapping[str, float]
    backgrounds: Mapping[str, Mapping[str, float]]
    published: Mapping[str, Mapping[str, float]]  # of other works, on other pictures
    pictures: int
    notes: Sequence[str]  # what was not measured, and why
    sheet: bytes  # PNG: truth beside reconstruction
    standard: bool  # whether figures of one name may stand beside those of a training
    pairs: Mapping[str, Mapping[str, MeanWithInterval]] = field(
        default_factory=dict
    )  # a figure's name, then whose pairs
    pairs_sheet: bytes = b""  # PNG of the pairs drawn, where there are any


class Evaluator(Protocol):
    """The dotted name in LAYERLOOP_EVALUATOR is one of these."""

    def __call__(
        self,
        checkpoint: Checkpoint,
        snapshot: str,
        store: ObjectStore,
        wanted: EvaluationOptions,
        report: Report,
    ) -> EvaluationResult:
        """Everything that can be measured of a checkpoint on the held-out split of a snapshot."""


@dataclass(frozen=True)
class MattingComparison:
    """The same requests in two ways, in their order: as layers, and as opaque pictures whose subject was cut out."""

    drawn: Sequence[RGBA]
    cut: Sequence[RGBA]
    facts: Mapping[str, str]  # how the opaque pictures were made and cut
    sheet: bytes  # PNG: layer, opaque picture and what was cut out of it


class MattingComparer(Protocol):
    """The dotted name in LAYERLOOP_COMPARER is one of these."""

    def __call__(
        self,
        checkpoint: Checkpoint,
        store: ObjectStore,
        requests: Sequence[DrawRequest],
        segmenter: str | None,
        report: Report,
    ) -> MattingComparison:
        """Draw with a checkpoint, and beside it as generate-then-matte would."""


@dataclass(frozen=True)
class StageMemory:
    """The most memory that a stage of a training holds at once, in bytes by what holds it."""

    stage: str
    device: str  # "gpu" or "processor"
    held: Mapping[str, int]
    advice: str  # a sentence: where it fits, or what to change

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(self.held.values())


class MemoryEstimator(Protocol):
    """The dotted name in LAYERLOOP_ESTIMATOR is one of these."""

    def __call__(self, order: TrainingRequest, pictures: int) -> Sequence[StageMemory]:
        """What each stage of a training will need, for a snapshot of so many pictures; nothing is loaded."""


class Captioner(Protocol):
    """A model that says what pictures show."""

    source: str  # its name and the revision of its weights, as model@revision

    def describe(
        self, pictures: Sequence[NDArray[np.uint8]], prompt: str, tokens: int
    ) -> Sequence[str]:
        """A text for each picture (H x W x 3), in order, of at most so many tokens; the same each time."""


class OpenCaptioner(Protocol):
    """The dotted name in LAYERLOOP_CAPTIONER is one of these."""

    def __call__(self, model: str) -> Captioner:
        """Load a model by its name or folder. Raises NotFound, Refused."""


@dataclass(frozen=True)
class EmbeddingResult:
    """A candidate as an embedder sees it: D numbers, and the figures that it measures beside them."""

    vector: NDArray[np.float32]
    figures: Mapping[str, float]


class Embedder(Protocol):
    """Sees candidates as numbers, so that those that look alike lie near each other."""

    source: (
        str  # its name and the revision of its weights: numbers of two embedders are never compared
    )
    measures: Sequence[str]  # names of the figures that it adds to a candidate's signals

    def see(self, drawn: Sequence[Layers], prompts: Sequence[Prompt]) -> Sequence[EmbeddingResult]:
        """Each candidate, in order; the same each time."""


class OpenEmbedder(Protocol):
    """The dotted name in LAYERLOOP_EMBEDDER is one of these."""

    def __call__(self, model: str | None, aesthetic: Path | None) -> Embedder:
        """Load weights by name or folder, and the aesthetic head's from a file. Raises NotFound, Refused."""


class TextGenerator(Protocol):
    """A language model that answers in text."""

    source: str  # its name and, where it is known, the revision of its weights, as model@revision

    def write(self, question: str, tokens: int, seed: int) -> str:
        """An answer of at most so many tokens; another seed, another answer. Raises Refused, Unreachable."""


class OpenTextGenerator(Protocol):
    """The dotted name in LAYERLOOP_WRITER is one of these."""

    def __call__(self, model: str) -> TextGenerator:
        """Load a model by its name or folder. Raises NotFound, Refused."""


@dataclass(frozen=True)
class FoundFile:
    """What a file of weights turned out to be, by its content."""

    path: str
    sha256: str
    what: str  # in words
    part: str  # of a checkpoint
    tensors: int
    numbers: int


@dataclass(frozen=True)
class ImportResult:
    """Files of weights as a checkpoint that is not registered yet; `notes` are sentences for whoever gave them."""

    checkpoint: Checkpoint | None  # None where nothing was to be stored
    files: Sequence[FoundFile]
    notes: Sequence[str]


class CheckpointImporter(Protocol):
    """The dotted name in LAYERLOOP_IMPORTER is one of these."""

    def __call__(
        self,
        files: Sequence[Path],
        preset: str,
        changes: Mapping[str, str],
        store: ObjectStore | None,
        report: Report,
    ) -> ImportResult:
        """Make one checkpoint of other programs' files; without a store only look at them."""


@dataclass(frozen=True)
class LoraFile:
    """A user's own LoRA file, and how strongly it is applied."""

    path: Path
    weight: float = 1.0


class AddLoras(Protocol):
    """The dotted name in LAYERLOOP_STYLER is one of these."""

    def __call__(
        self, checkpoint: Checkpoint, store: ObjectStore, styles: Sequence[LoraFile]
    ) -> Checkpoint:
        """Store LoRAs as parts of a new checkpoint that draws with them. Raises NotFound, Refused."""


class CheckpointExporter(Protocol):
    """The dotted name in LAYERLOOP_EXPORTER is one of these."""

    def __call__(
        self, checkpoint: Checkpoint, store: ObjectStore, form: str, precision: str, folder: Path
    ) -> Sequence[FoundFile]:
        """Write a checkpoint as files for other programs, and say what was written.

        A part that the format cannot hold is in the answer without a path, `what` saying why.
        """
