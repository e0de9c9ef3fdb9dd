"""Sign-in at an identity provider in Chromium, from the sign-in page to the end of both sessions.

The provider is oidc-provider-mock, whose code is not ours.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import oidc_provider_mock
import pytest
import uvicorn
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.api.app import create_app
from curation.domain import Role
from curation.runtime.context import AppContext
from tests.browser.reviewing import Site, accessibility_violations
from tests.support.servers import free_port, wait_for

# The provider uses names of Authlib that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:get_jwt_config", "ignore:authlib.jose")


@pytest.fixture
def issuer() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    users = [
        oidc_provider_mock.User(sub=name.lower(), claims={"name": name, "groups": groups})
        for name, groups in (("Ada", ["data"]), ("Eve", ["others"]))
    ]
    with oidc_provider_mock.run_server_in_thread(user_claims=users) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
def site(database, store, settings, issuer) -> Iterator[Site]:
    """Serve the application with the provider, at the name that is not the provider's."""
    port = free_port()
    update = {"port": port, "oidc_issuer": issuer, "oidc_client_id": "layerloop"}
    update |= {"oidc_client_secret": SecretStr("a-secret")}
    update |= {"oidc_name_claim": "name", "oidc_roles": {"data": Role.engineer}}
    context = AppContext(
        settings.model_copy(update=update),
        database,
        store,
        CeleryQueue(make_app(settings, settings.database)),
    )
    server = uvicorn.Server(
        uvicorn.Config(create_app(context), host="127.0.0.1", port=port, log_level="warning")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for("the application", lambda: server.started)
    yield Site(context, f"http://127.0.0.1:{port}")
    server.should_exit = True
    thread.join(20)


def authorize(page: Page, name: str) -> None:
    """Go from the sign-in page to the provider, and authorize a predefined user there."""
    page.get_by_role("link", name="Sign in with your organization").click()
    page.wait_for_url("**/oauth2/authorize?**")
    page.get_by_role("button", name=name.lower(), exact=True).click()


def test_a_person_signs_in_at_the_provider_and_out_again(
    open_page: Callable[..., Page], site: Site, issuer: str
) -> None:
    page = open_page(name=None, path="/snapshots")
    assert accessibility_violations(page) == []
    authorize(page, "Ada")
    page.wait_for_url("**/snapshots")
    expect(page.locator("#me")).to_contain_text("Ada engineer")
    # The session holds in other pages, and ends at the provider too.
    page.goto(f"{site.address}/rounds")
    expect(page.locator("#me")).to_contain_text("Ada")
    page.locator("#sign-out").click()
    page.wait_for_url(f"{issuer}/oauth2/end_session?**")
    query = parse_qs(urlsplit(page.url).query)
    assert query["post_logout_redirect_uri"] == [f"{site.address}/sign-in"]
    page.goto(f"{site.address}/rounds")
    page.wait_for_url("**/sign-in?next=**")


def test_a_person_without_a_role_sees_the_reason(
    open_page: Callable[..., Page], site: Site
) -> None:
    page = open_page(name=None, path="/rounds")
    authorize(page, "Eve")
    page.wait_for_url("**/sign-in?problem=no-role**")
    expect(page.locator("#problem")).to_contain_text("None of your groups has access.")
    expect(page.locator("#problem")).to_contain_text("administrator")
    assert accessibility_violations(page) == []
    page.goto(f"{site.address}/rounds")
    page.wait_for_url("**/sign-in?next=**")


def test_a_denied_sign_in_is_reported(open_page: Callable[..., Page]) -> None:
    page = open_page(name=None, path="/sign-in")
    page.get_by_role("link", name="Sign in with your organization").click()
    page.wait_for_url("**/oauth2/authorize?**")
    page.get_by_role("button", name="Deny").click()
    page.wait_for_url("**/sign-in?problem=provider**")
    expect(page.locator("#problem")).to_contain_text("did not sign you in")
