"""The part of a snapshot that a pull takes: splits, conditions on columns, and weights."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from curation.datasets.manifest import read_samples, read_withheld
from curation.domain import Kind, LayerRole, Sample, Split
from curation.errors import Refused
from curation.object_store import ObjectReader

COLUMNS = ("id", "kind", "caption", "licence", "source", "split", "round", "captioner")
"""The columns that a condition may name."""

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
    "~": lambda value, part: str(part).lower() in str(value).lower(),
}
_CONDITION = re.compile(r"\s*([a-z]+)\s*(!=|>=|<=|=|>|<|~)\s*(.*?)\s*", re.DOTALL)
_NUMERIC = ("round",)


class Selectable(Protocol):
    """A sample or a decided candidate: what conditions, layouts and cards read of it."""

    @property
    def id(self) -> str:
        """Its id, 32 hex digits."""

    @property
    def kind(self) -> Kind:
        """Single layer or pair."""

    @property
    def caption(self) -> str:
        """The caption or prompt of the whole image."""

    @property
    def licence(self) -> str:
        """Its licence."""

    @property
    def source(self) -> str:
        """Its source."""

    @property
    def split(self) -> Split:
        """Its split."""

    @property
    def round(self) -> int:
        """Number of its round; 0 for imports."""

    @property
    def captioner(self) -> str:
        """The model that wrote the caption, if one did."""

    @property
    def layers(self) -> Mapping[LayerRole, str]:
        """The sha256 of its layers by role."""

    @property
    def texts(self) -> Mapping[LayerRole, str]:
        """The texts of single layers."""

    def caption_for(self, role: LayerRole | None = None) -> str:
        """Return the text of a layer, or of the whole image."""


@dataclass(frozen=True)
class Condition:
    """A condition on a column of a sample, such as `round>=3`; `~` means "contains"."""

    column: str
    operator: str
    value: str | int

    def holds(self, sample: Selectable) -> bool:
        """Return whether a sample meets the condition."""
        value = getattr(sample, self.column)
        return _OPERATORS[self.operator](
            value if isinstance(value, int) else str(value), self.value
        )

    def __str__(self) -> str:
        return f"{self.column}{self.operator}{self.value}"


@dataclass(frozen=True)
class Weight:
    """A factor on the number of repetitions of samples that meet a condition."""

    condition: Condition
    factor: float

    def __str__(self) -> str:
        return f"{self.condition}:{self.factor:g}"


@dataclass(frozen=True)
class Selection:
    """The samples of a snapshot that a pull takes.

    Attributes:
        splits: The splits; training samples that share a layer with a held-out sample are never
            among them.
        conditions: Conditions that a sample must all meet.
        weights: Weights; those whose conditions hold are multiplied.
        since: Id of an older snapshot; samples that it lacks are new.
        new_weight: The weight of new samples.
    """

    splits: tuple[Split, ...] = (Split.train, Split.heldout)
    conditions: tuple[Condition, ...] = ()
    weights: tuple[Weight, ...] = ()
    since: str | None = None
    new_weight: float = 1.0

    def record(self) -> dict[str, Any]:
        """Return the selection as JSON, for the record of a pull and its card."""
        return {
            "splits": [str(split) for split in self.splits],
            "where": [str(condition) for condition in self.conditions],
            "weights": [str(weight) for weight in self.weights],
            "since": self.since,
            "new_weight": self.new_weight,
        }


@dataclass(frozen=True)
class SelectedSample:
    """A sample or a decided candidate of a pull, with its weight."""

    sample: Selectable
    weight: float = 1.0


def parse_condition(text: str) -> Condition:
    """Parse a condition such as `licence=CC0-1.0`, `round>=3` or `caption~glass`.

    Args:
        text: A column, one of the operators = != > >= < <= ~, and a value.

    Raises:
        Refused: The text is not a condition.
    """
    match = _CONDITION.fullmatch(text)
    column = match.group(1) if match else ""
    if match is None or column not in COLUMNS:
        raise Refused(
            f"{text[:100]!r} is not a condition",
            f"write COLUMN=VALUE, such as licence=CC0-1.0; columns: {', '.join(COLUMNS)}; "
            f"operators: {' '.join(_OPERATORS)}",
        )
    value: str | int = match.group(3)
    if column in _NUMERIC and match.group(2) != "~":
        try:
            value = int(value)
        except ValueError:
            raise Refused(
                f"{column} is a number, and {value!r} is not one", "for example round>=3"
            ) from None
    return Condition(column, match.group(2), value)


def parse_weight(text: str) -> Weight:
    """Parse a weight such as `round>=3:2`.

    Args:
        text: A condition, a colon, and a positive number.

    Raises:
        Refused: The text is not a weight.
    """
    condition, colon, number = text.rpartition(":")
    try:
        factor = float(number)
    except ValueError:
        factor = 0.0
    if not colon or not 0 < factor <= 1_000:
        raise Refused(
            f"{text[:100]!r} is not a weight",
            "write CONDITION:NUMBER, such as round>=3:2, up to 1000",
        )
    return Weight(parse_condition(condition), factor)


def select_samples(
    store: ObjectReader, snapshot: str, selection: Selection
) -> Iterator[SelectedSample]:
    """Yield the samples of a snapshot that a selection takes, in the order of their ids.

    Args:
        store: Store of the snapshot.
        snapshot: Id of the snapshot.
        selection: Splits, conditions and weights.

    Raises:
        NotFound: A part of the snapshot is not in the store.
        Corrupt: A part cannot be read.
    """
    withheld = read_withheld(store, snapshot)
    known = _known_ids(store, selection)
    for sample in read_samples(store, snapshot):
        if sample.split not in selection.splits or sample.id in withheld:
            continue
        if all(condition.holds(sample) for condition in selection.conditions):
            yield SelectedSample(sample, _weight_of(sample, selection, known))


def folder_weights(selected: Sequence[SelectedSample]) -> dict[int, list[SelectedSample]]:
    """Group samples by weight, for programs that repeat whole folders.

    Args:
        selected: The samples of a pull.

    Returns:
        The samples by weight, in ascending order of the weights.

    Raises:
        Refused: A weight is not a whole number.
    """
    groups: dict[int, list[SelectedSample]] = {}
    for item in selected:
        repeats = round(item.weight)
        if repeats < 1 or abs(repeats - item.weight) > 1e-9:
            raise Refused(
                f"a weight of {item.weight:g} cannot be expressed by repeated folders",
                "give whole numbers from 1, or use --format imagefolder, parquet or webdataset",
            )
        groups.setdefault(repeats, []).append(item)
    return dict(sorted(groups.items()))


def _known_ids(store: ObjectReader, selection: Selection) -> frozenset[str] | None:
    if selection.since is None:
        return None
    return frozenset(sample.id for sample in read_samples(store, selection.since))


def _weight_of(sample: Sample, selection: Selection, known: frozenset[str] | None) -> float:
    weight = 1.0 if known is None or sample.id in known else selection.new_weight
    for weighting in selection.weights:
        if weighting.condition.holds(sample):
            weight *= weighting.factor
    return weight
