"""Sign-in at an identity provider: accounts, roles, refusals and what is logged."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from pydantic import SecretStr

from curation.access import identities
from curation.access.identities import Identity
from curation.api.app import create_app
from curation.db.tables import events
from curation.domain import Role
from curation.errors import Conflict, Refused
from curation.review import reviewers
from curation.runtime.context import AppContext
from tests.curation.api.conftest import CHANGE, LOOPBACK
from tests.support.oidc_provider import CLIENT, SECRET, oidc_provider

ROLES = {"reviewers": Role.annotator, "data": Role.engineer, "admins": Role.admin}


@pytest.fixture
def provider():
    with oidc_provider() as found:
        found.person["groups"] = ["reviewers", "others"]
        yield found


@pytest.fixture
def make_client(context, provider):
    """Return a function that makes clients of one application, each with its own cookies."""
    settings = context.settings.model_copy(
        update={
            "oidc_issuer": provider.issuer,
            "oidc_client_id": CLIENT,
            "oidc_client_secret": SecretStr(SECRET),
            "oidc_roles": ROLES,
        }
    )
    app = create_app(AppContext(settings, context.database, context.store, context.queue))
    return lambda: TestClient(app, base_url=LOOPBACK, headers=CHANGE, follow_redirects=False)


@pytest.fixture
def browser(make_client) -> TestClient:
    return make_client()


def start(browser, next_page="/rounds") -> str:
    """Go to the provider, and return the address to which it sends the browser back."""
    answer = browser.get(f"/api/oidc/sign-in?next={next_page}")
    assert answer.status_code == 303
    return httpx.get(answer.headers["location"]).headers["location"]


def sign_in(browser) -> dict[str, list[str]]:
    """Sign in, and return the query with which the sign-in page is opened."""
    back = urlsplit(start(browser))
    answer = browser.get(f"{back.path}?{back.query}")
    assert answer.status_code == 303
    target = urlsplit(answer.headers["location"])
    assert (target.scheme, target.netloc, target.path) == ("", "", "/sign-in")
    return parse_qs(target.query)


def refused(database) -> list[dict]:
    query = sa.select(events).where(events.c.kind == "sign-in refused").order_by(events.c.id)
    with database.transaction() as tx:
        return [dict(row) for row in tx.execute(query).mappings()]


def test_a_person_is_created_at_the_first_sign_in(browser, database):
    assert sign_in(browser) == {"signed_in": ["1"], "next": ["/rounds"]}
    me = browser.get("/api/me").json()
    assert (me["name"], me["role"]) == ("Ada", "annotator")
    assert "/end?" in me["sign_out_url"]
    sign_in(browser)
    with database.transaction() as tx:
        assert len(reviewers.list_reviewers(tx)) == 1
        kinds = list(tx.execute(sa.select(events.c.kind).order_by(events.c.id)).scalars())
    assert kinds == ["reviewer added", "reviewer linked", "signed in", "signed in"]


def test_the_cookie_of_a_start_is_lax_and_of_a_session_strict(browser):
    answer = browser.get("/api/oidc/sign-in")
    cookie = answer.headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=lax", "Path=/;", "Max-Age=600"):
        assert part in cookie
    back = urlsplit(httpx.get(answer.headers["location"]).headers["location"])
    session, ended = browser.get(f"{back.path}?{back.query}").headers.get_list("set-cookie")
    assert "SameSite=strict" in session
    assert "HttpOnly" in session
    assert "Max-Age=0" in ended


def test_the_highest_role_counts_and_changes_at_the_next_sign_in(browser, provider, database):
    provider.person["groups"] = ["reviewers", "data"]
    sign_in(browser)
    assert browser.get("/api/me").json()["role"] == "engineer"
    provider.person["groups"] = ["reviewers"]
    assert browser.get("/api/me").json()["role"] == "engineer"
    sign_in(browser)
    assert browser.get("/api/me").json()["role"] == "annotator"
    with database.transaction() as tx:
        query = sa.select(events.c.data).where(events.c.kind == "reviewer role changed")
        assert tx.scalar(query) == {"before": "engineer", "after": "annotator"}


def test_without_a_role_nobody_is_created_and_sessions_end(
    browser, make_client, provider, database
):
    provider.person["groups"] = ["others"]
    assert sign_in(browser)["problem"] == ["no-role"]
    with database.transaction() as tx:
        assert reviewers.list_reviewers(tx) == []
    provider.person["groups"] = "reviewers"
    sign_in(browser)
    assert browser.get("/api/me").status_code == 200
    del provider.person["groups"]
    assert sign_in(make_client())["problem"] == ["no-role"]
    assert browser.get("/api/me").status_code == 401
    assert [row["data"]["reason"] for row in refused(database)] == [
        "none of your groups has access"
    ] * 2


def test_a_start_is_bound_to_its_browser_and_finished_once(browser, make_client, provider):
    back = urlsplit(start(browser))
    stolen = make_client().get(f"{back.path}?{back.query}")
    assert "problem=provider" in stolen.headers["location"]
    other_state = f"{back.path}?{back.query.replace('state=', 'state=x')}"
    assert "problem=provider" in browser.get(other_state).headers["location"]
    # The start is over, although the code was not used.
    again = browser.get(f"{back.path}?{back.query}")
    assert "problem=provider" in again.headers["location"]
    assert browser.get("/api/me").status_code == 401
    back = urlsplit(start(browser))
    denied = f"{back.path}?error=access_denied&state={parse_qs(back.query)['state'][0]}"
    assert "problem=provider" in browser.get(denied).headers["location"]


def test_names_that_are_missing_taken_or_reserved_are_refused(browser, provider, database):
    with database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "Ada", Role.admin)
    for name in (
        "Ada",
        "token loader",
        "Command line",
        "rule_reviewer",
        "",
        "a\nb",
        "\x1b[31m",
        "x" * 101,
        7,
    ):
        provider.person["preferred_username"] = name
        assert sign_in(browser)["problem"] == ["name"], name
    provider.person["preferred_username"] = "Ada"
    with database.transaction() as tx:
        identities.link_identity(tx, ada, provider.issuer, "42", "admin")
        with pytest.raises(Conflict, match="linked already"):
            identities.link_identity(tx, ada, provider.issuer, "42", "admin")
        with pytest.raises(Refused, match="a person"):
            identities.link_identity(tx, ada, provider.issuer, " ", "admin")
    assert "signed_in" in sign_in(browser)
    assert browser.get("/api/me").json()["role"] == "annotator", "groups decide"


def test_a_changed_name_at_the_provider_stays_the_same_person(browser, provider):
    sign_in(browser)
    provider.person["preferred_username"] = "Augusta"
    sign_in(browser)
    assert browser.get("/api/me").json()["name"] == "Ada"


def test_a_deactivated_person_stays_outside(browser, database):
    sign_in(browser)
    with database.transaction() as tx:
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, "Ada"))
    assert browser.get("/api/me").status_code == 401
    assert sign_in(browser)["problem"] == ["refused"]


def test_the_account_of_a_browser_is_not_switched(browser, provider):
    sign_in(browser)
    provider.person |= {"sub": "43", "preferred_username": "Grace"}
    assert sign_in(browser)["problem"] == ["other-account"]
    assert browser.get("/api/me").json()["name"] == "Ada"


def test_without_a_provider_the_addresses_do_not_exist(client):
    assert client.get("/api/oidc/sign-in", follow_redirects=False).status_code == 404


def test_a_provider_without_roles_is_refused_at_the_start(context, provider):
    settings = context.settings.model_copy(
        update={"oidc_issuer": provider.issuer, "oidc_client_id": CLIENT}
    )
    with pytest.raises(Refused, match="LAYERLOOP_OIDC_ROLES"):
        create_app(AppContext(settings, context.database, context.store, context.queue))


def test_groups_are_read_from_a_name_or_a_path():
    def groups(claims, claim) -> tuple[str, ...]:
        return identities.read_identity("i", {"sub": 1} | claims, "name", claim).groups

    nested = {"realm_access": {"roles": ["a", 7, "b"]}}
    assert groups(nested, "realm_access.roles") == ("a", "b")
    assert groups({"https://x.example/groups": ["a"]}, "https://x.example/groups") == ("a",)
    assert groups({"groups": "a"}, "groups") == ("a",)
    for wrong in ({}, {"groups": {"a": 1}}, {"groups": 7}):
        assert groups(wrong, "groups") == ()
    assert identities.mapped_role(Identity("i", "s", "n", ("admins", "data")), ROLES) is Role.admin
