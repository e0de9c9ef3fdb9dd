"""A whole loop over PostgreSQL, S3 and a broker, while its workers are killed (`tests.faults.loop_kills`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation.loops.plan import LoopPlan, LoopReviewer
from tests.faults.loop_kills import Kills, compare_loops, find_differences
from tests.support.servers import S3Server


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_a_loop_with_killed_workers_makes_the_snapshots_of_an_undisturbed_one(
    broker: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    postgres_address: str,
    s3_credentials: S3Server,
) -> None:
    queue = request.getfixturevalue(f"{broker}_address")
    plan = LoopPlan(1, 8, "micro", LoopReviewer.person, images=96)
    kills = Kills(workers=2, every=8, most=3, seed=7, limit=400)
    expected, result = compare_loops(tmp_path, postgres_address, s3_credentials, queue, plan, kills)
    assert find_differences(result, expected) == []
    assert result.kills > 0
