"""Measure the time of a round by the number of workers: generation, and screening from a slow object store.

    python -m tests.benchmarks.worker_scaling [--quota 512] [--workers 1 2 4 8] [--seconds-each 0.3]

Real PostgreSQL (LAYERLOOP_TEST_DATABASE or an embedded one), radosgw and RabbitMQ. The generator sleeps, so that the
workers' share of the processor is small, as it is where a graphics card does the work. Screening reads through a proxy
that delays each request. Each figure is the time from the opening of the round (or the start of screening) to its last
candidate; the ratio is to one worker's time divided by the number of workers.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from curation.adapters.pgmq_schema import install_pgmq
from curation.db.engine import Database
from curation.db.schema import migrate
from tests.support import servers
from tests.support.factories import fresh_database, states, with_database
from tests.support.s3_proxy import S3Proxy, s3_proxy
from tests.support.servers import wait_for
from tests.support.worker_processes import WorkerInstance, worker_instance


def generate(
    instance: WorkerInstance, count: int, arguments: argparse.Namespace, _proxy: S3Proxy
) -> float:
    """Seconds in which so many workers generate a round."""
    for _ in range(count):
        instance.start("generate", TEST_SECONDS_EACH=str(arguments.seconds_each))
    instance.wait_for_workers(count, 300)
    started = time.monotonic()
    round_id = instance.open_round(arguments.quota)
    wait_until(
        lambda: states(instance.database, round_id).get("generated", 0) == arguments.quota, 900
    )
    took = time.monotonic() - started
    generated = instance.generated()
    assert (len(generated), set(generated.values())) == (arguments.quota, {1}), "generated twice"
    return took


def screen(
    instance: WorkerInstance, count: int, arguments: argparse.Namespace, proxy: S3Proxy
) -> float:
    """Seconds in which so many workers screen a generated round."""
    round_id = instance.open_round(arguments.quota)
    instance.start("generate")
    wait_until(
        lambda: states(instance.database, round_id).get("generated", 0) == arguments.quota, 900
    )
    instance.stop()
    instance.processes.clear()
    # The workers are there before the work, as it is in a running instance.
    with instance.database.transaction() as tx:
        tx.connection.exec_driver_sql(f"update rounds set state = 'paused' where id = {round_id}")
    for _ in range(count):
        instance.start("screen")
    instance.wait_for_workers(count, 300)
    proxy.delay = arguments.delay
    started = time.monotonic()
    with instance.database.transaction() as tx:
        tx.connection.exec_driver_sql(f"update rounds set state = 'open' where id = {round_id}")
    wait_until(lambda: "generated" not in states(instance.database, round_id), 900)
    return time.monotonic() - started


def wait_until(there: Callable[[], bool], seconds: float) -> None:
    """Wait until something is so."""
    wait_for("the round", there, seconds)


def main() -> None:
    """Measure and print both tables as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quota", type=int, default=512)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds-each", type=float, default=0.3)
    parser.add_argument("--delay", type=float, default=3.0)
    parser.add_argument("--what", nargs="+", default=["generate", "screen"])
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="scaling-") as folder,
        servers.postgres(os.environ.get("LAYERLOOP_TEST_DATABASE")) as postgres,
    ):
        for name in ("ceph", "rabbitmq"):
            (Path(folder) / name).mkdir()
        with (
            servers.radosgw(Path(folder) / "ceph") as s3,
            servers.rabbitmq(Path(folder) / "rabbitmq") as rabbitmq,
        ):
            for what in arguments.what:
                measure = generate if what == "generate" else screen
                alone: float | None = None
                for count in arguments.workers:
                    with (
                        s3_proxy(s3.endpoint) as proxy,
                        fresh_database(postgres) as name,
                    ):
                        address = with_database(postgres, name)
                        database = Database(address)
                        migrate(database)
                        database.close()
                        install_pgmq(address)
                        home = Path(folder) / f"{what}-{count}"
                        endpoint = proxy.endpoint if what == "screen" else None
                        with worker_instance(home, address, s3, endpoint, rabbitmq) as instance:
                            took = measure(instance, count, arguments, proxy)
                    alone = alone or took
                    row: dict[str, object] = {
                        "what": what,
                        "workers": count,
                        "seconds": round(took, 1),
                        "times_alone_by_n": round(took * count / alone, 3),
                    }
                    if what == "screen":
                        row |= {"objects": len(proxy.read), "downloads": sum(proxy.read.values())}
                        assert set(proxy.read.values()) == {1}, "an object was read twice"
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
