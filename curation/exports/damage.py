"""What verification finds: objects and files that are missing or damaged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Damage:
    """An object or file that is missing or damaged.

    Attributes:
        kind: "manifest", "part", "decisions", "withheld", "layer", "file", or of a pack "pack",
            "shard", "index" and "energon".
        name: sha256 of the object, or path of the file.
        problem: What is wrong.
        samples: Ids of the samples that it concerns, as far as they are known.
        candidates: Ids of the decided candidates that it concerns.
    """

    kind: str
    name: str
    problem: str
    samples: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
