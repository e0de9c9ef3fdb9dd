"""Signing in by a one-time token, staying in by a cookie, and being out at once when sent away."""

from __future__ import annotations

from fastapi.testclient import TestClient

from curation import __version__
from curation.api.access import COOKIE
from curation.domain import Access
from curation.review import reviewers
from tests.curation.api.conftest import CHANGE, LOOPBACK


def token_of(database, name: str = "ann", access: Access = Access.annotator) -> str:
    with database.transaction() as tx:
        return reviewers.issue_token(tx, reviewers.add_reviewer(tx, name, access), 5)


def test_health_is_open(client):
    assert client.get("/api/health").json() == {"status": "ok", "version": __version__}


def test_a_token_lets_one_in_once(client, database):
    token = token_of(database, access=Access.engineer)
    answer = client.post("/api/session", json={"token": token})
    assert answer.json() == {"name": "ann", "kind": "person", "access": "engineer"}
    assert client.get("/api/me").json() == answer.json()
    cookie = answer.headers["set-cookie"]
    for part in (f"{COOKIE}=", "HttpOnly", "Max-Age=43200", "Path=/", "SameSite=strict"):
        assert part in cookie
    assert "Secure" not in cookie
    again = client.post("/api/session", json={"token": token})
    assert (again.status_code, again.json()["error"]["message"]) == (422, "this sign-in token is not valid")


def test_the_cookie_is_secure_over_https(app, database):
    with TestClient(app, base_url="https://localhost", headers=CHANGE) as client:
        assert "Secure" in client.post("/api/session", json={"token": token_of(database)}).headers["set-cookie"]


def test_signing_out(signed_in):
    visitor = signed_in()
    assert visitor.delete("/api/session").status_code == 204
    assert visitor.get("/api/me").status_code == 401


def test_a_forged_cookie_is_nobody(app, signed_in):
    genuine = signed_in().cookies[COOKIE]
    for forged in ("", "1", genuine[:-2] + "xx", "MQ." + genuine.partition(".")[2]):
        with TestClient(app, base_url=LOOPBACK, cookies={COOKIE: forged}) as client:
            expected = 200 if forged == genuine else 401
            assert client.get("/api/me").status_code == expected


def test_somebody_sent_away_is_out_with_the_next_request(signed_in, database):
    visitor = signed_in(name="bob")
    with database.transaction() as tx:
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, "bob"))
    assert visitor.get("/api/me").status_code == 401


def test_wrong_tokens_make_one_wait(client, database):
    for _ in range(3):
        assert client.post("/api/session", json={"token": "wrong"}).status_code == 422
    answer = client.post("/api/session", json={"token": token_of(database)})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert "wait" in answer.json()["error"]["hint"]
