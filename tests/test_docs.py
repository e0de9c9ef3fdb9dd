"""The documents tell the truth: every command and setting is named, every path exists, and nothing of a machine is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import typer

from curation import __version__
from curation.cli.main import app
from curation.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def commands() -> list[str]:
    """Every command as it is typed, without its options."""
    names = []
    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        names += [f"{name} {verb}" for verb in inner] if inner else [name]
    return names


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_and_its_group_is_in_the_readme(command: str) -> None:
    assert f"layerloop {command.split()[0]}" in README
    found = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]
    assert len(found.help or "") > 20
    for option in found.params:
        assert option.name == "help" or option.help, f"{command}: {option.name} has no help"


def test_every_setting_says_what_it_is_for() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_settings_named_in_the_readme_exist() -> None:
    named = set(re.findall(r"LAYERLOOP_([A-Z_]+)", README + ARCHITECTURE))
    assert named <= {name.upper() for name in Settings.model_fields}


def test_files_named_in_the_documents_exist() -> None:
    named = re.findall(
        r"`((?:curation|training|annotator_ui|tests|docker|migrations)/[\w/.]+)`",
        README + ARCHITECTURE + CONTRIBUTING,
    )
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_tree_in_the_architecture_is_the_tree() -> None:
    drawn = ARCHITECTURE.split("## The tree")[1].split("```")[1]
    drawn = drawn[: drawn.index("annotator_ui/")]
    for package, part in zip(("curation", "training"), drawn.split("\ntraining/"), strict=True):
        for name in re.findall(r"\b(\w+\.py)\b", part):
            assert (ROOT / package / name).exists(), name
        for name in re.findall(r"^  (\w+)/", part, re.MULTILINE):
            assert (ROOT / package / name).is_dir(), name
        rooms = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
        assert rooms <= set(re.findall(r"\w+\.py", part)), (
            f"a room of {package} is missing in the tree"
        )


def test_links_between_documents_hold() -> None:
    for target in re.findall(r"\]\(([^)#:]+)[)#]", README + ARCHITECTURE + CONTRIBUTING):
        assert (ROOT / target).exists(), target


def test_make_targets_named_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", README + CONTRIBUTING + ci, re.MULTILINE))
    assert {"demo", "test", "check", "lint", "types", "quick", "static"} <= named
    assert named <= targets


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_nothing_of_a_machine_or_a_registry_is_in_the_tree() -> None:
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = ("pypi" + ".org", "registry." + "npmjs", "index" + "-url", "find" + "-links")
    for name in filter(None, files.split("\0")):
        path = ROOT / name
        if (
            path.suffix
            in {".py", ".md", ".toml", ".json", ".lock", ".yaml", ".yml", ".js", ".html", ""}
            and path.is_file()
        ):
            text = path.read_text("utf-8", errors="replace")
            for bad in names:
                assert bad not in text, f"{name} names {bad}"
