"""Seeded faults in a round: the short form of the campaign (`python -m tests.faults.campaign`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.campaign import make_bucket, run_seeds
from tests.support.fault_runs import make_scenario, open_rig
from tests.support.servers import S3Server

SEEDS = [3, 10, 17, 20, 33]


@pytest.mark.slow
def test_seeded_faults_lose_nothing_and_change_nothing(
    tmp_path: Path, s3_credentials: S3Server, redis_address: str
) -> None:
    # A database of Redis for these runs alone, since they empty it. RabbitMQ is left to the
    # campaign: other tests use the same virtual host.
    redis = redis_address.rpartition("/")[0] + "/13"
    make_bucket(s3_credentials)
    with open_rig(tmp_path, s3_credentials, None, redis) as rig:
        failures = run_seeds(rig, SEEDS, ("embedded", "redis"))
    assert not failures


def test_scenarios_cover_every_kind_of_fault() -> None:
    scenarios = [make_scenario(seed, ("embedded", "redis", "rabbitmq")) for seed in range(1, 1001)]
    happening = {what for scenario in scenarios for _, what in scenario.events}
    assert len(happening) == 11  # 4 of the instance and 7 of S3
    killed = {plan.kill[0] for one in scenarios for plan in one.plans if plan.kill}
    assert len(killed) == 10
    assert {one.broker for one in scenarios} == {"embedded", "redis", "rabbitmq"}
    for name in ("disk_full_until", "clock_seconds", "doubled", "held_back"):
        assert any(getattr(plan, name) for one in scenarios for plan in one.plans), name
