"""The images and the compose file: checked by linter and schema, and their commands run as processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import boto3
import jsonschema
import pytest
import yaml

from curation.settings import Settings
from tests.support.factories import fresh_database, with_database
from tests.support.servers import free_port, wait_for

DOCKER = Path(__file__).resolve().parents[1] / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text("utf-8")
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))
SERVICES = COMPOSE["services"]
OURS = ("setup", "api", "worker-cpu", "worker-gpu")
EXAMPLE = dict(
    re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env.example").read_text("utf-8"), re.MULTILINE)
)
PASSWORD = "p@ss:w/rd%2 #'xyz"


def test_the_dockerfile_passes_hadolint():
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", DOCKER / "Dockerfile"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_has_the_form_of_its_specification():
    schema = json.loads(
        (Path(__file__).parent / "data" / "schemas" / "compose-spec.json").read_text("utf-8")
    )
    jsonschema.Draft7Validator(schema).validate(COMPOSE)


def test_every_variable_of_the_compose_file_is_in_the_example():
    used = set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text("utf-8")))
    assert used == set(EXAMPLE)


def test_images_have_exact_versions_or_digests():
    for name, service in SERVICES.items():
        if name not in OURS:
            assert re.search(
                r":v?\d+\.\d+(\.\d+)?[\w.-]*(@sha256:[0-9a-f]{64})?$", service["image"]
            )
    assert re.search(r"^ARG PYTHON=python:\d+\.\d+\.\d+-[\w-]+", DOCKERFILE, re.MULTILINE)


def test_every_service_restarts_ends_in_order_and_is_checked():
    targets = re.split(r"^FROM \S+ AS ", DOCKERFILE, flags=re.MULTILINE)
    checked = {part.split()[0] for part in targets if "HEALTHCHECK" in part}
    for name, service in SERVICES.items():
        assert service["restart"]
        if name == "setup":
            continue
        assert int(service["stop_grace_period"].removesuffix("s")) >= 30, name
        assert "healthcheck" in service or service["build"]["target"] in checked, name
        kept = [volume.partition(":")[0] for volume in service["volumes"]]
        assert any(volume in COMPOSE["volumes"] for volume in kept), f"{name} keeps nothing"
    for name in ("worker-cpu", "worker-gpu", "api"):
        assert "/var/lib/layerloop" in SERVICES[name]["volumes"][0]
        assert SERVICES[name]["depends_on"]["setup"]["condition"].endswith("successfully")


def test_every_setting_of_the_images_exists():
    known = {f"LAYERLOOP_{name.upper()}" for name in Settings.model_fields}
    for name in OURS:
        given = {key for key in SERVICES[name]["environment"] if key.startswith("LAYERLOOP_")}
        assert given <= known, name
    assert set(re.findall(r"LAYERLOOP_\w+", DOCKERFILE)) <= known


def test_digests_are_added_where_a_registry_shows_them(tmp_path, monkeypatch):
    """A stand-in for docker on the PATH answers with a digest, and fails for one image."""
    monkeypatch.syspath_prepend(str(DOCKER.parent / ".ci"))
    import image_digests

    fake = tmp_path / "docker"
    fake.write_text(f'#!/bin/sh\ncase "$4" in *rabbit*) exit 1;; esac\necho sha256:{"a" * 64}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    text = "    image: postgres:18.3\n    image: layerloop-api\nARG PYTHON=python:3.12.12-slim\n"
    pinned = image_digests.pin(text)
    assert pinned.count("@sha256:") == 2
    assert image_digests.pin(pinned) == pinned
    with pytest.raises(SystemExit, match="rabbitmq:4"):
        image_digests.pin("    image: rabbitmq:4.2.1\n")


@pytest.fixture
def servers(postgres_address, s3_credentials, rabbitmq_address):
    """What stands for the containers of the servers, under the addresses that the compose file has."""
    with fresh_database(postgres_address) as name:
        address = with_database(postgres_address, name)
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        yield {
            "LAYERLOOP_DATABASE": address,
            "LAYERLOOP_STORAGE": f"s3://{bucket}",
            "LAYERLOOP_STORAGE_ENDPOINT": s3_credentials.endpoint,
            "LAYERLOOP_QUEUE": rabbitmq_address,
            "AWS_ACCESS_KEY_ID": s3_credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": s3_credentials.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def environment(service: str, servers: dict[str, str], home: Path, **more: str) -> dict[str, str]:
    """The environment of a container: that of its image and its service, with other addresses."""
    filled = EXAMPLE | {name: PASSWORD for name, value in EXAMPLE.items() if not value}
    given = {
        name: re.sub(r"\$\{(\w+)[^}]*\}", lambda found: filled[found[1]] or "", str(value))
        for name, value in SERVICES[service]["environment"].items()
    }
    target = SERVICES[service]["build"]["target"]
    stage = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
    image = dict(re.findall(r"(LAYERLOOP_\w+)=(\S+)", stage))
    system = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    if not filled["LABELING_TOKEN"]:
        given.pop("LAYERLOOP_LABELING_TOKEN")
    return system | image | given | servers | {"LAYERLOOP_HOME": str(home)} | more


def run(service: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = [EXAMPLE["ADMIN"] if "ADMIN" in word else word for word in SERVICES[service]["command"]]
    command = [sys.executable, "-m", "curation.cli.main", *words]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.slow
def test_the_containers_commands_come_up_whole(servers, tmp_path):
    """Bucket, tables and administrator are made; API and worker become healthy, and end in order."""
    setup = run("setup", environment("setup", servers, tmp_path / "api"))
    assert setup.returncode == 0, setup.stderr
    assert "http://127.0.0.1:8765/sign-in?token=" in setup.stderr
    client = boto3.client("s3", endpoint_url=servers["LAYERLOOP_STORAGE_ENDPOINT"])
    client.head_bucket(Bucket=servers["LAYERLOOP_STORAGE"].removeprefix("s3://"))
    again = run("setup", environment("setup", servers, tmp_path / "api"))
    assert again.returncode == 0, again.stderr
    assert "token=" not in again.stderr, "there is an administrator already"

    started = []
    try:
        for service, setting, port in (
            ("api", "LAYERLOOP_PORT", "8765"),
            ("worker-cpu", "LAYERLOOP_METRICS_PORT", "9100"),
        ):
            stage = DOCKERFILE.split(f" AS {service}\n")[1].split("\nFROM ")[0]
            command = json.loads(re.findall(r"^CMD (\[.*\])", stage, re.MULTILINE)[-1])
            check = json.loads(re.search(r"^    CMD (\[.*\])", stage, re.MULTILINE)[1])
            free = str(free_port())
            env = environment(service, servers, tmp_path / service, **{setting: free})
            log = tmp_path / f"{service}.log"
            with log.open("wb") as out:
                process = subprocess.Popen(
                    [sys.executable, "-m", "curation.cli.main", *command], env=env, stderr=out
                )
            started.append((service, process, log))
            probe = [sys.executable, *(word.replace(port, free) for word in check[1:])]

            def healthy(probe=probe, process=process, log=log) -> bool:
                assert process.poll() is None, log.read_text()
                return subprocess.run(probe, capture_output=True, check=False).returncode == 0

            wait_for(service, healthy, 60)
    finally:
        for _, process, _ in started:
            process.send_signal(signal.SIGTERM)
        for service, process, log in started:
            grace = int(SERVICES[service]["stop_grace_period"].removesuffix("s"))
            deadline = time.monotonic() + grace
            try:
                process.wait(max(1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            assert process.returncode in (0, 143), log.read_text()
            assert PASSWORD not in log.read_text()


def test_the_example_can_be_sourced_by_a_shell():
    for line in (DOCKER / ".env.example").read_text("utf-8").splitlines():
        assert line.startswith("#") or len(shlex.split(line)) <= 1


def test_prometheus_scrapes_the_ports_of_the_images_with_the_token():
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text("utf-8"))
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert jobs["layerloop-api"]["static_configs"][0]["targets"] == ["api:8765"]
    workers = jobs["layerloop-worker"]["dns_sd_configs"][0]
    assert set(workers["names"]) == {"worker-cpu", "worker-gpu"}
    ports = re.findall(r"LAYERLOOP_METRICS_PORT=(\d+)", DOCKERFILE)
    assert {int(port) for port in ports} == {workers["port"]}
    for job in jobs.values():
        assert job["authorization"]["credentials_file"] == "/run/secrets/metrics_token"
    assert "metrics_token" in SERVICES["prometheus"]["secrets"]


def test_what_the_services_mount_is_there():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith("./") or (DOCKER / source).exists(), source
