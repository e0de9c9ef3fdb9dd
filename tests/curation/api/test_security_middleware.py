"""Rules for every request and response: host names, sessions, CSRF, limits, headers and errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.testclient import TestClient

from curation.api.app import create_app
from curation.api.security_middleware import HEADERS, MAX_BODY_BYTES, is_loopback
from curation.db.engine import Database
from curation.domain import Role
from curation.runtime.context import AppContext
from tests.curation.api.conftest import CHANGE, LOOPBACK
from tests.support.factories import make_round

HEALTH = {("GET", "/api/health"), ("GET", "/api/live"), ("GET", "/api/ready")}
OPEN = HEALTH | {("POST", "/api/session"), ("DELETE", "/api/session")}
SIGNED = {
    "/api/layers/{sha256}.{form}",
    "/api/labeling/previews/{task_id}/{role}.webp",
    "/api/labeling/webhook",
}  # by a signature or secret of their own


def operations(app) -> list[tuple[str, str, dict]]:
    paths = app.openapi()["paths"]
    return [
        (method.upper(), path, found)
        for path, methods in paths.items()
        for method, found in methods.items()
    ]


def filled(path: str) -> str:
    path = path.replace("{number}", "1").replace("{name}", "0" * 64)
    path = path.replace("{sha256}", "0" * 64).replace("{sample}", "0" * 32)
    return path.replace("{run}", "00000000-0000-0000-0000-000000000000")


def test_every_address_but_the_open_ones_takes_a_session(app, client):
    tried = 0
    for method, path, _ in operations(app):
        if (method, path) in OPEN or path in SIGNED:
            continue
        answer = client.request(method, filled(path), json={} if method == "POST" else None)
        assert (answer.status_code, path) == (401, path)
        assert answer.json()["error"]["message"] == "you are not signed in"
        tried += 1
    assert tried >= 15


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        (Role.annotator, {"/api/me", "/api/review/reasons", "/api/rounds", "/api/runs"}),
        (
            Role.engineer,
            {"/api/rounds/{number}", "/api/snapshots", "/api/snapshots/{name}", "/api/checkpoints"},
        ),
        (Role.trainer, {"/api/checkpoints/{name}/promote"}),
        (Role.admin, {"/api/rounds/{number}/close"}),
    ],
)
def test_each_role_includes_the_rights_of_the_lower_ones(app, signed_in, role, allowed):
    """Each role has the rights of the lower ones and those listed here; others are refused."""
    visitor = signed_in(role)
    refused = {
        path
        for method, path, _ in operations(app)
        if path not in SIGNED
        and (method, path) not in OPEN
        and visitor.request(
            method, filled(path), json=BODIES.get(path, {}) if method == "POST" else None
        ).status_code
        == 403
    }
    assert not refused & allowed
    assert ("/api/checkpoints/{name}/promote" in refused) == (
        role in {Role.annotator, Role.engineer}
    )
    assert ("/api/rounds/{number}/close" in refused) == (role is Role.annotator)
    assert ("/api/snapshots" in refused) == (role is Role.annotator)
    assert refused == set() or role in {Role.annotator, Role.engineer}


KEY = "00000000-0000-0000-0000-000000000001"
BODIES = {
    "/api/session": {"token": "x"},
    "/api/review/decisions": {"candidate": KEY, "verdict": "skip", "key": KEY},
    "/api/review/undo": {"key": KEY},
}


@pytest.mark.parametrize(
    "path", ["/api/health", "/api/me", "/api/nothing", "/nothing", "/api/rounds/x"]
)
def test_every_response_has_the_security_headers(client, path):
    answer = client.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert answer.headers.get("cache-control") == ("no-store" if path.startswith("/api/") else None)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "", "127.0.0.1.evil.example", "10.0.0.1", "[::2]"]
)
def test_an_instance_on_loopback_answers_loopback_names_only(client, host):
    answer = client.get("/api/health", headers={"host": host})
    assert answer.status_code == 421
    assert "loopback" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:8765", "[::1]", "[::1]:8765", "127.8.8.8"]
)
def test_loopback_has_many_names(client, host):
    assert client.get("/api/health", headers={"host": host}).status_code == 200


def test_an_instance_on_the_network_answers_to_any_name(context: AppContext):
    opened = AppContext(
        context.settings.model_copy(update={"host": "0.0.0.0"}),
        context.database,
        context.store,
        context.queue,
    )
    with TestClient(create_app(opened), base_url="http://layers.example") as client:
        assert client.get("/api/health").status_code == 200
    assert not is_loopback("0.0.0.0")


def test_a_change_without_our_header_is_refused(app, signed_in):
    visitor = signed_in(Role.admin)
    del visitor.headers["x-layerloop"]
    for method, path, _ in operations(app):
        if method in {"POST", "DELETE"}:
            answer = visitor.request(method, filled(path), json={})
            assert (answer.status_code, answer.json()["error"]["message"]) == (
                403,
                "the header X-Layerloop is missing",
            )
    assert visitor.get("/api/me").status_code == 200


def test_bodies_are_bounded(client):
    assert client.post("/api/session", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413
    assert client.post("/api/session", content=(b"x" for _ in range(3))).status_code == 411
    assert (
        client.post("/api/session", content=b"{}", headers={"content-length": "-1"}).status_code
        == 413
    )


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"token": 5}', b'{"token": "x", "more": 1}', b"\xff"]
)
def test_an_invalid_body_is_answered_with_an_explanation(client, content):
    answer = client.post(
        "/api/session", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == (400 if content == b"\xff" else 422)
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"]["message"]
    assert answer.json()["error"]["hint"]


def test_an_unexpected_error_reveals_nothing_and_is_logged(app, signed_in, context, caplog):
    visitor = signed_in(Role.admin)
    with context.database.transaction() as tx:
        tx.execute(sa.text("alter table rounds rename to elsewhere"))
    answer = visitor.get("/api/rounds")
    assert answer.status_code == 500
    assert answer.json() == {
        "error": {"message": "internal error", "hint": "the server's log has the details"}
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "GET /api/rounds failed" in caplog.text


def test_a_405_lists_the_allowed_methods(app, client):
    methods: dict[str, set[str]] = {}
    for method, path, _ in operations(app):
        methods.setdefault(filled(path), set()).add(method)
    for path, known in methods.items():
        if "{" in path:
            continue
        expected = known | {"OPTIONS"} | ({"HEAD"} if "GET" in known else set())
        for method in ("PATCH", "OPTIONS"):
            answer = client.request(method, path)
            assert answer.status_code == (405 if method == "PATCH" else 204)
            assert set(answer.headers["allow"].split(", ")) == expected, path
    assert client.options("/api/nothing").status_code == 404


def test_head_is_get_without_a_body(signed_in):
    visitor = signed_in(Role.admin)
    for path in ("/api/health", "/api/me", "/api/rounds", "/api/nothing", "/api/openapi.json"):
        whole, head = visitor.get(path), visitor.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert head.headers["content-length"] == whole.headers["content-length"]
    assert visitor.head("/api/review/claims").status_code == 405


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "POST"])
def test_bodies_are_bounded_whatever_the_method(client, method):
    for path in ("/api/session", "/api/health", "/nothing"):
        assert client.request(method, path, content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413
        assert client.request(method, path, content=(b"x" for _ in range(3))).status_code == 411


def losing(context: AppContext, address: str) -> FastAPI:
    """Return an application whose database went away after it started."""
    app = create_app(context)
    app.state.context = replace(context, database=Database(address))
    return app


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/session"), ("GET", "/api/me"), ("DELETE", "/api/session")]
)
def test_a_database_that_is_away_is_named_in_the_log_alone(
    signed_in, context, caplog, method, path
):
    visitor = signed_in()
    app = losing(context, "postgresql://somebody:word@127.0.0.1:1/a_database")
    with TestClient(app, base_url=LOOPBACK, headers=CHANGE, cookies=dict(visitor.cookies)) as away:
        answer = away.request(method, path, json={"token": "x"} if method == "POST" else None)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    for secret in ("somebody", "word", "127.0.0.1", "a_database", "postgresql"):
        assert secret not in answer.text
    assert "a_database" in caplog.text


def test_a_database_that_is_away_is_a_503(signed_in, context):
    visitor = signed_in()
    app = losing(context, "postgresql://nobody@127.0.0.1:1/nothing")
    with TestClient(app, base_url=LOOPBACK, headers=CHANGE, cookies=dict(visitor.cookies)) as away:
        answer = away.get("/api/me")
    assert answer.status_code == 503
    assert "does not answer" in answer.json()["error"]["message"]


def test_a_connection_that_breaks_midway_is_a_503_and_the_next_try_succeeds(signed_in, context):
    visitor = signed_in(Role.admin)
    with context.database.transaction() as tx:
        round_id = make_round(tx)
        tx.execute(
            sa.text("""
            create function cut() returns trigger language plpgsql as
            $$ begin perform pg_terminate_backend(pg_backend_pid()); return null; end $$;
            create trigger cut before insert on events for each statement execute function cut()""")
        )
    answer = visitor.post(f"/api/rounds/{round_id}/pause")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    with context.database.transaction() as tx:
        tx.execute(sa.text("drop trigger cut on events"))
    assert visitor.post(f"/api/rounds/{round_id}/pause").json()["state"] == "paused"


def test_pages_are_optional_and_a_broken_package_is_not_hidden(context, tmp_path, monkeypatch):
    (tmp_path / "broken_pages.py").write_text("import a_module_that_is_missing\n")
    (tmp_path / "good_pages.py").write_text(
        "def mount(app):\n    app.add_api_route('/', lambda: 'the pages', include_in_schema=False)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def serve(dotted: str) -> TestClient:
        settings = context.settings.model_copy(update={"front_end": dotted})
        return TestClient(
            create_app(AppContext(settings, context.database, context.store, context.queue)),
            base_url=LOOPBACK,
        )

    assert serve("good_pages:mount").get("/").json() == "the pages"
    assert serve("no_pages_at_all:mount").get("/").status_code == 404
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_missing"):
        serve("broken_pages:mount")


def test_trace_is_not_supported(client):
    assert client.request("TRACE", "/api/health").status_code == 405
