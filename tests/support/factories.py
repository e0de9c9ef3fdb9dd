"""Factories of databases, images, checkpoints, rounds, and candidates in a given state."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.checkpoints.registry import promote_checkpoint, register_checkpoint
from curation.db.engine import Database, Transaction
from curation.db.tables import candidate_layers, candidates, layers, prompts, rounds, snapshots
from curation.domain import STATE_TRANSITIONS, CandidateState, Checkpoint, Prompt, content_id
from curation.images.codec import encode_layer, pixel_hash
from curation.ports import RGBA, Layers, ObjectStore
from curation.synthetic.backgrounds import draw_pair, sample_scene


def image(seed: int, width: int = 32, height: int = 24) -> RGBA:
    """Return a small RGBA image of noise from a seed, with alpha 0, 255 and values between."""
    rng = np.random.default_rng(seed)
    rgba: RGBA = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgba[: height // 3, :, 3] = 0
    rgba[-height // 3 :, :, 3] = 255
    return rgba


def make_checkpoint(tx: Transaction, name: str = "first") -> str:
    """Promote a new checkpoint without weights, of an empty snapshot; return its ID."""
    snapshot = _sha("snapshot", name)
    tx.execute(sa.insert(snapshots), {"id": snapshot, "samples": 0, "counts": {}})
    checkpoint = Checkpoint({}, "transparency", "tiny", snapshot, None, 0, "test", {"psnr": 30.0})
    register_checkpoint(tx, checkpoint, "test")
    return promote_checkpoint(tx, checkpoint.id, "test")


def make_round(
    tx: Transaction, checkpoint: str | None = None, quota: int = 100, kind: str = "single"
) -> int:
    """Insert an open round of a checkpoint, made if none is given; return the round's ID."""
    checkpoint = checkpoint or make_checkpoint(tx, uuid.uuid4().hex)
    row = {
        "purpose": "generated",
        "kind": kind,
        "checkpoint_id": checkpoint,
        "quota": quota,
        "policy": {"kind": "random", "share": 1.0},
        "state": "open",
    }
    return int(tx.scalar(sa.insert(rounds).values(row).returning(rounds.c.id)))


def make_candidates(
    tx: Transaction,
    store: ObjectStore,
    round_id: int,
    count: int,
    state: CandidateState = CandidateState.waiting,
    start: int = 0,
) -> Sequence[uuid.UUID]:
    """Insert candidates with one layer each, moved to `state`; return their IDs in order."""
    ids = []
    for seed in range(start, start + count):
        prompt = Prompt(f"prompt {seed} of round {round_id}")
        tx.execute(sa.insert(prompts), {"id": prompt.id, "text": prompt.text})
        id_ = content_id("candidate", round_id, prompt.id, seed)
        row = {
            "id": id_,
            "round_id": round_id,
            "prompt_id": prompt.id,
            "seed": seed,
            "state": "requested",
        }
        tx.execute(sa.insert(candidates), row)
        _store_layer(tx, store, id_, image(round_id * 100_003 + seed))
        for step in path_to(state):
            values = {"state": step, "propensity": 1.0} if step == "waiting" else {"state": step}
            tx.execute(sa.update(candidates).where(candidates.c.id == id_).values(values))
        ids.append(id_)
    return ids


def make_pairs(
    tx: Transaction,
    store: ObjectStore,
    round_id: int,
    pairs: Sequence[tuple[Prompt, Layers]],
    state: CandidateState = CandidateState.waiting,
) -> Sequence[uuid.UUID]:
    """Insert candidates with several layers each, moved to `state`; return their IDs in order."""
    ids = []
    for seed, (prompt, pair_layers) in enumerate(pairs):
        texts = {
            "text": prompt.text,
            "foreground": prompt.foreground,
            "background": prompt.background,
        }
        tx.execute(insert(prompts).on_conflict_do_nothing(), {"id": prompt.id} | texts)
        id_ = content_id("candidate", round_id, prompt.id, seed)
        row = {
            "id": id_,
            "round_id": round_id,
            "prompt_id": prompt.id,
            "seed": seed,
            "state": "requested",
        }
        tx.execute(sa.insert(candidates), row)
        for role, rgba in pair_layers.items():
            _store_layer(tx, store, id_, rgba, role)
        for step in path_to(state):
            values = {"state": step, "propensity": 1.0} if step == "waiting" else {"state": step}
            tx.execute(sa.update(candidates).where(candidates.c.id == id_).values(values))
        ids.append(id_)
    return ids


def scenes(count: int, size: int = 64, start: int = 0) -> list[tuple[Prompt, Layers]]:
    """Return procedural pairs with their prompts."""
    pairs = []
    for index in range(start, start + count):
        rng = np.random.default_rng([17, index])
        scene = sample_scene(rng)
        pairs.append((scene.prompt, draw_pair(scene, rng, size)))
    return pairs


def path_to(state: CandidateState) -> list[CandidateState]:
    """Return the shortest sequence of states after "requested" that ends in a state."""
    paths: list[list[CandidateState]] = [[CandidateState.requested]]
    for path in paths:
        if path[-1] == state:
            return path[1:]
        paths += [
            [*path, target]
            for source, target in sorted(STATE_TRANSITIONS)
            if source == path[-1] and target not in path
        ]
    raise AssertionError(f"no transitions lead to {state}")


def states(database: Database, round_id: int) -> dict[str, int]:
    """Return the number of candidates of a round in each state."""
    query = sa.select(candidates.c.state, sa.func.count().label("total")).where(
        candidates.c.round_id == round_id
    )
    with database.transaction() as tx:
        return {row.state: row.total for row in tx.execute(query.group_by(candidates.c.state))}


@contextmanager
def fresh_database(server: str, template: str = "template0") -> Iterator[str]:
    """Yield the name of a new database, a copy of a template, which is dropped at the end."""
    url = sa.make_url(server).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    name = f"test_{uuid.uuid4().hex[:16]}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"create database {name} template {template}")
    try:
        yield name
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"drop database if exists {name} with (force)")


def with_database(server: str, name: str) -> str:
    """Return the address of another database of the same server."""
    return sa.make_url(server).set(database=name).render_as_string(hide_password=False)


def _store_layer(
    tx: Transaction, store: ObjectStore, candidate: uuid.UUID, rgba: RGBA, role: str = "foreground"
) -> None:
    stored = encode_layer(rgba)
    row = {
        "sha256": store.put(stored),
        "width": rgba.shape[1],
        "height": rgba.shape[0],
        "bytes": len(stored),
        "visible": pixel_hash(rgba),
    }
    tx.execute(insert(layers).on_conflict_do_nothing(), row)
    tx.execute(
        sa.insert(candidate_layers),
        {"candidate_id": candidate, "role": role, "sha256": row["sha256"]},
    )


def _sha(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


class OpenTransaction:
    """A database whose transactions are all one open transaction, for tests that inspect it."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        yield self.tx
