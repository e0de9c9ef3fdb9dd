"""The pages as they leave the server: their headers, that nothing stands inline, that every value is escaped."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from annotator_ui.app import PAGES, STATIC, mount, needed_modules, render

ADDRESSES = [address.replace("{number:int}", "3").replace("{name}", "first") for address in PAGES]
HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.state.session_cookie = "a_session"
    mount(app)
    return TestClient(app, cookies={"a_session": "whatever"}, follow_redirects=False)


class Found(HTMLParser):
    """What a page asks the browser to fetch or to run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.ids: list[str] = []
        self._in: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.inline.append(f"<{tag} {name}>")
            if name in {"src", "href", "action"} and value:
                self.addresses.append(value)
            if name == "id" and value:
                self.ids.append(value)

    def handle_data(self, data: str) -> None:
        if self._in in {"script", "style"} and data.strip():
            self.inline.append(data)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_page_brings_a_strict_policy_and_nothing_inline(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 200
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert (
        policy["script-src"]
        == policy["style-src"]
        == policy["img-src"]
        == policy["connect-src"]
        == "'self'"
    )
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["trusted-types"] == "edge-worker", (
        "one policy, that is made once and knows one address"
    )
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    found = Found(answer.text)
    assert found.inline == []
    assert len(found.ids) == len(set(found.ids))
    assert all(
        address.startswith(("/", "#")) and not address.startswith("//")
        for address in found.addresses
    )
    for own in (address for address in found.addresses if address.startswith("/static/")):
        file = client.get(own)
        assert file.status_code == 200, own
        assert file.headers["content-security-policy"] == answer.headers["content-security-policy"]
        assert "immutable" in file.headers["cache-control"]
        assert file.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("address", [address for address in ADDRESSES if address != "/sign-in"])
def test_who_has_no_session_is_sent_to_sign_in_and_comes_back(
    client: TestClient, address: str
) -> None:
    client.cookies.clear()
    answer = client.get(address)
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/sign-in?next={address}"
    assert client.get("/").headers["location"] == "/sign-in"


def test_the_front_door_leads_to_the_review_page(client: TestClient) -> None:
    assert client.get("/").headers["location"] == "/review"


def test_the_address_of_a_page_never_becomes_markup(client: TestClient) -> None:
    address = f"/snapshots/{quote(HOSTILE, safe='')}"
    assert "alert" not in client.get(address).text
    client.cookies.clear()
    answer = client.get("/review?round=2&x=" + quote(HOSTILE, safe=""))
    assert answer.headers["location"].startswith("/sign-in?next=/review%3Fround%3D2%26x%3D%2522")


def test_templates_escape_every_value() -> None:
    html = render("rounds", HOSTILE)
    assert HOSTILE not in html
    assert "&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_static_files_stay_in_their_folder(client: TestClient) -> None:
    folder = re.search(r"/static/[0-9a-f]{16}", client.get("/rounds").text)
    assert folder is not None
    for name in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "", "nothing.js"):
        assert client.get(f"{folder[0]}/{name}").status_code == 404


def test_every_module_that_is_imported_is_fetched_at_once() -> None:
    for page in PAGES.values():
        modules = needed_modules(f"{page}.js")
        for name in modules:
            text = (STATIC / name).read_text("utf-8")
            code = re.sub(
                r"/\*.*?\*/|new URL\(.*?\)", "", text, flags=re.DOTALL
            )  # a worker fetches for itself
            imported = set(re.findall(r'"\./([\w.]+)"', code))
            assert imported <= modules, f"{name} imports what {page} does not announce"


def test_no_module_is_left_unused() -> None:
    begun = [*PAGES.values(), "missing", "edge_worker"]
    used = set.union(*(set(needed_modules(f"{name}.js")) for name in begun))
    assert {file.name for file in STATIC.glob("*.js")} - used == {
        "theme.js"
    }  # a classic script of its own


def test_markup_is_never_made_from_text() -> None:
    for file in STATIC.glob("*.js"):
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function",
            file.read_text(),
        )
        assert found == [], file.name


def test_every_file_says_what_it_is_for_and_stays_small() -> None:
    for file in STATIC.glob("*.js"):
        text = file.read_text("utf-8")
        assert text.startswith("/**"), file.name
        assert len(text.splitlines()) <= 250, file.name


def test_the_pages_never_load_the_workshop() -> None:
    code = (
        "import sys, annotator_ui.app; print({'torch', 'training', 'diffusers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "set()"


def test_the_figures_of_an_evaluation_are_better_in_the_same_direction_as_in_the_workshop() -> None:
    # Read, not imported: training needs torch, and the pages' tests do not.
    heldout = ast.parse(
        (STATIC.parents[1] / "training" / "evaluation" / "heldout.py").read_text("utf-8")
    )
    table = next(
        node.value
        for node in heldout.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "HIGHER_IS_BETTER"
    )
    assert table is not None
    shown = re.findall(
        r'"(\w+)",\s*\{[^}]*better: "(higher|lower)"', (STATIC / "measures.js").read_text("utf-8")
    )
    assert {name: way == "higher" for name, way in shown} == ast.literal_eval(table)
