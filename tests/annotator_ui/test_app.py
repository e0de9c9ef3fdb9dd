"""The pages as served: response headers, no inline code, escaped values, preloaded modules."""

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

PATHS = [
    path.replace("{number:int}", "3").replace("{name}", "first").replace("{run}", "5c1d9a20")
    for path in PAGES
]
MODULES = sorted(STATIC.rglob("*.js"))
HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.state.session_cookie = "a_session"
    mount(app)
    return TestClient(app, cookies={"a_session": "any"}, follow_redirects=False)


class PageContent(HTMLParser):
    """The resources, inline code and ids of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.inline: list[str] = []
        self.ids: list[str] = []
        self._tag: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.inline.append(f"<{tag} {name}>")
            if name in {"src", "href", "action"} and value:
                self.urls.append(value)
            if name == "id" and value:
                self.ids.append(value)

    def handle_data(self, data: str) -> None:
        if self._tag in {"script", "style"} and data.strip():
            self.inline.append(data)


@pytest.mark.parametrize("path", PATHS)
def test_a_page_has_a_strict_policy_and_no_inline_code(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    policy = dict(
        part.split(" ", 1) for part in response.headers["content-security-policy"].split("; ")
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
    assert policy["trusted-types"] == "edge-worker", "one policy, created once, for one URL"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    content = PageContent(response.text)
    assert content.inline == []
    assert len(content.ids) == len(set(content.ids))
    assert all(url.startswith(("/", "#")) and not url.startswith("//") for url in content.urls)
    for own in (url for url in content.urls if url.startswith("/static/")):
        file = client.get(own)
        assert file.status_code == 200, own
        assert (
            file.headers["content-security-policy"] == response.headers["content-security-policy"]
        )
        assert "immutable" in file.headers["cache-control"]
        assert file.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/sign-in"])
def test_without_a_session_a_page_redirects_to_sign_in(client: TestClient, path: str) -> None:
    client.cookies.clear()
    response = client.get(path)
    assert response.status_code == 303
    assert response.headers["location"] == f"/sign-in?next={quote(path)}"
    assert client.get("/").headers["location"] == "/sign-in"


def test_the_start_page_is_the_review_page(client: TestClient) -> None:
    assert client.get("/").headers["location"] == "/review"


def test_the_path_of_a_page_never_becomes_markup(client: TestClient) -> None:
    path = f"/snapshots/{quote(HOSTILE, safe='')}"
    assert "alert" not in client.get(path).text
    client.cookies.clear()
    response = client.get("/review?round=2&x=" + quote(HOSTILE, safe=""))
    assert response.headers["location"].startswith("/sign-in?next=/review%3Fround%3D2%26x%3D%2522")


def test_templates_escape_every_value() -> None:
    html = render("rounds", HOSTILE)
    assert HOSTILE not in html
    assert "&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_static_files_stay_in_their_folder(client: TestClient) -> None:
    folder = re.search(r"/static/[0-9a-f]{16}", client.get("/rounds").text)
    assert folder is not None
    for name in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "", "nothing.js"):
        assert client.get(f"{folder[0]}/{name}").status_code == 404


def test_every_imported_module_is_preloaded() -> None:
    for page in PAGES.values():
        modules = needed_modules(f"pages/{page}.js")
        for name in modules:
            text = (STATIC / name).read_text("utf-8")
            code = re.sub(
                r"/\*.*?\*/|new URL\(.*?\)", "", text, flags=re.DOTALL
            )  # a worker loads its own modules
            imported = {_resolve(name, path) for path in re.findall(r'"(\.{1,2}/[\w./]+)"', code)}
            assert imported <= modules, f"{page} does not preload an import of {name}"


def _resolve(module: str, path: str) -> str:
    """Return an import path relative to the folder of the static files."""
    return str((STATIC / module).parent.joinpath(path).resolve().relative_to(STATIC))


def test_no_module_is_left_unused() -> None:
    entry_points = [
        *(f"pages/{name}.js" for name in (*PAGES.values(), "not_found")),
        "review/edge_worker.js",
    ]
    used = set.union(*(set(needed_modules(name)) for name in entry_points))
    modules = {str(file.relative_to(STATIC)) for file in MODULES}
    assert modules - used == {"lib/theme.js"}  # a classic script


def test_every_id_that_a_module_looks_up_is_in_a_template() -> None:
    templates = "".join(
        file.read_text("utf-8") for file in (STATIC.parent / "templates").glob("*.html")
    )
    code = "".join(file.read_text("utf-8") for file in MODULES)
    wanted = set(re.findall(r'byId\(\s*"([^"]+)"', code))
    assert wanted
    assert wanted <= set(re.findall(r'\bid="([^"]+)"', templates))


def test_text_never_becomes_markup() -> None:
    for file in MODULES:
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function",
            file.read_text(),
        )
        assert found == [], file.name


def test_every_module_is_documented_and_short() -> None:
    for file in MODULES:
        text = file.read_text("utf-8")
        assert text.startswith("/**"), file.name
        assert len(text.splitlines()) <= 300, file.name
        assert max(map(len, text.splitlines())) <= 100, file.name


def test_style_sheets_are_short_and_have_one_declaration_per_line() -> None:
    for file in STATIC.rglob("*.css"):
        lines = file.read_text("utf-8").splitlines()
        assert len(lines) <= 400, file.name
        assert max(map(len, lines)) <= 100, file.name
        assert not [line for line in lines if re.search(r";\s*\S", line)], file.name


def test_the_front_end_never_imports_training() -> None:
    code = (
        "import sys, annotator_ui.app; print({'torch', 'training', 'diffusers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "set()"


def test_metrics_have_the_same_direction_as_in_training() -> None:
    # Parsed instead of imported, because training needs torch and these tests do not.
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
    definitions = (STATIC / "lib" / "metric_definitions.js").read_text("utf-8")
    shown = re.findall(r'(\w+): \{[^}]*better: "(higher|lower)"', definitions)
    assert {name: direction == "higher" for name, direction in shown} == ast.literal_eval(table)
