"""The documentation: commands, options, settings, paths and targets exist, and generated pages equal the code."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

import layerloop
from curation import __version__
from curation.cli.main import app
from curation.settings import NOT_SETTINGS, Settings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GENERATED = {DOCS / "reference" / file.name for file in (DOCS / "reference").glob("*.md")}
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [
    ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")
] + [page for page in PAGES if page not in GENERATED]
TEXTS = {page: page.read_text("utf-8") for page in (*WRITTEN, *GENERATED)}
README = TEXTS[ROOT / "README.md"]
CONTRIBUTING = TEXTS[ROOT / "CONTRIBUTING.md"]
HAND_WRITTEN = "\n".join(TEXTS[page] for page in WRITTEN)


def short(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands() -> dict[str, typer.core.TyperCommand]:
    """Every command as it is typed, without its options."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= (
            {f"{name} {verb}": one for verb, one in inner.items()} if inner else {name: command}
        )
        # A group that is also a command, such as `worker`.
        if inner and command.invoke_without_command:
            found[name] = command
    return found


COMMANDS = commands()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_stands_in_a_page(command: str) -> None:
    assert len(COMMANDS[command].help or "") > 20
    for option in COMMANDS[command].params:
        assert option.name == "help" or option.help, f"{command}: {option.name} has no help"
    group, _, verb = command.partition(" ")
    assert f"layerloop {group}" in HAND_WRITTEN
    assert verb in HAND_WRITTEN


def examples(page: Path) -> Iterator[list[str]]:
    """Yield the words of every layerloop command in the shell examples of a page."""
    for block in re.findall(r"```sh\n(.*?)```", TEXTS[page], re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "layerloop" in words[:1]:
                yield words[1:]


@pytest.mark.parametrize("page", WRITTEN, ids=short)
def test_commands_and_options_of_examples_exist(page: Path) -> None:
    for words in examples(page):
        if words[0].startswith("-"):
            continue  # an option of layerloop itself
        name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        command = COMMANDS.get(name)
        assert command is not None, f"there is no command {name!r}"
        known = {
            spelling for one in command.params for spelling in (*one.opts, *one.secondary_opts)
        } | {"-h", "--home"}
        for word in words:
            if word.startswith("--"):
                option = word.partition("=")[0]
                assert option in known, f"{name} has no option {option}"


def test_every_setting_says_what_it_is_for() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    "page", [page for page in WRITTEN if page.name != "upgrading.md"], ids=short
)
def test_settings_named_in_the_documents_exist(page: Path) -> None:
    known = {name.upper() for name in Settings.model_fields}
    for name in re.findall(r"LAYERLOOP_[A-Z_]+", TEXTS[page]):
        assert name.startswith(NOT_SETTINGS) or name.removeprefix("LAYERLOOP_") in known, name


def test_files_named_in_the_documents_exist() -> None:
    pattern = (
        r"`((?:curation|training|annotator_ui|layerloop|tests|docker|migrations|\.ci)/[\w/.-]*)`"
    )
    named = re.findall(pattern, HAND_WRITTEN)
    assert len(named) > 100
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_tree_in_the_architecture_is_the_tree() -> None:
    drawn = TEXTS[DOCS / "architecture" / "packages.md"].split("## The tree")[1].split("```")[1]
    drawn = drawn[: drawn.index("annotator_ui/")]
    for package, part in zip(("curation", "training"), drawn.split("\ntraining/"), strict=True):
        for name in re.findall(r"\b(\w+\.py)\b", part):
            assert (ROOT / package / name).exists(), name
        for name in re.findall(r"^  (\w+)/", part, re.MULTILINE):
            assert (ROOT / package / name).is_dir(), name
        modules = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
        assert modules <= set(re.findall(r"\w+\.py", part)), (
            f"a module of {package} is missing in the tree"
        )


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the documentation is built."""
    found = set()
    for line in re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL).splitlines():
        if match := re.match(r"#+ (.*?)(?:\s*\{#([\w-]+)\})?$", line):
            text = re.sub(r"[^\w\s-]", "", match[1].lower()).strip()
            found.add(match[2] or re.sub(r"[\s-]+", "-", text))
    return found


@pytest.mark.parametrize(
    "page", [*WRITTEN, ROOT / "CHANGELOG.md", ROOT / "training" / "LOG.md"], ids=short
)
def test_links_between_documents_hold(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s:]+)\)", page.read_text("utf-8")):
        file, _, anchor = target.partition("#")
        aim = (page.parent / file).resolve() if file else page
        assert aim.exists(), target
        if anchor:
            assert anchor in anchors(aim), target


def test_make_targets_named_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", HAND_WRITTEN + ci, re.MULTILINE))
    assert {
        "demo",
        "test",
        "check",
        "lint",
        "types",
        "quick",
        "static",
        "docs",
        "screenshots",
    } <= named
    assert named <= targets


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_generated_pages_equal_the_code() -> None:
    program = [sys.executable, ".ci/docs/reference.py", "--check"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_is_short_and_has_pictures() -> None:
    assert len(README.encode()) <= 7_000
    assert len(set(re.findall(r"!\[[^\]]+\]\(docs/images/[\w.-]+\)", README))) >= 4
    assert len(TEXTS[ROOT / "ARCHITECTURE.md"].encode()) <= 8_000


def test_every_image_has_a_text_and_is_used() -> None:
    used = set()
    for page in (*WRITTEN, *GENERATED):
        for text, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", TEXTS[page]):
            assert text.strip(), f"{short(page)}: {target} has no text"
            used.add((page.parent / target).resolve())
    assert used == set((DOCS / "images").iterdir())


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))

    def files(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for one in (
            entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else []
        ):
            yield from files(one)

    assert sorted(files(config["nav"])) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


@pytest.mark.parametrize(
    "record", sorted((DOCS / "decisions").glob("0*.md")), ids=lambda record: record.stem
)
def test_decision_records_have_all_their_sections(record: Path) -> None:
    text = TEXTS[record]
    assert re.match(
        rf"# {record.name[:4]}\. .+\n\n- Status: (accepted|superseded by \d{{4}})\n- Date: \d{{4}}-\d\d-\d\d\n",
        text,
    )
    sections = re.findall(r"^## (\w+)$", text, re.MULTILINE)
    assert sections == ["Context", "Decision", "Consequences", "Alternatives", "Evidence"]
    assert f"]({record.name})" in TEXTS[DOCS / "decisions" / "index.md"]


@pytest.mark.parametrize("page", WRITTEN, ids=short)
def test_python_examples_parse_and_import_public_names(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", TEXTS[page], re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "layerloop":
                assert {one.name for one in node.names} <= set(layerloop.__all__)


def test_the_lock_of_the_documentation_has_what_builds_it() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    locked = (ROOT / "requirements-docs.lock").read_text("utf-8")
    for wanted in groups["docs"]:
        assert f"\n{re.split('[<>=~]', wanted)[0]}==" in locked


def test_nothing_of_a_machine_or_a_registry_is_in_the_tree() -> None:
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = ("pypi" + ".org", "registry." + "npmjs", "index" + "-url", "find" + "-links")
    for name in filter(None, files.split("\0")):
        path = ROOT / name
        if (
            path.suffix
            in {
                ".py",
                ".md",
                ".toml",
                ".json",
                ".lock",
                ".yaml",
                ".yml",
                ".js",
                ".html",
                ".svg",
                "",
            }
            and path.is_file()
        ):
            text = path.read_text("utf-8", errors="replace")
            for bad in names:
                assert bad not in text, f"{name} names {bad}"


def test_the_documents_are_written_in_plain_words() -> None:
    done = subprocess.run(
        [sys.executable, ".ci/style_report.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    measured = dict(re.findall(r"^(.{66}) (\S+)", done, re.MULTILINE))
    measured = {trait.strip(): value for trait, value in measured.items()}
    assert float(measured["sentences with what/whoever/whatever per 1,000 words, documents"]) <= 2
    assert float(measured["told/said/asked per 1,000 words, documents"]) <= 0.5
