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
    """What a layer is in its picture; a single image has only a foreground."""

    foreground = "foreground"
    background = "background"
    blended = "blended"


class Kind(StrEnum):
    """What one candidate, sample or round is made of."""

    single = "single"
    pair = "pair"


class CandidateState(StrEnum):
    """Where a candidate stands; MOVES says where it may go."""

    requested = "requested"  # to be drawn
    drawing = "drawing"  # leased by a worker
    drawn = "drawn"  # layers stored, not yet measured
    refused = "refused"  # by screening, with the signal and its value
    screened = "screened"  # passed; the policy has not chosen yet
    unshown = "unshown"  # the policy did not choose it for people
    waiting = "waiting"  # at the desk
    showing = "showing"  # leased by a reviewer
    accepted = "accepted"
    rejected = "rejected"
    failed = "failed"  # drawing or measuring it failed too often
    withdrawn = "withdrawn"  # its round was closed before a verdict


_S = CandidateState
_SAID = (_S.accepted, _S.rejected)
STATE_TRANSITIONS: frozenset[tuple[CandidateState, CandidateState]] = frozenset(
    {
        (_S.requested, _S.drawing),
        (_S.drawing, _S.requested),  # lease lost, or a failed attempt
        (_S.drawing, _S.drawn),
        (_S.drawing, _S.failed),
        (_S.drawn, _S.refused),
        (_S.drawn, _S.screened),
        (_S.drawn, _S.failed),
        (_S.screened, _S.waiting),
        (_S.screened, _S.unshown),
        (_S.unshown, _S.waiting),  # a later policy may still show it
        (_S.waiting, _S.showing),
        (_S.showing, _S.waiting),  # skipped, or the lease ran out
        # By a reviewer, also after the lease ran out, or by the machine; an undo hands it back to the same reviewer,
        # the machine's verdicts are taken back to where nobody was shown them.
        *(
            (one, said)
            for one in (_S.showing, _S.waiting, _S.screened, _S.unshown)
            for said in _SAID
        ),
        *((said, one) for said in _SAID for one in (_S.showing, _S.unshown)),
        *(
            (one, _S.withdrawn)
            for one in (_S.requested, _S.drawing, _S.drawn, _S.screened, _S.waiting, _S.showing)
        ),
    }
)
"""The whole law of candidate states; the database enforces the same pairs (table candidate_moves)."""


class RoundState(StrEnum):
    """A paused round draws nothing and shows nothing; a closed one is history."""

    open = "open"
    paused = "paused"
    closed = "closed"


class Verdict(StrEnum):
    """What a reviewer said; `undo` is a row of its own that voids an earlier one."""

    accept = "accept"
    reject = "reject"
    skip = "skip"
    undo = "undo"


class Rule(StrEnum):
    """How the verdicts of several reviewers become one; single where one decides alone."""

    single = "single"
    majority = "majority"
    dawid_skene = "dawid_skene"


class RejectReason(StrEnum):
    """Why a layer is not good enough, in the words of the paper's users (number keys on the page)."""

    halo = "halo"  # fringe of another colour along the edge
    residue = "residue"  # haze or debris of a background
    holes = "holes"  # parts of the subject are punched out
    opaque = "opaque"  # what should be see-through is not
    cropped = "cropped"  # the subject is cut at the border
    malformed = "malformed"  # wrong anatomy or structure
    prompt_miss = "prompt_miss"  # not what the prompt asked for
    duplicate = "duplicate"
    other = "other"
    clash = "clash"  # of a pair: light, colour or place of its layers do not fit


class Role(StrEnum):
    """What a signed-in person may do, from least to most."""

    annotator = "annotator"
    engineer = "engineer"
    trainer = "trainer"
    admin = "admin"


class RunState(StrEnum):
    """Where a run of training or captions stands."""

    requested = "requested"
    running = "running"
    finished = "finished"
    failed = "failed"
    cancelled = "cancelled"


class CaptionSource(StrEnum):
    """Where a sample's caption comes from; one made from a file name counts as no caption."""

    given = "given"  # by a person, a manifest or a text file
    model = "model"  # Sample.captioner names it
    file_name = "file name"


class Split(StrEnum):
    """Held-out samples are never trained on; only an import with --update moves a sample from one to the other."""

    train = "train"
    heldout = "heldout"


HELDOUT_SHARE = 0.05


def content_id(*parts: object) -> uuid.UUID:
    """The id of a thing that is its content: the first 128 bits of the sha256 of the parts as canonical JSON."""
    text = canonical_json([str(part) for part in parts])
    return uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16])


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, and no NaN, so that equal values have equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def split_of(visible: str) -> Split:
    """The split of a picture by its own visible pixels (64 hex digits): copies always fall on the same side."""
    return Split.heldout if int(visible[:8], 16) < HELDOUT_SHARE * 2**32 else Split.train


@dataclass(frozen=True)
class Prompt:
    """The text a candidate is drawn from; for pairs also the two texts of its layers."""

    text: str
    foreground: str | None = None
    background: str | None = None

    @property
    def id(self) -> uuid.UUID:
        """Equal texts are one prompt."""
        return content_id("prompt", self.text, self.foreground, self.background)

    @property
    def texts(self) -> dict[LayerRole, str]:
        """The texts of single layers, where it has them."""
        return {role: text for role in LayerRole if (text := getattr(self, role, None))}


@dataclass(frozen=True)
class Sample:
    """Accepted layers with what must be known of them: one line of a snapshot's manifest.

    `layers` maps a role to the sha256 of the stored image's bytes; `visible` is the hash of the pixels that can be
    seen (curation.images.codec.visible_hash); `round` is 0 for seeds. `captioner` is the model that wrote the caption
    (model@revision), empty for people and imports. `texts` are captions of single layers, `caption` is the whole's.
    `caption_source` is told only where the caption was made from a file name, so that all other lines stay as they
    were before there was such a mark.
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

    def line(self) -> str:
        """The sample as a canonical line of JSON without its end; fields of OPTIONAL are left out where empty."""
        row = self.__dict__ | {"layers": dict(self.layers), "texts": dict(self.texts)}
        return canonical_json(
            {name: row[name] for name in row if row[name] or name not in OPTIONAL}
        )

    def text_of(self, role: LayerRole | None = None) -> str:
        """Return the text of a layer, or of the whole; empty where the caption was only made from a file name."""
        caption = "" if self.caption_source is CaptionSource.file_name else self.caption
        return self.texts.get(role, caption) if role else caption

    @staticmethod
    def read(line: str) -> Sample:
        """The inverse of `line`; ValueError, KeyError or TypeError on anything else."""
        row = json.loads(line)
        texts = ("id", "caption", "licence", "source", "visible")
        return Sample(
            **{name: str(row[name]) for name in texts},
            kind=Kind(row["kind"]),
            split=Split(row["split"]),
            round=int(row["round"]),
            layers={LayerRole(role): str(sha) for role, sha in row["layers"].items()},
            captioner=str(row.get("captioner", "")),
            texts={LayerRole(role): str(text) for role, text in row.get("texts", {}).items()},
            caption_source=CaptionSource(row["caption_source"])
            if row.get("caption_source")
            else None,
        )


OPTIONAL = frozenset({"captioner", "texts", "caption_source"})
"""Fields of a sample that its line leaves out where they are empty: equal samples keep the line they always had."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights and how they came to be.

    `files` maps a part (backbone, transparency, base, layers, or a released mode, such as joint) to the sha256 of a
    stored safetensors file, `evaluation` a figure to its value; `sheet` is a PNG drawn at fixed seeds; `changes` are
    numbers of the preset set otherwise, as text. Imported weights have the recipe "imported" and no snapshot.
    """

    files: Mapping[str, str]
    recipe: str
    preset: str
    snapshot: str | None
    parent: str | None
    seed: int
    code_version: str
    evaluation: Mapping[str, float] = field(default_factory=dict)
    sheet: str | None = None
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The sha256 of weights and lineage: the same training twice is the same checkpoint."""
        lineage: list[Any] = [self.recipe, self.preset, self.snapshot, self.parent, self.seed]
        lineage += [dict(self.changes)] if self.changes else []
        return hashlib.sha256(canonical_json([dict(self.files), lineage]).encode()).hexdigest()


@dataclass(frozen=True)
class DrawRequest:
    """One candidate to be drawn; the same request to the same checkpoint gives the same layers."""

    prompt: Prompt
    seed: int


@dataclass(frozen=True)
class TrainingRequest:
    """What a trainer is asked for; its id is its content, so that asking twice is asking once.

    Samples of `snapshot` that `previous` lacks are drawn more often (paper, section 3.4: twice as often). `images`
    overrides the preset's count of training images, when not 0; `changes` are other numbers of the preset, as text.
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
        """Names the run and its folder."""
        parent = self.parent.id if self.parent else None
        asked = [
            self.recipe,
            self.preset,
            self.snapshot,
            self.previous,
            parent,
            self.seed,
            self.images,
        ]
        return content_id(
            "run", *asked, *([canonical_json(dict(self.changes))] if self.changes else [])
        )


@dataclass(frozen=True)
class Progress:
    """How far long work has come: `done` of `total` (images, files, candidates), in the stage named."""

    stage: str
    done: int
    total: int
    figures: Mapping[str, float] = field(default_factory=dict)
    stage_number: int = 0  # from 1; 0 where the number of stages is not known
    stage_count: int = 0


@dataclass(frozen=True)
class RuleVerdict:
    """What the oracle says of a candidate, with a sentence for the record; `layers` as in a decision."""

    verdict: Verdict
    reasons: Sequence[RejectReason]
    sentence: str
    layers: Sequence[LayerRole] = ()


@dataclass(frozen=True)
class Job:
    """Named work on ids, asked for through the queue; doing it twice must be the same as once."""

    name: str
    args: Sequence[str | int] = ()


GPU_JOBS = frozenset({"draw", "train", "caption"})
"""Names of the jobs for the queue "gpu", whose workers hold weights; all others go to the queue "cpu"."""


class ReviewItemLayer(NamedTuple):
    """One stored layer as it is shown: its name in the object store and its size in pixels."""

    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class ReviewItem:
    """What a reviewer sees of a candidate; `texts` are those of single layers, where its prompt has some."""

    id: uuid.UUID
    round: int
    kind: Kind
    prompt: str
    flags: tuple[str, ...]
    layers: Mapping[LayerRole, ReviewItemLayer]
    signals: Mapping[str, float | None]
    texts: Mapping[LayerRole, str] = field(default_factory=dict)
