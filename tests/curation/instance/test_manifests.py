"""The printed manifests are valid, contain no secret, and scale by the waiting work."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import sqlalchemy as sa
import yaml

from curation.db.tables import checkpoints, training_runs
from curation.domain import CandidateState
from curation.errors import Refused
from curation.instance.manifests import (
    CPU_QUERY,
    GPU_QUERY,
    SECRETS,
    render_kubernetes,
    render_skypilot,
)
from curation.settings import Settings
from tests.support.factories import make_candidates, make_round

SCHEMAS = Path(__file__).resolve().parents[2] / "data" / "schemas"
KUBERNETES = "1.31"
SERVERS = Settings(
    database="postgresql://layer%20loop:p%40ss@db.example.org:5433/layerloop?sslmode=require",
    storage="s3://layerloop/objects",
    storage_endpoint="https://s3.example.org",
    queue="amqp://layerloop:secret-word@mq.example.org//",
    public_url="https://layers.example.org",
)
NAMES = {"images": "registry.example.org/team/layerloop-", "tag": "0.1.0"}
COUNTS = {"max_gpu_workers": 12, "max_cpu_workers": 4}


def schema(name: str) -> dict:
    return json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def printed() -> str:
    return render_kubernetes(SERVERS, namespace="team", admin="anna", **NAMES, **COUNTS)


@pytest.fixture(scope="module")
def objects(printed) -> list[dict]:
    return list(yaml.safe_load_all(printed))


def of_kind(objects, kind: str) -> dict[str, dict]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def test_every_object_is_valid(objects):
    kinds = [one["kind"] for one in objects]
    for one in objects:
        assert one["metadata"]["namespace"] == "team"
        if one["kind"] == "ScaledObject":
            jsonschema.validate(one, schema("keda-scaledobject"))
        elif one["apiVersion"].startswith("keda.sh/"):
            assert one["spec"]["secretTargetRef"][0]["name"] == "layerloop"
        else:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "ConfigMap": 1,
        "Job": 1,
        "Deployment": 3,
        "Service": 1,
        "PodDisruptionBudget": 3,
        "ScaledObject": 2,
        "TriggerAuthentication": 1,
    }


def test_pods_are_confined_probed_and_end_in_order(objects):
    pods = {
        name: one["spec"]["template"]["spec"]
        for kind in ("Deployment", "Job")
        for name, one in of_kind(objects, kind).items()
    }
    for name, pod in pods.items():
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"]
            assert not confined["allowPrivilegeEscalation"]
            assert confined["capabilities"]["drop"] == ["ALL"]
            assert container["image"].startswith(NAMES["images"])
            written = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert written == {"/var/lib/layerloop", "/tmp"}
            if name != "layerloop-setup":
                assert pod["terminationGracePeriodSeconds"] >= 30
                assert {"livenessProbe", "readinessProbe", "startupProbe"} <= container.keys()


def test_scaled_deployments_and_budgets_exist(objects):
    deployments = of_kind(objects, "Deployment")
    for one in of_kind(objects, "ScaledObject").values():
        assert one["spec"]["scaleTargetRef"]["name"] in deployments
        assert "replicas" not in deployments[one["spec"]["scaleTargetRef"]["name"]]["spec"]
        trigger = one["spec"]["triggers"][0]["metadata"]
        assert (trigger["host"], trigger["port"]) == ("db.example.org", "5433")
        assert (trigger["userName"], trigger["dbName"]) == ("layer loop", "layerloop")
        assert trigger["sslmode"] == "require"
    labels = [
        one["spec"]["selector"]["matchLabels"] for one in of_kind(objects, "Deployment").values()
    ]
    for one in of_kind(objects, "PodDisruptionBudget").values():
        assert one["spec"]["selector"]["matchLabels"] in labels


@pytest.mark.parametrize("program", ["kubernetes", "skypilot"])
def test_no_secret_is_printed_and_every_variable_is_a_setting(program, printed):
    text = printed
    if program == "skypilot":
        text = render_skypilot(SERVERS, accelerators="A100:2", spot=False, **NAMES)
        task = yaml.safe_load(text)
        jsonschema.validate(task, schema("skypilot-task"))
        assert task["resources"]["accelerators"] == "A100:2"
        assert set(task["secrets"]) == set(SECRETS)
    assert "p%40ss" not in text
    assert "p@ss" not in text
    assert "secret-word" not in text
    known = {f"LAYERLOOP_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"LAYERLOOP_\w+", text)) <= known


def test_machines_that_train_together_run_commands_that_exist(tmp_path):
    task = yaml.safe_load(
        render_skypilot(SERVERS, accelerators="H100:8", spot=True, machines=2, **NAMES)
    )
    jsonschema.validate(task, schema("skypilot-task"))
    assert task["num_nodes"] == 2
    # A stand-in for layerloop prints how it was called on each machine.
    fake = tmp_path / "layerloop"
    fake.write_text('#!/bin/sh\necho "$LAYERLOOP_TRAIN_MACHINES $LAYERLOOP_TRAIN_ENDPOINT $*"\n')
    fake.chmod(0o755)
    called = []
    for rank in "01":
        env = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
            "SKYPILOT_NODE_RANK": rank,
        }
        done = subprocess.run(
            ["sh", "-ec", task["run"]], env=env, capture_output=True, text=True, check=True
        )
        called.append(done.stdout.strip())
    assert called == [
        "2 10.0.0.1:29500 worker --queue train",
        "2 10.0.0.1:29500 run join --machine 1",
    ]


def test_an_embedded_instance_and_odd_names_are_refused():
    with pytest.raises(Refused) as refused:
        render_skypilot(Settings(), accelerators="L4:1", spot=True, **NAMES)
    assert "instance move" in refused.value.hint
    for change in ({"tag": "a b"}, {"images": "x\ny-"}):
        with pytest.raises(Refused):
            render_skypilot(SERVERS, accelerators="L4:1", spot=True, **(NAMES | change))
    with pytest.raises(Refused):
        render_kubernetes(SERVERS, namespace="Team\n", admin="anna", **NAMES, **COUNTS)


def test_workers_are_scaled_by_the_work_that_waits(database, store):
    def count(query: str) -> int:
        with database.transaction() as tx:
            return int(tx.scalar(sa.text(query)))

    assert (count(GPU_QUERY), count(CPU_QUERY)) == (0, 0)
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 5, CandidateState.requested)
        make_candidates(tx, store, round_id, 2, CandidateState.generating, start=10)
        make_candidates(tx, store, round_id, 3, CandidateState.generated, start=20)
        make_candidates(tx, store, round_id, 4, CandidateState.waiting, start=30)
    assert (count(GPU_QUERY), count(CPU_QUERY)) == (7, 3)
    with database.transaction() as tx:
        snapshot = tx.scalar(sa.select(checkpoints.c.snapshot_id))
        run = {
            "id": sa.func.gen_random_uuid(),
            "recipe": "base",
            "preset": "tiny",
            "snapshot_id": snapshot,
            "seed": 0,
            "images": 1,
            "state": "requested",
        }
        tx.execute(sa.insert(training_runs).values(run))
    assert count(GPU_QUERY) == 7 + 64
