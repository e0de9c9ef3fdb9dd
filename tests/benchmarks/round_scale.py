"""Measure `layerloop round accept-top` on synthetic candidates: scores, plan, accepted candidates and their audit.

    python -m tests.benchmarks.round_scale [--candidates 100000 1000000] [--database postgresql://...]

Nothing is drawn: rows are made in PostgreSQL (triggers and foreign keys off while they are), each with eight signals,
an embedding of 96 numbers and one of 2,000 prompts. A head of that size is fitted to 2,000 decisions; a fifth of the
candidates is kept, 300 of these are audited and accepted, and the machine accepts the rest. For each step it prints
seconds, and the peak of this process's memory so far. The embedded server is the benchmark's own.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import sqlalchemy as sa

from curation.db.engine import Database, Transaction
from curation.db.schema import migrate
from curation.db.tables import candidates, prompts, rounds
from curation.domain import Kind, Prompt
from curation.screening.embedding import pack_vector
from curation.selection import acceptance_model_store, top_n_accept
from tests.support.candidate_streams import SOURCE, arrive_measured, judge_waiting, open_stream
from tests.support.factories import OpenTransaction, fresh_database, make_round, with_database
from tests.support.servers import postgres

NUMBERS, SIGNALS, PROMPTS, TAUGHT = 96, 8, 2_000, 2_000
MANY = {"kind": "random", "share": 0.01}


def main() -> None:
    """Print a line for each step and size."""
    options = _options()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with postgres(options.database) as server:
        for count in options.candidates:
            with fresh_database(server) as name:
                _measure(Database(with_database(server, name)), count)


def _measure(database: Database, count: int) -> None:
    migrate(database)
    with database.transaction() as tx:
        _teach(tx)
        round_id = make_round(tx, quota=count)
        tx.execute(sa.update(rounds).where(rounds.c.id == round_id).values(policy=MANY))
    print(f"{count} candidates", flush=True)
    _time("made", lambda: _make(database, round_id, count))
    with database.transaction() as tx:
        kept = acceptance_model_store.find_model(tx, Kind.single)
    terms = top_n_accept.TopNSettings(keep=count // 5)

    def within(do: Callable[[Transaction], Any]) -> Callable[[], Any]:
        def do_it() -> Any:
            with database.transaction() as tx:
                return do(tx)

        return do_it

    _time("scored", within(lambda tx: acceptance_model_store.score_round(tx, kept, round_id)))
    _time(
        "planned, scored before",
        within(lambda tx: top_n_accept.plan_top_n(tx, round_id, terms)["kept"]),
    )
    _time(
        "begun", within(lambda tx: top_n_accept.begin_top_n(tx, round_id, terms, "bench")["kept"])
    )
    waiting = sa.select(candidates.c.id).where(
        candidates.c.round_id == round_id, candidates.c.state == "waiting"
    )
    with database.transaction() as tx:
        judge_waiting(tx, round_id, dict.fromkeys(tx.execute(waiting).scalars().all(), True))
    _time(
        "looked at",
        within(lambda tx: top_n_accept.finish_top_n(tx, round_id, "bench", dry_run=True)["bound"]),
    )
    _time(
        "accepted",
        within(lambda tx: top_n_accept.finish_top_n(tx, round_id, "bench")["auto_accepted"]),
    )


def _teach(tx: Transaction) -> None:
    """Store an acceptance model of the size of the built-in: NUMBERS of an embedding, SIGNALS signals."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((TAUGHT, SIGNALS))
    vectors = rng.standard_normal((TAUGHT, NUMBERS)).astype(np.float32)
    round_id = open_stream(tx, MANY, TAUGHT)
    signals = [{f"s{index}": float(value) for index, value in enumerate(row)} for row in values]
    ids = arrive_measured(
        tx, round_id, 1, signals, vectors, [f"known {index % 50}" for index in range(TAUGHT)]
    )
    tx.execute(
        sa.update(candidates)
        .where(candidates.c.round_id == round_id)
        .values(state="waiting", propensity=1.0)
    )
    good = values[:, 0] + vectors[:, 0] + 0.5 * rng.standard_normal(TAUGHT) > 0.5
    judge_waiting(tx, round_id, dict(zip(ids, good.tolist(), strict=True)))
    acceptance_model_store.fit_and_store(OpenTransaction(tx), Kind.single, SOURCE)


def _make(database: Database, round_id: int, count: int) -> None:
    vectors = [
        bytes(pack_vector(one))
        for one in np.random.default_rng(2).standard_normal((512, NUMBERS)).astype(np.float32)
    ]
    requested = [Prompt(f"prompt {index}") for index in range(PROMPTS)]
    with database.transaction() as tx:
        tx.execute(sa.insert(prompts), [{"id": one.id, "text": one.text} for one in requested])
        tx.connection.exec_driver_sql("set local session_replication_role = replica")
        tx.connection.exec_driver_sql(
            "create temp table known (place int, vector bytea) on commit drop"
        )
        tx.execute(
            sa.text("insert into known values (:place, :vector)"),
            [{"place": index, "vector": one} for index, one in enumerate(vectors)],
        )
        for statement in _MAKE:
            tx.execute(
                sa.text(statement),
                {"round": round_id, "count": count, "prompts": PROMPTS, "source": SOURCE},
            )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as raw:
        raw.exec_driver_sql("analyze")


_MADE = "select id from candidates where round_id = :round"
_MAKE = (
    """insert into candidates (id, round_id, prompt_id, seed, state)
    select md5('scale ' || i)::uuid, :round, p.id, i, 'screened' from generate_series(1, :count) as i
    join (select id, row_number() over (order by text) - 1 as place from prompts where text like 'prompt %') p
        on p.place = i % :prompts""",
    f"""insert into screenings (candidate_id, signals)
    select id, (select jsonb_object_agg('s' || s, round((random() * 4 - 2)::numeric, 6)) from generate_series(0, 7) s
        where made.id is not null) from ({_MADE}) made""",
    f"""insert into embeddings (candidate_id, source, vector)
    select id, :source, vector from (select id, (random() * 511)::int as place from ({_MADE}) m) made
    join known using (place)""",
    f"""insert into layers (sha256, width, height, bytes, visible)
    select md5(id::text) || md5(id::text), 1, 1, 1, md5(id::text) || md5(id::text) from ({_MADE}) made""",
    f"""insert into candidate_layers (candidate_id, role, sha256)
    select id, 'foreground', md5(id::text) || md5(id::text) from ({_MADE}) made""",
)


def _time(what: str, do: Callable[[], Any]) -> None:
    began = time.monotonic()
    found = do()
    seconds, peak = (
        time.monotonic() - began,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    print(
        f"  {what}: {seconds:.1f} s, {peak:.0f} MiB" + ("" if found is None else f" ({found})"),
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--database", help="a PostgreSQL to use in place of an embedded one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
