"""Run many seeded fault runs: `python -m tests.faults.campaign --runs 1000`; `--seed N` replays one."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import boto3

from tests.support import servers
from tests.support.fault_runs import Outcome, Rig, make_scenario, open_rig, run_scenario

BUCKET = "faults"


def compare(outcome: Outcome, reference: Outcome) -> list[str]:
    """Return the differences of a run from the run without faults."""
    problems = list(outcome.problems)
    if not problems:
        changed = [
            id_ for id_, state in reference.states.items() if outcome.states.get(id_) != state
        ]
        if changed:
            problems.append(f"{len(changed)} candidates have another state")
        if outcome.snapshot != reference.snapshot:
            problems.append(f"snapshot {outcome.snapshot[:12]}, not {reference.snapshot[:12]}")
    return problems


def run_seeds(rig: Rig, seeds: list[int], brokers: tuple[str, ...]) -> dict[int, list[str]]:
    """Run the run without faults and then each seed; return the problems by seed."""
    reference = run_scenario(rig, make_scenario(0, brokers))
    assert not reference.problems, reference.problems
    failures: dict[int, list[str]] = {}
    started, restarts, s3_faults = time.monotonic(), 0, 0
    for done, seed in enumerate(seeds, start=1):
        scenario = make_scenario(seed, brokers)
        outcome = run_scenario(rig, scenario)
        problems = compare(outcome, reference)
        restarts, s3_faults = restarts + outcome.restarts, s3_faults + outcome.s3_faults
        if problems:
            failures[seed] = problems
            plan = json.dumps(asdict(scenario), default=str)
            print(f"seed {seed}: {'; '.join(problems)}\n  {plan}", flush=True)
            print(f"  replay: python -m tests.faults.campaign --seed {seed}", flush=True)
        if done % 20 == 0 or done == len(seeds):
            seconds = time.monotonic() - started
            print(
                f"{done} runs, {len(failures)} failed, {restarts} processes killed, "
                f"{s3_faults} requests to S3 failed, {seconds:.0f} s",
                flush=True,
            )
    return failures


def main() -> int:
    """Run the campaign; return 1 if a run failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seed", type=int, help="replay this one seed")
    parser.add_argument("--keep", type=Path, help="folder for the homes and logs of failed runs")
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/13")
    parser.add_argument("--brokers", default="embedded,embedded,redis,rabbitmq")
    options = parser.parse_args()
    seeds = (
        [options.seed]
        if options.seed is not None
        else list(range(options.first, options.first + options.runs))
    )
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("ceph", "rabbitmq", "runs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        s3 = stack.enter_context(servers.radosgw(folder / "ceph"))
        make_bucket(s3)
        rabbitmq = stack.enter_context(servers.rabbitmq(folder / "rabbitmq"))
        rig = stack.enter_context(open_rig(folder / "runs", s3, rabbitmq, options.redis))
        failures = run_seeds(rig, seeds, tuple(options.brokers.split(",")))
    print(f"{len(seeds)} runs, {len(failures)} failed")
    return 1 if failures else 0


def make_bucket(s3: servers.S3Server) -> None:
    """Create the bucket of the runs, and put the credentials where boto3 finds them."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client("s3", endpoint_url=s3.endpoint).create_bucket(Bucket=BUCKET)


if __name__ == "__main__":
    sys.exit(main())
