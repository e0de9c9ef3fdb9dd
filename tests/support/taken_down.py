"""An instance with images of two sources, and what a takedown of one of them must not leave."""

from __future__ import annotations

import json
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from PIL import Image

from curation.adapters.embedded_postgres import find_programs
from curation.adapters.snapshot_sources import pack_folder
from curation.checkpoints.registry import promote_checkpoint, register_checkpoint
from curation.datasets.captions import set_caption
from curation.datasets.manifest import snapshot_objects
from curation.datasets.snapshots import freeze_snapshot
from curation.db.engine import Database
from curation.db.tables import candidate_layers, candidates, sample_layers, samples
from curation.domain import Checkpoint, Sample
from curation.ingest.listing import ListingOptions
from curation.ingest.seed_import import import_seeds
from curation.object_store import FolderStore
from curation.takedown.execution import TakedownPlace, take_down
from curation.takedown.selectors import Selector

SECRET = "a secret of thirty-two characters"
BAD, GOOD = "https://bad.example/set", "a friend"


def blob(seed: int, size: int = 64) -> np.ndarray:
    """Return a soft blob of its own form and color; no two are near duplicates."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] - size / 2) / size
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    edge = 0.3 + 0.12 * np.cos(int(rng.integers(2, 8)) * angle + rng.uniform(0, 6))
    alpha = np.clip((edge - radius) * size / 2 + 0.5, 0, 1)
    wave = 60 * np.sin(20 * x[..., None] * rng.uniform(-1, 1, 3))
    rgb = np.clip(rng.uniform(0, 255, 3) + wave, 0, 255)
    rgba = np.rint(np.dstack([rgb, alpha * 255])).astype(np.uint8)
    rgba[rgba[..., 3] == 0] = 0
    return rgba


def write_folder(folder: Path, numbers: range, source: str, words: str) -> Path:
    """Write images with captions, a licence and a source; the last is cut, so that it is reviewed."""
    folder.mkdir(parents=True)
    rows = []
    for number in numbers:
        image = blob(number)
        if number == numbers[-1]:
            image = np.ascontiguousarray(image[:, :32])
        Image.fromarray(image).save(folder / f"{number}.png")
        row = {"file_name": f"{number}.png", "text": f"{words} number {number}"}
        rows.append(row | {"licence": "CC0-1.0", "source": source})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@dataclass(frozen=True)
class TwoSources:
    """The names by which tests find parts of the instance.

    Attributes:
        bad: Folder of the source that is taken down.
        good: Folder of the other source.
        snapshot: The snapshot of both, tagged "both".
        only_good: The snapshot of the other source alone.
        checkpoint: Trained on both, and promoted.
        child: Continues `checkpoint` on the other source alone.
        clean: Trained on the other source alone.
        forbidden: Bytes and texts that a takedown of the bad source must not leave anywhere.
        hashes: Names of the bad source's layers.
    """

    bad: Path
    good: Path
    snapshot: str
    only_good: str
    checkpoint: str
    child: str
    clean: str
    forbidden: tuple[bytes, ...]
    hashes: frozenset[str]


def fill_two_sources(database: Database, store: FolderStore, folder: Path) -> TwoSources:
    """Import two sources, caption, freeze and record checkpoints as trainings would."""
    good = write_folder(folder / "good", range(100, 108), GOOD, "a friendly shape")
    bad = write_folder(folder / "bad", range(200, 208), BAD, "an unlicensed shape")
    import_seeds(database, store, good, workers=1, options=ListingOptions())
    only_good = freeze_snapshot(database, store, tag="good", actor="test").id
    import_seeds(database, store, bad, workers=1, options=ListingOptions())
    first, other = samples_of(database, BAD)[0], samples_of(database, GOOD)[0]
    with database.transaction() as tx:
        set_caption(tx, other.id, "a friendly shape, described better", "test")
        set_caption(tx, first.id, "an unlicensed shape, captioned later", "test")
    both = freeze_snapshot(database, store, tag="both", actor="test").id
    with database.transaction() as tx:
        made = [
            _checkpoint(tx, store, both, None, 1),
            _checkpoint(tx, store, only_good, None, 3),
        ]
        child = _checkpoint(tx, store, only_good, made[0], 2)
        promote_checkpoint(tx, made[0], "test")
    hashes = frozenset(_layers_of(database, BAD))
    parts = snapshot_objects(store, both)
    forbidden = (b"an unlicensed shape", *(store.get(name) for name in sorted(hashes)),
                 *(store.get(name) for name in parts))  # fmt: skip
    return TwoSources(bad, good, both, only_good, made[0], child, made[1], forbidden, hashes)


def take_down_now(
    database: Database, store: FolderStore, selector: Selector, **fields: Any
) -> list[dict[str, Any]]:
    """Take down as the command does."""
    place = TakedownPlace(database, store, SECRET, "test", pack_folder)
    return take_down(place, selector, "asked to", lambda _: None, **fields)


def samples_of(database: Database, source: str) -> list[Sample]:
    """Return the samples of a source, by id."""
    with database.transaction() as tx:
        lines = tx.execute(sa.select(samples.c.line).order_by(samples.c.id)).scalars()
        return [one for one in map(Sample.read, lines) if one.source == source]


def dump(address: str) -> str:
    """Return the whole database as pg_dump writes it, without the list of blocked layers."""
    url = sa.make_url(address).set(drivername="postgresql").render_as_string(hide_password=False)
    left_out = ["--exclude-table-data=blocked_layers", "--exclude-table-data=takedown_items"]
    return subprocess.run(
        # Of the embedded server: an older pg_dump refuses a newer server.
        [find_programs() / "pg_dump", "--data-only", "--inserts", *left_out, url],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def find_forbidden(folder: Path, forbidden: tuple[bytes, ...]) -> list[str]:
    """Return the files below a folder that contain one of some byte strings."""
    return [
        str(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and any(one in file.read_bytes() for one in forbidden)
    ]


def _checkpoint(tx: Any, store: FolderStore, snapshot: str, parent: str | None, seed: int) -> str:
    files = {"base": store.put(f"weights {seed}".encode() * 99)}
    grid = store.put(f"grid {seed} {uuid.uuid4()}".encode())
    made = Checkpoint(files, "whole", "tiny", snapshot, parent, seed, "test", {}, grid)
    return register_checkpoint(tx, made, "test")


def _layers_of(database: Database, source: str) -> set[str]:
    ids = [uuid.UUID(one.id) for one in samples_of(database, source)]
    with database.transaction() as tx:
        of_samples = sa.select(sample_layers.c.sha256).where(sample_layers.c.sample_id.in_(ids))
        reviewed = sa.select(candidate_layers.c.sha256).join(
            candidates, candidates.c.id == candidate_layers.c.candidate_id
        )
        of_source = reviewed.where(candidates.c.origin["source"].astext == source)
        return {*tx.execute(of_samples).scalars(), *tx.execute(of_source).scalars()}
