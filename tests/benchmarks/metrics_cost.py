"""Measure the time of /metrics and `layerloop status` in the database by the number of candidates.

    python tests/benchmarks/metrics_cost.py --candidates 1000000 [--database postgresql://...]

It makes a database of its own on the server, and drops it at the end.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import sqlalchemy as sa

from curation.db import schema
from curation.db.engine import Database
from curation.reporting.instance_status import read_status
from curation.runtime.instance_metrics import read_metrics
from tests.support.factories import fresh_database, with_database
from tests.support.servers import postgres

REPEATS = 40

FILL = """
    insert into prompts (id, text) select gen_random_uuid(), 'p' || n from generate_series(1, 50) n;
    insert into checkpoints (id, recipe, preset, seed, code_version, files, evaluation)
        values (repeat('c', 64), 'whole', 'tiny', 1, 'x', '{{}}', '{{}}');
    insert into rounds (purpose, kind, checkpoint_id, quota, policy, state)
        select 'generated', 'single', repeat('c', 64), {each}, '{{}}',
            case when n < 20 then 'closed' else 'open' end from generate_series(1, 20) n;
    insert into candidates (id, round_id, prompt_id, seed, state)
        select gen_random_uuid(), r.id, p.id, n,
            (array['accepted', 'rejected', 'refused', 'waiting', 'requested'])[1 + n % 5]
        from rounds r cross join prompts p cross join generate_series(1, {each} / 50) n"""


def main() -> None:
    """Fill a database, and print the median and the 95th percentile of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--database")
    arguments = parser.parse_args()
    with postgres(arguments.database) as server, fresh_database(server) as name:
        database = Database(with_database(server, name))
        schema.migrate(database)
        with database.transaction() as tx:
            tx.execute(sa.text(FILL.format(each=arguments.candidates // 20)))
        with database.transaction() as tx:
            tx.execute(sa.text("analyze"))
            print(tx.scalar(sa.text("select count(*) from candidates")), "candidates")
        print("/metrics", _measure(lambda: list(read_metrics(database))))
        print("status  ", _measure(lambda: _read_status(database)))
        database.close()


def _read_status(database: Database) -> None:
    with database.transaction() as tx:
        read_status(tx)


def _measure(work: Callable[[], object]) -> str:
    work()
    times = []
    for _ in range(REPEATS):
        # Spread over half a minute, so that one burst of other work does not decide.
        time.sleep(0.5)
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1000)
    last = statistics.quantiles(times, n=20)[-1]
    return f"median {statistics.median(times):.1f} ms, 95th percentile {last:.1f} ms"


if __name__ == "__main__":
    main()
