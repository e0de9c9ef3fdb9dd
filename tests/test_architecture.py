"""Rules of the code base: imports, transactions, the environment, and the form of files and names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
import sqlalchemy as sa
from sqlalchemy.types import JSON

from curation.datasets import named_objects
from curation.db.tables import metadata

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("layerloop", "curation", "training", "annotator_ui")
OURS = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
EVERY_FILE = [*OURS, *sorted((ROOT / "tests").rglob("*.py"))]
LINES = 400

FORBIDDEN = {
    "house": "app context, instance",
    "household": "local stack",
    "conveyor": "job pipeline",
    "workshop": "training package",
    "skin": "front end",
    "easel": "scene renderer",
    "tray": "review queue",
    "oracle": "rule reviewer",
    "desk": "labeling",
    "board": "project",
    "posting": "task",
    "whence": "round label",
    "told": "report, payload, message",
    "said": "content, params",
    "lesson": "training rows, weights",
    "coin": "flag, hash bucket",
    "facts": "metadata",
    "picture": "image",
    "colour": "color",
    "grey": "gray",
    "centre": "center",
    "optimiser": "optimizer",
    "learnt": "trained, finetuned",
}
"""Words that the code does not use, in the singular, and the words to use instead."""

STORED = {
    "curation/scenes/scene.py: colour",  # a key of scene files
    "curation/selection/acceptance_model.py: centres",  # a key of stored parameters
    "curation/screening/signals.py: _contam_grey",  # defines the stored signal contam_grey
    "curation/synthetic/shapes.py: grey",  # a word of the captions' grammar
}
"""Names that are stored, so that they cannot change."""

VOCABULARY = {"curation.domain", "curation.errors"}
PORTS = {"curation.ports", "curation.labeling.port"}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def place(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_the_contracts_of_imports_are_kept():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(contracts)} kept, 0 broken." in done.stdout


def test_the_domain_imports_nothing_and_ports_only_the_domain(graph):
    for module in VOCABULARY:
        assert ours(graph.find_modules_directly_imported_by(module)) == set(), module
    for module in PORTS:
        assert ours(graph.find_modules_directly_imported_by(module)) <= VOCABULARY, module


def test_packages_of_curation_form_no_import_cycle(graph):
    """The contract of layers names every package; this holds for one that somebody adds and does not name."""
    arrows = {
        (importer.split(".")[1], imported.split(".")[1])
        for importer in graph.find_descendants("curation")
        for imported in graph.find_modules_directly_imported_by(importer)
        if imported.startswith("curation.") and importer.split(".")[1] != imported.split(".")[1]
    }
    sorter = TopologicalSorter[str]()
    for importer, imported in arrows:
        sorter.add(importer, imported)
    assert len(list(sorter.static_order())) > 20


def test_adapters_import_only_ports(graph):
    allowed = (
        VOCABULARY
        | PORTS
        | {
            "curation.object_store",
            "curation.settings",
            "curation.storage_settings",
            "curation.store_inventory",
            "curation.adapters",
            # The lock under which the queue is installed is one of the instance's.
            "curation.db.advisory_locks",
            # A pack's folder is a port, and an address of a snapshot may be one of a pack.
            "curation.exports.packs.folder",
            "curation.exports.packs.opening",
        }
    )
    for adapter in graph.find_descendants("curation.adapters"):
        known = {
            module
            for module in ours(graph.find_modules_directly_imported_by(adapter))
            if "adapters" not in module
        }
        assert known <= allowed, adapter


@pytest.mark.parametrize(
    "vendor",
    [
        "celery",
        "kombu",
        "boto3",
        "botocore",
        "psycopg",
        "pgmq",
        "httpx",
        "httpx2",
        "label_studio_sdk",
        "authlib",
        "httpcore",
        "standardwebhooks",
    ],
)
def test_a_vendor_is_known_by_adapters_alone(graph, vendor):
    users = graph.find_modules_that_directly_import(vendor)
    assert all(module.startswith("curation.adapters.") for module in users), users


def test_the_command_line_starts_without_torch_and_without_the_database():
    program = "import sys, curation.cli.main; print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("file", OURS, ids=place)
def test_only_the_database_commits(file):
    """One request or job is one transaction: no other module begins, ends or undoes one."""
    if place(file) == "curation/db/engine.py":
        return
    for node in calls(parsed(file)):
        named = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        assert named not in {"commit", "rollback", "begin", "begin_nested"}, (
            f"{place(file)}:{node.lineno} {named}()"
        )


@pytest.mark.parametrize("file", OURS, ids=place)
def test_only_the_settings_read_the_environment(file):
    if place(file) == "curation/settings.py":
        return
    for node in ast.walk(parsed(file)):
        name = (
            node.attr
            if isinstance(node, ast.Attribute)
            else node.name
            if isinstance(node, ast.alias)
            else ""
        )
        assert name not in {"environ", "environb", "getenv", "getenvb"}, f"{place(file)}: os.{name}"


@pytest.mark.parametrize("file", OURS, ids=place)
def test_nothing_is_unpickled_and_no_string_is_run(file):
    """Weights are safetensors only; what comes from outside never becomes code."""
    tree = parsed(file)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not named & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}, (
                place(file)
            )
    for node in calls(tree):
        name = ast.unparse(node.func)
        assert name not in {"eval", "exec", "torch.load", "np.load", "numpy.load", "os.system"}, (
            f"{place(file)}: {name}()"
        )
        assert not any(k.arg == "shell" for k in node.keywords), (
            f"{place(file)}:{node.lineno} a shell"
        )


@pytest.mark.parametrize("file", EVERY_FILE, ids=place)
def test_a_file_opens_with_one_sentence(file):
    expected_text = ast.get_docstring(parsed(file))
    assert expected_text, f"{place(file)} does not say what it is"
    first = expected_text.split("\n\n")[0].replace("\n", " ")
    assert first.endswith((".", "?")), f"{place(file)}: {first}"


@pytest.mark.parametrize("file", OURS, ids=place)
def test_no_file_is_longer_than_the_limit(file):
    lines = len(file.read_text().splitlines())
    assert lines <= LINES, f"{place(file)} has {lines} lines"


def test_no_module_has_a_name_that_fits_everything():
    names = {part for file in OURS for part in file.relative_to(ROOT).with_suffix("").parts}
    assert not names & {
        "utils",
        "util",
        "helpers",
        "helper",
        "common",
        "base",
        "manager",
        "service",
        "misc",
    }


def ours(modules: set[str]) -> set[str]:
    """Those of our own packages, the package's own version file left out."""
    return {
        module
        for module in modules
        if module.partition(".")[0] in PACKAGES and module not in PACKAGES
    }


def calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_files_of_tests_have_different_names():
    """Their folders are no packages, so two of one name could not be collected together."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_a_class_name_means_one_class():
    files: dict[str, list[str]] = {}
    for file in OURS:
        for node in parsed(file).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files.setdefault(node.name, []).append(place(file))
    assert {name: found for name, found in files.items() if len(found) > 1} == {}


@pytest.mark.parametrize("file", OURS, ids=place)
def test_forbidden_words_appear_neither_in_identifiers_nor_in_first_lines(file):
    found = {}
    for name in identifiers(file):
        # Split at underscores and between a small and a capital letter.
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
        if wrong := forbidden(words):
            found[f"{place(file)}: {name}"] = wrong
    for text in texts(file):
        if wrong := forbidden(re.findall(r"\w+", re.sub(r"`[^`]*`", "", text))):
            found.setdefault(f"{place(file)}: {wrong.partition(',')[0]}", f"{wrong}, in {text!r}")
    assert {name: wrong for name, wrong in found.items() if name not in STORED} == {}


@pytest.mark.parametrize(
    "page", sorted((ROOT / "annotator_ui" / "templates").glob("*.html")), ids=lambda page: page.name
)
def test_forbidden_words_do_not_appear_on_the_pages(page):
    text = re.sub(r"\{[%{#].*?[%}#]\}|<[^>]*>", " ", page.read_text(), flags=re.DOTALL)
    labels = re.findall(r'(?:title|placeholder|aria-label|alt)="([^"]*)"', page.read_text())
    assert forbidden(re.findall(r"\w+", " ".join([text, *labels]))) == ""


def identifiers(file: Path) -> Iterator[str]:
    """Yield the names that a file defines: its own and those of its functions, classes, parameters, fields."""
    yield from file.relative_to(ROOT).with_suffix("").parts
    tree = parsed(file)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.arg):
            yield node.arg
        for body in [node.body] if isinstance(node, ast.ClassDef | ast.Module) else []:
            for one in body:
                targets = (
                    one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
                )
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def texts(file: Path) -> Iterator[str]:
    """Yield the first lines of a file's docstrings, and what its commands print as help."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.keyword) and node.arg == "help":
            yield from (
                one.value
                for one in ast.walk(node.value)
                if isinstance(one, ast.Constant) and isinstance(one.value, str)
            )


def forbidden(words: list[str]) -> str:
    """Return the first forbidden word, with the word to use instead; empty if there is none."""
    for word in (word.lower() for word in words):
        if instead := FORBIDDEN.get(word) or FORBIDDEN.get(word.removesuffix("s")):
            return f"{word}, use {instead}"
    return ""


def test_every_column_that_may_name_objects_is_classified():
    """Garbage collection removes what curation.datasets.named_objects does not know: no column is forgotten there."""
    listed = {
        f"{column.table.name}.{column.name}"
        for column in (*named_objects.OBJECT_COLUMNS, *named_objects.OBJECT_MAPS)
    }
    others = named_objects.HASHES | named_objects.PLAIN_JSON
    found = set()
    for table in metadata.tables.values():
        for column in table.columns:
            item = getattr(column.type, "item_type", column.type)
            holds_hash = isinstance(item, sa.String) and item.length == 64
            if (holds_hash or isinstance(item, JSON)) and not column.foreign_keys:
                found.add(f"{table.name}.{column.name}")
    missing = found - listed - others
    assert not missing, f"does it name objects of the store? list it in named_objects.py: {missing}"
    assert not (listed | others) - found, f"no such column: {(listed | others) - found}"
    assert not listed & others
