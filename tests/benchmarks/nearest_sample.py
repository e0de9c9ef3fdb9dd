"""Measure how long the search for the most similar accepted sample takes in pools of different sizes.

    python -m tests.benchmarks.nearest_sample [--samples 1000 100000] [--asked 100]

The layers are of 64 kinds of figures, and those of a kind are alike (15 of 100 bits differ), so that bands are crowded.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time

import numpy as np
import sqlalchemy as sa

from curation.db.engine import Database, Transaction
from curation.images.perceptual_hash import index_keys
from curation.review.similar_samples import most_similar_sample
from tests.benchmarks.review_queue import _database, _server


def main() -> None:
    """Print a line for each size of the pool."""
    options = _options()
    print(f"{'samples':>9} | {'p50':>6} {'p95':>6}  ms")
    with _server(None) as server:
        for samples in options.samples:
            with _database(server) as address:
                database = Database(address)
                took = _measure(database, samples, options.asked)
                database.close()
            cuts = statistics.quantiles(took, n=20)
            print(f"{samples:>9,} | {cuts[9]:>6.1f} {cuts[18]:>6.1f}", flush=True)


def _measure(database: Database, samples: int, asked: int) -> list[float]:
    """Milliseconds of each question, for candidates all over the round."""
    with database.transaction() as tx:
        _add_layers(tx, samples + asked)
        for statement in _FILL:
            tx.execute(sa.text(statement), {"n": samples, "all": samples + asked})
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("vacuum analyze")
    with database.transaction() as tx:
        waiting = (
            tx.execute(sa.text("select id from candidates where state = 'waiting'")).scalars().all()
        )
    took = []
    for one in waiting:
        started = time.perf_counter()
        with database.transaction() as tx:
            found = most_similar_sample(tx, one)
        took.append(1_000 * (time.perf_counter() - started))
        if found is None or found.bits is None:
            raise SystemExit("nothing was found")
    return took


def _add_layers(tx: Transaction, count: int) -> None:
    """Layers with fingerprints and their rows in the index, at a time as many as fit into a statement."""
    rng = np.random.default_rng(0)
    kinds = rng.random((64, 192)) < 0.5
    for start in range(1, count + 1, 5_000):
        numbers = np.arange(start, min(start + 5_000, count + 1))
        bits = kinds[numbers % 64] ^ (rng.random((len(numbers), 192)) < 0.15)
        marks = [np.packbits(row).tobytes() + bytes([128]) * 256 for row in bits]
        names = [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]
        tx.execute(_ADD_LAYERS, {"names": names, "marks": marks})
        bands = [(band, value, name) for name, mark in zip(names, marks, strict=True)
                 for band, value in enumerate(index_keys(mark))]  # fmt: skip
        columns = dict(
            zip(("bands", "bits", "names"), map(list, zip(*bands, strict=True)), strict=True)
        )
        tx.execute(_ADD_BANDS, columns)


_ADD_LAYERS = sa.text("""
    insert into layers (sha256, width, height, bytes, visible, fingerprint)
    select name, 64, 64, 4096, name, mark from unnest(cast(:names as text[]), cast(:marks as bytea[])) t (name, mark)""")

_ADD_BANDS = sa.text("""
    insert into layer_bands (band, value, sha256)
    select * from unnest(cast(:bands as smallint[]), cast(:bits as integer[]), cast(:names as text[]))""")

_NAME = "encode(sha256(i::text::bytea), 'hex')"

_FILL = (
    "insert into snapshots (id, samples, counts) values (repeat('a', 64), 0, '{}')",
    """insert into checkpoints (id, recipe, preset, snapshot_id, seed, code_version, files, evaluation)
       values (repeat('b', 64), 'whole', 'tiny', repeat('a', 64), 0, 'benchmark', '{}', '{}')""",
    """insert into rounds (purpose, kind, checkpoint_id, quota, policy, state)
       select 'generated', 'single', repeat('b', 64), 1, '{}', 'open' from generate_series(1, 25)""",
    "insert into prompts (id, text) select md5('prompt' || i)::uuid, 'number ' || i from generate_series(0, 999) i",
    "insert into reviewers (name, kind, access) values ('Ada', 'person', 'annotator')",
    """insert into candidates (id, round_id, prompt_id, seed, state, propensity)
       select md5('c' || i)::uuid, i % 25 + 1, md5('prompt' || i % 1000)::uuid, i, 'requested', 1.0
       from generate_series(1, :all) i""",
    f"""insert into candidate_layers (candidate_id, role, sha256)
       select md5('c' || i)::uuid, 'foreground', {_NAME} from generate_series(1, :all) i""",
    *(
        f"update candidates set state = '{state}'"
        for state in ("generating", "generated", "screened", "waiting")
    ),
    "update candidates set state = 'accepted' where seed <= :n",
    """insert into decisions (candidate_id, reviewer_id, verdict, channel, key)
       select id, 1, 'accept', 'pages', id from candidates where state = 'accepted'""",
    """insert into samples (id, kind, visible, split, round, candidate_id, line)
       select md5('s' || i)::uuid, 'single', md5('v' || i) || md5('w' || i), 'train', i % 25 + 1, md5('c' || i)::uuid,
           json_build_object('id', md5('s' || i), 'kind', 'single', 'caption', 'number ' || i, 'licence', '', 'source', '',
               'split', 'train', 'round', 1, 'visible', '', 'layers', '{}'::json)::text
       from generate_series(1, :n) i""",
    f"""insert into sample_layers (sample_id, role, sha256)
       select md5('s' || i)::uuid, 'foreground', {_NAME} from generate_series(1, :n) i""",
)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The nearest sample in pools of different sizes.")
    parser.add_argument("--samples", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--asked", type=int, default=100)
    return parser.parse_args()


if __name__ == "__main__":
    main()
