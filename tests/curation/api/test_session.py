"""Sessions: sign-in by a one-time token, a cookie, sign-out, and the end of a deactivated reviewer's session."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from curation import __version__
from curation.api.app import create_app
from curation.db import secrets
from curation.domain import Role
from curation.review import reviewers
from curation.runtime.context import AppContext
from tests.curation.api.conftest import CHANGE, LOOPBACK


def token_of(database, name: str = "ann", role: Role = Role.annotator) -> str:
    with database.transaction() as tx:
        return reviewers.issue_token(tx, reviewers.add_reviewer(tx, name, role), 5)


def test_health_is_open(client):
    assert client.get("/api/health").json() == {"status": "ok", "version": __version__}


def test_a_sign_in_token_works_once(app, client, database):
    token = token_of(database, role=Role.engineer)
    answer = client.post("/api/session", json={"token": token})
    assert answer.json() == {"name": "ann", "kind": "person", "role": "engineer"}
    assert client.get("/api/me").json() == answer.json()
    cookie = answer.headers["set-cookie"]
    for part in (
        f"{app.state.session_cookie}=",
        "HttpOnly",
        "Max-Age=43200",
        "Path=/",
        "SameSite=strict",
    ):
        assert part in cookie
    assert "Secure" not in cookie
    again = client.post("/api/session", json={"token": token})
    assert (again.status_code, again.json()["error"]["message"]) == (
        401,
        "this sign-in token is not valid",
    )


def serve(context, **settings) -> TestClient:
    changed = context.settings.model_copy(update=settings)
    # It stands for another instance, which has a database of its own.
    with context.database.transaction() as tx:
        secrets.reset_secret(tx)
    app = create_app(AppContext(changed, context.database, context.store, context.queue))
    return TestClient(app, base_url=LOOPBACK, headers=CHANGE)


@pytest.mark.parametrize(
    ("address", "secure"),
    [
        ("https://layers.example", True),
        ("HTTPS://layers.example/", True),
        ("http://layers.example", False),
        (None, False),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_cookie_is_secure_where_the_public_address_is(
    context, database, address, secure, scheme
):
    with serve(context, public_url=address) as client:
        client.base_url = f"{scheme}://127.0.0.1"
        for answer in (
            client.post("/api/session", json={"token": token_of(database)}),
            client.delete("/api/session"),
        ):
            assert answer.is_success
            assert ("; secure" in answer.headers["set-cookie"].lower()) == secure
            assert answer.headers["set-cookie"].startswith("__Host-") == secure
            assert ("strict-transport-security" in answer.headers) == secure
        assert answer.headers.get("clear-site-data") == ('"cache"' if secure else None)


def test_signing_out_ends_the_session_on_the_server(app, signed_in):
    visitor = signed_in()
    copied = dict(visitor.cookies)
    assert visitor.delete("/api/session").status_code == 204
    assert visitor.get("/api/me").status_code == 401
    with TestClient(app, base_url=LOOPBACK, cookies=copied) as thief:
        assert thief.get("/api/me").status_code == 401


def test_signing_out_everywhere_ends_every_session_of_that_person(signed_in):
    first, second, other = signed_in(name="ann"), signed_in(name="ann"), signed_in(name="bob")
    assert first.delete("/api/session").status_code == 204
    assert second.get("/api/me").status_code == 200
    third = signed_in(name="ann")
    assert second.delete("/api/session?everywhere=true").status_code == 204
    assert [one.get("/api/me").status_code for one in (second, third, other)] == [401, 401, 200]


def test_switching_accounts_needs_a_confirmation(signed_in, database):
    visitor = signed_in(name="ann")
    token = token_of(database, "bob")
    answer = visitor.post("/api/session", json={"token": token})
    assert answer.status_code == 409
    assert "ann" in answer.json()["error"]["message"]
    assert "bob" in answer.json()["error"]["message"]
    assert visitor.get("/api/me").json()["name"] == "ann"
    assert (
        visitor.post("/api/session", json={"token": token, "switch": True}).json()["name"] == "bob"
    )
    assert visitor.get("/api/me").json()["name"] == "bob"


def test_signing_in_again_as_oneself_ends_the_session_before(app, signed_in, database):
    visitor = signed_in(name="ann")
    before = dict(visitor.cookies)
    assert (
        visitor.post("/api/session", json={"token": token_of(database, "ann")}).status_code == 200
    )
    with TestClient(app, base_url=LOOPBACK, cookies=before) as old:
        assert old.get("/api/me").status_code == 401


def test_two_instances_on_one_host_do_not_sign_each_other_out(context, database):
    with (
        serve(context, secret=SecretStr("one" * 16)) as client,
        serve(context, secret=SecretStr("two" * 16)) as other,
    ):
        client.post("/api/session", json={"token": token_of(database, "ann")})
        other.cookies = client.cookies  # a browser sends the cookies of a host to every port
        assert (
            other.post("/api/session", json={"token": token_of(database, "bob")}).status_code == 200
        )
        assert client.get("/api/me").json()["name"] == "ann"
        assert other.get("/api/me").json()["name"] == "bob"


def test_a_forged_cookie_is_no_session(app, signed_in):
    name = app.state.session_cookie
    genuine = signed_in().cookies[name]
    for forged in ("", "1", genuine[:-2] + "xx", "MQ." + genuine.partition(".")[2]):
        with TestClient(app, base_url=LOOPBACK, cookies={name: forged}) as client:
            expected = 200 if forged == genuine else 401
            assert client.get("/api/me").status_code == expected


def test_a_deactivated_reviewer_is_signed_out_at_the_next_request(signed_in, database):
    visitor = signed_in(name="bob")
    with database.transaction() as tx:
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, "bob"))
    assert visitor.get("/api/me").status_code == 401


def test_wrong_tokens_are_rate_limited_and_valid_ones_are_not(client, database):
    for _ in range(3):
        answer = client.post("/api/session", json={"token": "wrong"})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"]
    for _ in range(20):
        answer = client.post("/api/session", json={"token": "wrong"})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert "wait" in answer.json()["error"]["hint"]
    assert client.post("/api/session", json={"token": token_of(database)}).status_code == 200


def statuses(client, addresses) -> list[int]:
    return [
        client.post(
            "/api/session", json={"token": "wrong"}, headers={"x-forwarded-for": one}
        ).status_code
        for one in addresses
    ]


def test_a_forwarded_address_is_believed_from_a_named_proxy_alone(context):
    spoofed = [f"203.0.113.{last}" for last in range(6)]
    with serve(context) as client:
        assert statuses(client, spoofed) == [401] * 3 + [429] * 3
    with serve(context, trusted_proxies="testclient") as client:
        assert statuses(client, spoofed) == [401] * 6
        assert statuses(client, ["203.0.113.9"] * 6) == [401] * 3 + [429] * 3
        # What a client adds in front of what the proxy says counts for nothing.
        assert (
            statuses(client, [f"198.51.100.{last}, 203.0.113.9" for last in range(3)]) == [429] * 3
        )
