"""Sign-in links: their target page, and the confirmation before switching accounts."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.browser.reviewing import OpenPage, Site, accessibility_violations

OTHER_SITES = [
    "/.//other.example",
    "/%2e//other.example",
    "/.//other.example/%2e%2e",
    "/./\\other.example",
    "//other.example",
    "\\\\other.example",
    "/\\other.example",
    "/\t/other.example",
    "/.\t//other.example",
    "/..//other.example",
    "http:other.example//other.example",
    "http://other.example/",
    "javascript:alert(1)",
    "data:text/html,x",
    "http://[",
    "https://127.0.0.1/",
]


@pytest.mark.parametrize(
    "wanted", [*OTHER_SITES, "{site}//other.example/", "blob:{site}/x", "{site}@other.example/"]
)
def test_no_target_leads_to_another_site(open_page: OpenPage, site: Site, wanted: str) -> None:
    page = open_page(name=None, path="/sign-in")
    left: list[str] = []
    page.on("request", lambda request: left.append(request.url))
    page.goto(site.sign_in_url("Ada") + "&next=" + quote(wanted.format(site=site.address), safe=""))
    page.wait_for_url(lambda address: "/sign-in" not in address)
    page.wait_for_load_state()
    assert page.url.startswith(f"{site.address}/")
    assert [url for url in left if not url.startswith(f"{site.address}/")] == []


def test_the_requested_page_is_opened(open_page: OpenPage, site: Site) -> None:
    page = open_page(name=None, path="/rounds?x=1")
    assert page.url.startswith(f"{site.address}/sign-in?next=")
    page.locator("#token").fill(site.sign_in_url("Ada").partition("token=")[2].partition("&")[0])
    page.keyboard.press("Enter")
    page.wait_for_url("**/rounds?x=1")


def test_a_link_asks_before_it_switches_accounts(open_page: OpenPage, site: Site) -> None:
    page = open_page(name="Ada", path="/rounds")
    expect(page.locator("#me")).to_contain_text("Ada")
    link = site.sign_in_url("Grace")
    page.goto(link)
    expect(page.locator("#switch-prompt")).to_contain_text("signed in as Ada")
    assert accessibility_violations(page) == []
    page.get_by_role("button", name="Keep current account").click()
    page.wait_for_url("**/rounds")
    expect(page.locator("#me")).to_contain_text("Ada")
    page.goto(link)
    page.get_by_role("button", name="Switch accounts").click()
    page.wait_for_url("**/review")
    expect(page.locator("#me")).to_contain_text("Grace")


def test_an_unknown_path_has_an_error_page(open_page: OpenPage, site: Site) -> None:
    page = open_page(name="Ada", path="/rounds")
    for path in ("/nothing", "/rounds/abc", "/review/x", "//other.example"):
        answer = page.goto(site.address + path)
        assert answer is not None
        assert answer.status == 404
        expect(page.locator("h1")).to_have_text("Page not found")
        expect(page.locator("#me")).to_contain_text("Ada")
    assert accessibility_violations(page) == []
    page.get_by_role("link", name="Go to the start page").click()
    page.wait_for_url("**/rounds")
