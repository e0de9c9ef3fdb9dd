"""Domain values and enumerations, and the state machine of candidates."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple


class LayerRole(StrEnum):
    """The role of a layer in its image; a single image has only a foreground."""

    foreground = "foreground"
    background = "background"
    blended = "blended"


class Kind(StrEnum):
    """The kind of a candidate, sample or round: single layers, or pairs of layers."""

    single = "single"
    pair = "pair"


class CandidateState(StrEnum):
    """The state of a candidate; STATE_TRANSITIONS lists the allowed changes."""

    requested = "requested"  # to be generated
    generating = "generating"  # leased by a worker
    generated = "generated"  # layers stored, not yet measured
    refused = "refused"  # by screening, with the signal and its value
    screened = "screened"  # passed; the policy has not selected yet
    unshown = "unshown"  # the policy did not select it for review
    waiting = "waiting"  # in the review queue
    showing = "showing"  # leased by a reviewer
    accepted = "accepted"
    rejected = "rejected"
    failed = "failed"  # generating or measuring it failed too often
    withdrawn = "withdrawn"  # its round was closed before a verdict
    removed = "removed"  # taken down: its layers and texts are gone for ever


_S = CandidateState
_DECIDED = (_S.accepted, _S.rejected)
_UNDECIDED = (_S.showing, _S.waiting, _S.screened, _S.unshown)
_WITHDRAWABLE = (_S.requested, _S.generating, _S.generated, _S.screened, _S.waiting, _S.showing)
STATE_TRANSITIONS: frozenset[tuple[CandidateState, CandidateState]] = frozenset(
    {
        (_S.requested, _S.generating),
        (_S.generating, _S.requested),  # lease lost, or a failed attempt
        (_S.generating, _S.generated),
        (_S.generating, _S.failed),
        (_S.generated, _S.refused),
        (_S.generated, _S.screened),
        (_S.generated, _S.failed),
        # A retry of failed candidates, at the step that failed.
        (_S.failed, _S.requested),
        (_S.failed, _S.generated),
        (_S.screened, _S.waiting),
        (_S.screened, _S.unshown),
        (_S.unshown, _S.waiting),  # a later policy may still show it
        (_S.waiting, _S.showing),
        (_S.showing, _S.waiting),  # skipped, or the lease ran out
        # Verdicts: by a reviewer, also after the lease expired, or by the auto-reviewer.
        *((before, decided) for before in _UNDECIDED for decided in _DECIDED),
        # An undo returns it to the same reviewer; a reverted automatic verdict hides it again.
        *((decided, after) for decided in _DECIDED for after in (_S.showing, _S.unshown)),
        # Closing a round withdraws all that has no verdict; a takedown removes in any state.
        *((before, _S.withdrawn) for before in _WITHDRAWABLE),
        *((before, _S.removed) for before in CandidateState if before is not _S.removed),
    }
)
"""All allowed changes of state; the database enforces the same pairs (table candidate_moves)."""


class RoundState(StrEnum):
    """The state of a round: a paused round generates and shows nothing; a closed round is final."""

    open = "open"
    paused = "paused"
    closed = "closed"


class Verdict(StrEnum):
    """A reviewer's decision; `undo` is a row of its own that voids an earlier decision."""

    accept = "accept"
    reject = "reject"
    skip = "skip"
    undo = "undo"


class ConsensusRule(StrEnum):
    """The rule that combines verdicts of several reviewers; single: the first verdict decides."""

    single = "single"
    majority = "majority"
    dawid_skene = "dawid_skene"


class RejectReason(StrEnum):
    """The reasons to reject a layer, in the order of the number keys on the review page."""

    halo = "halo"  # fringe of another color along the edge
    residue = "residue"  # haze or debris of a background
    holes = "holes"  # parts of the subject are punched out
    opaque = "opaque"  # a part that should be transparent is opaque
    cropped = "cropped"  # the subject is cut at the border
    malformed = "malformed"  # wrong anatomy or structure
    prompt_miss = "prompt_miss"  # not what the prompt asked for
    duplicate = "duplicate"
    other = "other"
    clash = "clash"  # of a pair: light, color or position of its layers do not match


class Role(StrEnum):
    """The role of a signed-in person, from the fewest permissions to the most."""

    annotator = "annotator"
    engineer = "engineer"
    trainer = "trainer"
    admin = "admin"


class RunState(StrEnum):
    """The state of a training run or a captioning run; only training runs are paused."""

    requested = "requested"
    running = "running"
    paused = "paused"
    finished = "finished"
    failed = "failed"
    cancelled = "cancelled"


class CaptionSource(StrEnum):
    """The origin of a sample's caption; a caption made from a file name counts as none."""

    given = "given"  # by a person, a manifest or a text file
    model = "model"  # Sample.captioner names it
    file_name = "file name"


class Split(StrEnum):
    """The split of a sample; held-out samples are never trained on.

    Only an import with --update moves a sample from one split to the other.
    """

    train = "train"
    heldout = "heldout"


HELDOUT_FRACTION = 0.05


def content_id(*parts: object) -> uuid.UUID:
    """Return a content-derived id: the first 128 bits of the sha256 of the canonical JSON.

    Args:
        *parts: The values that identify the object, in order; each enters as its `str`.
    """
    text = canonical_json([str(part) for part in parts])
    return uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16])  # of 128 bits


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, no spaces and no NaN, so that equal values have equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def assign_split(pixel_hash: str) -> Split:
    """Return the split of an image by the hash of its visible pixels, so that copies share it."""
    return Split.heldout if int(pixel_hash[:8], 16) < HELDOUT_FRACTION * 2**32 else Split.train


@dataclass(frozen=True)
class Prompt:
    """The text that a candidate is generated from; for pairs also the texts of its two layers."""

    text: str
    foreground: str | None = None
    background: str | None = None

    @property
    def id(self) -> uuid.UUID:
        """The id, which is the same for equal texts."""
        return content_id("prompt", self.text, self.foreground, self.background)

    @property
    def texts(self) -> dict[LayerRole, str]:
        """The texts of single layers, as far as the prompt has them."""
        return {role: text for role in LayerRole if (text := getattr(self, role, None))}


@dataclass(frozen=True)
class Sample:
    """Accepted layers with their metadata: one line of a snapshot's manifest.

    `layers` maps a role to the sha256 of the stored image's bytes; `visible` is the hash of the
    visible pixels (curation.images.codec.pixel_hash); `round` is 0 for seeds. `captioner` is the
    model that wrote the caption (model@revision), empty for people and imports. `texts` are
    captions of single layers, `caption` is the caption of the whole image. `caption_source` is set
    only where the caption was made from a file name, `licence_text` where the importer wrote the
    licence in other words than its SPDX id, so that other lines are as before the fields existed.
    """

    id: str
    kind: Kind
    caption: str
    licence: str
    source: str
    split: Split
    round: int
    visible: str
    layers: Mapping[LayerRole, str]
    captioner: str = ""
    texts: Mapping[LayerRole, str] = field(default_factory=dict)
    caption_source: CaptionSource | None = None
    licence_text: str = ""

    def line(self) -> str:
        """Return the sample as one line of canonical JSON, without empty optional fields."""
        row = self.__dict__ | {"layers": dict(self.layers), "texts": dict(self.texts)}
        return canonical_json(
            {name: row[name] for name in row if row[name] or name not in OPTIONAL_SAMPLE_FIELDS}
        )

    def caption_for(self, role: LayerRole | None = None) -> str:
        """Return a layer's own caption, else the image's; empty if it came from a file name."""
        caption = "" if self.caption_source is CaptionSource.file_name else self.caption
        return self.texts.get(role, caption) if role else caption

    @staticmethod
    def read(line: str) -> Sample:
        """Parse a line that `line` returned; ValueError, KeyError or TypeError on other lines."""
        row = json.loads(line)
        texts = ("id", "caption", "licence", "source", "visible")
        origin = row.get("caption_source")
        return Sample(
            **{name: str(row[name]) for name in texts},
            kind=Kind(row["kind"]),
            split=Split(row["split"]),
            round=int(row["round"]),
            layers={LayerRole(role): str(sha) for role, sha in row["layers"].items()},
            captioner=str(row.get("captioner", "")),
            texts={LayerRole(role): str(text) for role, text in row.get("texts", {}).items()},
            caption_source=CaptionSource(origin) if origin else None,
            licence_text=str(row.get("licence_text", "")),
        )


OPTIONAL_SAMPLE_FIELDS = frozenset({"captioner", "texts", "caption_source", "licence_text"})
"""Fields that a sample's line omits where they are empty, so that old samples keep their lines."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights and their lineage.

    `files` maps a part (such as base, layers or joint) to the sha256 of a stored safetensors file;
    `evaluation` maps a metric to its value; `sample_grid` is the sha256 of a PNG; `changes` are
    overrides of the preset, as text. Imported weights have the recipe "imported", no snapshot.
    """

    files: Mapping[str, str]
    recipe: str
    preset: str
    snapshot: str | None
    parent: str | None
    seed: int
    code_version: str
    evaluation: Mapping[str, float] = field(default_factory=dict)
    sample_grid: str | None = None
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The sha256 of weights and lineage, so that a repeated training is the same checkpoint."""
        # Without changes the id is the same as before the field existed.
        lineage: list[Any] = [self.recipe, self.preset, self.snapshot, self.parent, self.seed]
        lineage += [dict(self.changes)] if self.changes else []
        return hashlib.sha256(canonical_json([dict(self.files), lineage]).encode()).hexdigest()


@dataclass(frozen=True)
class GenerationRequest:
    """One candidate to generate; a checkpoint returns the same layers for the same request."""

    prompt: Prompt
    seed: int


@dataclass(frozen=True)
class TrainingRequest:
    """The parameters of a training run; its id is its content, so that equal requests are one run.

    Samples of `snapshot` that `previous` lacks are sampled more often (paper, section 3.4: twice as
    often). `images` overrides the preset's number of training images, when not 0; `changes`
    overrides other values of the preset, as text.
    """

    recipe: str
    preset: str
    snapshot: str
    previous: str | None
    parent: Checkpoint | None
    seed: int
    images: int = 0
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> uuid.UUID:
        """The id of the run, which also names its folder."""
        parent = self.parent.id if self.parent else None
        lineage = [self.recipe, self.preset, self.snapshot, self.previous, parent]
        changes = [canonical_json(dict(self.changes))] if self.changes else []
        return content_id("run", *lineage, self.seed, self.images, *changes)


@dataclass(frozen=True)
class Progress:
    """The progress of long work: `done` of `total` (images, files, candidates) in a stage."""

    stage: str
    done: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    stage_number: int = 0  # from 1; 0 where the number of stages is not known
    stage_count: int = 0


@dataclass(frozen=True)
class RuleVerdict:
    """The rule reviewer's decision on a candidate, with an explanation for the record.

    `layers` are the layers that the reasons concern, one for each reason, as in a decision.
    """

    verdict: Verdict
    reasons: Sequence[RejectReason]
    sentence: str
    layers: Sequence[LayerRole] = ()


class JobName(StrEnum):
    """Every kind of job; its value names the task in the queue."""

    generate = "generate"  # draw the layers of requested candidates
    draw_comparisons = "draw_comparisons"  # draw both sides of a comparison
    screen = "screen"  # measure generated candidates and refuse or pass them
    select = "select"  # choose screened candidates for review
    fit_acceptance_model = "fit_acceptance_model"
    measure_diversity = "measure_diversity"  # measure how diverse a round's candidates are
    review = "review"  # let the rule reviewer decide
    aggregate = "aggregate"  # estimate reviewer skills and settle waiting candidates
    push_tasks = "push_tasks"  # to Label Studio
    pull_annotations = "pull_annotations"  # from Label Studio
    deliver_webhooks = "deliver_webhooks"
    train = "train"
    caption = "caption"
    refresh_reports = "refresh_reports"  # store the statistics that pages cannot wait for
    advance_loop = "advance_loop"  # take the next step of a loop
    reconcile = "reconcile"  # release expired leases and enqueue pending work again


@dataclass(frozen=True)
class Job:
    """A named job on ids that is sent through the queue; it must be idempotent."""

    name: JobName
    args: Sequence[str | int] = ()


class ReviewItemLayer(NamedTuple):
    """One stored layer to show: its sha256 in the object store and its size in pixels."""

    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class ReviewItem:
    """A candidate as a reviewer sees it; `texts` are the prompt's texts of its layers, if any."""

    id: uuid.UUID
    round: int
    kind: Kind
    prompt: str
    flags: tuple[str, ...]
    layers: Mapping[LayerRole, ReviewItemLayer]
    signals: Mapping[str, float | None]
    texts: Mapping[LayerRole, str] = field(default_factory=dict)
