"""The lock files: a hash for every package, no address or path, and everything that pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = sorted(ROOT.glob("requirements*.lock"))


def packages(file: Path) -> dict[str, str]:
    text = "\n".join(line for line in file.read_text().splitlines() if not line.startswith("#"))
    return {
        re.sub(r"[-_.]+", "-", one.partition("==")[0]).lower(): one
        for one in re.split(r"\n(?=\S)", text.strip())
    }


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_every_package_has_a_version_and_hashes(file):
    for name, text in packages(file).items():
        assert re.match(
            r"[A-Za-z0-9._-]+==[^\s;]+( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\Z", text
        ), name


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_no_address_and_no_path_stands_in_a_lock(file):
    assert not re.search(r"://|^-|file:|@ ", file.read_text(), re.MULTILINE)


def test_the_locks_have_all_that_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(wanted: list[str]) -> set[str]:
        return {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ]", one)[0]).lower() for one in wanted}

    server = project["dependencies"] + extras["server"]
    assert names(server) <= set(packages(ROOT / "requirements-base.lock"))
    everything = names(server + extras["train"] + extras["dev"])
    assert everything <= set(packages(ROOT / "requirements.lock"))
    assert names(extras["label-studio"]) <= set(packages(ROOT / "requirements-label-studio.lock"))
    assert set(packages(ROOT / "requirements-base.lock")) <= set(
        packages(ROOT / "requirements.lock")
    )
