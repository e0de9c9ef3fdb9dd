"""The wheel works without the checkout: commands, migrations, pages and their static files, the public API."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import pytest

from curation import __version__

ROOT = Path(__file__).resolve().parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel built from a copy of the tracked files, so that nothing of an earlier build gets into it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(out))
    run(*PIP, "wheel", *options, str(source), cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the programs of an environment that has the wheel, and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder), cwd=folder)
    python = str(folder / "bin" / "python")
    # Before the dependencies are visible, among which pip would find the editable Layerloop of this environment.
    run(
        *PIP,
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
        cwd=folder,
    )
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    reference = next((folder / "lib").glob("python*/site-packages"))
    # A folder that is named by a .pth file has its own .pth files ignored: the editable install stays out of sight.
    (reference / "dependencies.pth").write_text("".join(f"{path}\n" for path in ours))
    return folder / "bin"


def run(*command: str, cwd: Path, **variables: str) -> str:
    """Run a program outside the checkout and return its output; a failure shows both of its streams."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(**variables), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment(**variables: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables


def test_the_wheel_has_every_module_and_no_stray_top_level_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert packages == {"annotator_ui", "curation", "layerloop", "training"}
    listed = [
        "git",
        "ls-files",
        "*.py",
        "annotator_ui/static",
        "annotator_ui/templates",
        "migrations",
        "*py.typed",
    ]
    tracked = subprocess.run(
        listed, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    expected = {
        re.sub(r"^migrations/", "curation/_migrations/", name)
        for name in tracked
        if name.partition("/")[0] in {*packages, "migrations"} and (ROOT / name).is_file()
    }
    assert expected - names == set()


def test_the_commands_and_the_public_api_work(programs: Path, tmp_path: Path) -> None:
    assert "The data engine and trainer" in run(str(programs / "layerloop"), "--help", cwd=tmp_path)
    code = (
        "import importlib.util, layerloop, curation; print(layerloop.__version__, layerloop.TransparentPipeline.__name__);"
        "print(importlib.util.find_spec('migrations')); print(layerloop.__file__); print(curation.__file__)"
    )
    version, migrations, *files = run(
        str(programs / "python"), "-c", code, cwd=tmp_path
    ).splitlines()
    assert version == f"{__version__} TransparentPipeline"
    assert migrations == "None"
    assert all(Path(file).is_relative_to(programs.parent) for file in files)


def test_an_empty_database_is_upgraded_and_the_first_page_comes_with_its_files(
    programs: Path, postgres_address: str, tmp_path: Path
) -> None:
    from tests.support.factories import fresh_database, with_database

    with fresh_database(postgres_address) as name:
        settings = {
            "LAYERLOOP_HOME": str(tmp_path / "home"),
            "LAYERLOOP_DATABASE": with_database(postgres_address, name),
        }
        run(str(programs / "layerloop"), "db", "upgrade", cwd=tmp_path, **settings)
        with serving(programs, tmp_path, settings) as address:
            page = urllib.request.urlopen(address, timeout=30).read().decode()
            files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
            assert any(file.partition("?")[0].endswith(".js") for file in files)
            for file in files:
                assert urllib.request.urlopen(urljoin(address, file), timeout=30).read(), file
        found = run(str(programs / "layerloop"), "doctor", cwd=tmp_path, **settings)
        assert "ok   database" in found


@contextmanager
def serving(programs: Path, folder: Path, settings: dict[str, str]) -> Iterator[str]:
    """Yield the address of the installed API, which runs as long as the block lasts."""
    from tests.support.servers import free_port, wait_for

    address, log = f"http://127.0.0.1:{(port := free_port())}/", folder / "api.log"
    command = [str(programs / "layerloop"), "api", "--port", str(port)]
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(**settings), stdout=stream, stderr=stream
        )

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return bool(urllib.request.urlopen(address, timeout=5).status)
        except OSError:
            return False

    try:
        wait_for("the API", answers)
        yield address
    finally:
        process.terminate()
        process.wait(30)
