"""Structured logs: lines or JSON with ids and dates in UTC, without secrets or control characters."""

from __future__ import annotations

import io
import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from curation.api.app import create_app
from curation.domain import JobName
from curation.logs import configure_logging, log_context
from curation.runtime.context import open_context
from curation.settings import Settings
from tests.support.factories import make_round

EVIL = "\x1b[2J\x07\u202e [red]x[/red]"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Yield a stream for the logs of this process, whose former handlers come back at the end."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def fail(message: str) -> None:
    raise ValueError(message)


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_has_date_level_ids_and_the_error(stream: io.StringIO) -> None:
    configure_logging("json", "info", fields={"worker": "w1"}, stream=stream)
    log = logging.getLogger("layerloop.jobs")
    with log_context(job="generate", round=3):
        log.info("kept %d", 7, extra={"candidates": ["a", "b"]})
        try:
            fail("broken")
        except ValueError:
            log.exception("failed")
    log.debug("not written")
    first, second = records(stream.getvalue())
    written = datetime.fromisoformat(first.pop("timestamp"))
    assert datetime.now(UTC) - written < timedelta(minutes=1)
    assert first == {
        "event": "kept 7",
        "level": "info",
        "logger": "layerloop.jobs",
        "worker": "w1",
        "job": "generate",
        "round": 3,
        "candidates": ["a", "b"],
    }
    assert "ValueError: broken" in second["exception"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_are_masked_everywhere(stream: io.StringIO, log_format: str) -> None:
    settings = Settings(
        database="postgresql://u:pass%40word-1@h/x",
        secret="signing-secret-that-is-long-enough",
        llm_key="llm-key-1234",
    )
    configure_logging(log_format, "info", secrets=settings.secret_values(), stream=stream)
    log = logging.getLogger("layerloop")
    log.warning("cannot open %s", settings.database)
    log.warning("pass@word-1 and amqp://guest:guest@host// and llm-key-1234")
    log.warning(
        "GET /sign-in?token=abcdef&next=1", extra={"url": "https://s3/x?X-Amz-Signature=99"}
    )
    try:
        fail("signing-secret-that-is-long-enough")
    except ValueError:
        log.exception("failed")
    text = stream.getvalue()
    for secret in (
        "pass%40word",
        "pass@word",
        "guest:guest",
        "llm-key",
        "abcdef",
        "=99",
        "signing-",
    ):
        assert secret not in text
    assert "next=1" in text


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_record_neither_acts_on_a_terminal_nor_imitates_another(
    stream: io.StringIO, log_format: str
) -> None:
    configure_logging(log_format, "info", stream=stream)
    logging.getLogger("layerloop").info(
        "sample %s", f"{EVIL}\n2026 INFO fake", extra={"name_of": f"{EVIL}\nx"}
    )
    text = stream.getvalue()
    assert not set("\x1b\x07\u202e") & set(text)
    assert all(line.startswith("    ") for line in text.splitlines()[1:])


def test_requests_are_logged_with_id_status_and_time(
    settings: Settings, stream: io.StringIO
) -> None:
    with open_context(settings) as context:
        client = TestClient(create_app(context), base_url="http://127.0.0.1")
        configure_logging("json", "debug", stream=stream)
        given = client.get("/api/rounds/7", headers={"X-Request-Id": "from-the-proxy-1"})
        made = client.get("/sign-in?token=very-secret", headers={"X-Request-Id": "bad id\t"})
        client.get("/api/live")
    assert given.headers["x-request-id"] == "from-the-proxy-1"
    assert re.fullmatch("[0-9a-f]{32}", made.headers["x-request-id"])
    text = stream.getvalue()
    assert "very-secret" not in text
    first, second, quiet = [r for r in records(text) if r["logger"] == "layerloop.access"]
    assert first["event"] == "GET /api/rounds/7 401"
    assert (first["status"], first["request_id"]) == (401, "from-the-proxy-1")
    assert first["route"].startswith("/api/rounds/{")
    assert first["milliseconds"] > 0
    assert second["event"] == "GET /sign-in 200"
    assert quiet["level"] == "debug"


@pytest.mark.slow
def test_a_worker_logs_its_jobs_although_celery_runs_them(settings: Settings) -> None:
    with open_context(settings) as context:
        with context.database.transaction() as tx:
            round_id = make_round(tx)
            tx.enqueue(JobName.select, round_id)
    environment = settings.model_copy(update={"log_format": "json"}).environment()
    command = [sys.executable, "-m", "curation.cli.main", "worker", "--queue", "cpu"]
    worker = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert worker.stderr is not None
    deadline = time.monotonic() + 60
    written = []
    while time.monotonic() < deadline:
        written.append(json.loads(worker.stderr.readline()))
        if written[-1]["event"] == "job ended":
            break
    worker.send_signal(signal.SIGTERM)
    written += records(worker.communicate(timeout=60)[1])
    started, ended = [r for r in written if r.get("round") == round_id and r["event"][:3] == "job"][
        :2
    ]
    assert (started["event"], ended["event"]) == ("job started", "job ended")
    assert ended["job"] == "select"
    assert ended["seconds"] >= 0
    assert ended["worker"] == written[0]["worker"]
