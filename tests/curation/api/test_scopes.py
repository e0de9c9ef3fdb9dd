"""API tokens over HTTP: every route states a role or a scope, and each is enforced."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from curation.access import tokens
from curation.access.scopes import Scope
from curation.domain import Role
from tests.curation.api.conftest import CHANGE, LOOPBACK
from tests.curation.api.test_security_middleware import OPEN, SIGNED, filled, operations


@pytest.fixture
def program(app, database):
    """Return a function that makes clients with an API token of given scopes."""

    def make(*scopes: Scope, name: str = "loader") -> TestClient:
        with database.transaction() as tx:
            token = tokens.create_token(tx, name, scopes, 60, "ann")
        headers = CHANGE | {"authorization": f"Bearer {token}"}
        return TestClient(app, base_url=LOOPBACK, headers=headers)

    return make


PEOPLE_ONLY = ("/api/review/", "/api/comparison/", "/api/me", "/api/operations")


def test_every_route_has_a_role_and_a_scope_or_is_for_people_only(app):
    scopes = set()
    for method, path, operation in operations(app):
        if (method, path) in OPEN or path in SIGNED:
            assert "security" not in operation, path
            continue
        assert operation["x-required-role"] in set(Role), path
        for_programs = {"token": []} in operation["security"]
        assert {"session": []} in operation["security"]
        assert for_programs == ("x-required-scope" in operation), path
        # Programs read an instance's state from /metrics, and neither review nor vote.
        assert for_programs != path.startswith(PEOPLE_ONLY), path
        if for_programs:
            scopes.add(operation["x-required-scope"])
    assert scopes == set(Scope)


@pytest.mark.parametrize("scope", Scope)
def test_a_token_opens_the_routes_of_its_scope_and_no_other(app, program, scope):
    client = program(scope)
    for method, path, operation in operations(app):
        if (method, path) in OPEN or path in SIGNED:
            continue
        response = client.request(method, filled(path), json={} if method == "POST" else None)
        needed = operation.get("x-required-scope")
        expected = {None: {401}, scope: {200, 201, 404, 409}}.get(needed, {403})
        assert response.status_code in expected, (method, path, response.text)
        if needed not in {None, scope}:
            assert needed in response.json()["error"]["message"]


def test_an_invalid_token_is_refused_despite_a_session(signed_in):
    admin = signed_in(Role.admin)
    assert admin.get("/api/snapshots").status_code == 200
    for token in ("layerloop_x", "", "a b"):
        response = admin.get("/api/snapshots", headers={"authorization": f"Bearer {token}"})
        assert response.status_code == 401
        assert response.json()["error"]["message"] == "this API token is not valid"
        assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_a_revoked_token_is_refused_at_once(program, database):
    client = program(Scope.snapshots_read)
    assert client.get("/api/snapshots").json() == []
    with database.transaction() as tx:
        assert tokens.list_tokens(tx)[0]["last_used_at"] is not None
        tokens.revoke_token(tx, "loader", "ann")
    assert client.get("/api/snapshots").status_code == 401


def test_changes_by_a_program_are_logged_under_its_name(program, database, round_id):
    client = program(Scope.rounds_write, Scope.rounds_read)
    assert client.post(f"/api/rounds/{round_id}/pause").json()["state"] == "paused"
    assert client.get("/api/rounds").json()[0]["own"]["mine"] == 0
    with database.transaction() as tx:
        query = "select actor from events where kind = 'round paused'"
        assert list(tx.connection.exec_driver_sql(query).scalars()) == ["token loader"]


def test_a_token_cannot_review(program):
    client = program(*Scope)
    assert client.post("/api/review/claims", json={"round": 1, "count": 1}).status_code == 401
    assert client.get("/api/me").status_code == 401


def test_refusals_for_a_role_or_a_scope_are_logged(program, signed_in, caplog):
    assert signed_in(Role.annotator).get("/api/snapshots").status_code == 403
    assert program(Scope.rounds_read).get("/api/snapshots").status_code == 403
    assert [record.getMessage() for record in caplog.records if record.name == "layerloop.api"][
        -2:
    ] == [
        "the annotator needs the role engineer, and has annotator",
        "token loader needs the scope snapshots:read",
    ]
