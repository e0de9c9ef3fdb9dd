"""Each extra of the wheel is installed alone, and does its part without the packages of the others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.object_store import FolderStore
from tests.support.snapshots import make_sample, make_snapshot
from tests.test_wheel import PIP, run
from tests.test_wheel import wheel as wheel  # a fixture

ROOT = Path(__file__).resolve().parents[1]
TORCH = ("torch", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "filelock")

pytestmark = pytest.mark.slow

LOAD = """
import sys, layerloop
from pathlib import Path
from curation.object_store import FolderStore
snapshot = layerloop.open_snapshot(sys.argv[1], store=FolderStore(Path(sys.argv[2])))
batch = next(iter(snapshot.loader("train", size=32, batch_size=4)))
print(tuple(batch.layers["foreground"].shape), len(snapshot))
absent = {"celery", "sqlalchemy", "psycopg2", "cv2", "fastapi", "diffusers"}
print(sorted(absent & set(sys.modules)))
"""

TRAIN = """
import sys, layerloop
from pathlib import Path
from curation.domain import TrainingRequest
from curation.object_store import FolderStore
from training.train import train
store = FolderStore(Path(sys.argv[2]))
request = TrainingRequest("whole", "micro", sys.argv[1], None, None, seed=1, images=64)
checkpoint = train(request, store, Path(sys.argv[3]), lambda _: None)
print(sorted(checkpoint.files), layerloop.TransparentPipeline.__name__)
print(sorted({"celery", "sqlalchemy", "psycopg2", "fastapi"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that installs an extra into an environment, and returns its programs."""
    # The versions of the lock, without hashes: a package index may build its files anew.
    pins = re.findall(
        r"^[A-Za-z0-9._-]+==[^\s;\\]+", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    )
    constraints = tmp_path_factory.mktemp("pins") / "constraints.txt"
    constraints.write_text("\n".join(pins))

    def into(extra: str) -> Path:
        folder = tmp_path_factory.mktemp(extra or "light")
        run(sys.executable, "-m", "venv", "--without-pip", str(folder), cwd=folder)
        python = str(folder / "bin" / "python")
        if extra != "server":
            _share_torch(next((folder / "lib").glob("python*/site-packages")))
        options = ("--quiet", "--constraint", str(constraints))
        wanted = f"{wheel}[{extra}]" if extra else str(wheel)
        run(*PIP, "--python", python, "install", *options, wanted, cwd=folder)
        return folder / "bin"

    return into


def _share_torch(reference: Path) -> None:
    """Link PyTorch, which trainers have already and which is large, into an environment."""
    for ours in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(ours).iterdir():
            name = re.split(r"[-.]", entry.name.lower())[0]
            if name in {*TORCH, "torchgen", "functorch"} and not (reference / entry.name).exists():
                (reference / entry.name).symlink_to(entry)


@pytest.fixture
def snapshot(tmp_path: Path) -> tuple[str, Path]:
    """Return the id of a snapshot of 24 samples, and the folder of its store."""
    store = FolderStore(tmp_path / "objects")
    samples = [make_sample(store, number) for number in range(24)]
    return make_snapshot(store, samples), tmp_path / "objects"


def test_the_light_package_pulls_verifies_and_loads(
    install: Callable[[str], Path], snapshot: tuple[str, Path], tmp_path: Path
) -> None:
    programs = install("")
    layerloop, (name, store) = str(programs / "layerloop"), snapshot
    installed = run(*PIP, "--python", str(programs / "python"), "list", cwd=tmp_path).lower()
    for package in ("celery", "psycopg", "opencv", "sqlalchemy", "fastapi", "diffusers", "boto3"):
        assert package not in installed
    for number, form in enumerate(("imagefolder", "parquet", "webdataset")):
        pulled = tmp_path / f"pulled-{number}"
        source = ("--from", str(store), "--format", form)
        run(layerloop, "snapshot", "pull", name, str(pulled), *source, cwd=tmp_path)
        run(layerloop, "snapshot", "verify", str(pulled), cwd=tmp_path)
    run(layerloop, "snapshot", "verify", name, "--from", str(store), cwd=tmp_path)
    loaded = run(str(programs / "python"), "-c", LOAD, name, str(store), cwd=tmp_path)
    assert loaded.splitlines() == ["(4, 4, 32, 32) 24", "[]"]
    # A command of another extra names it.
    push = ("snapshot", "push", name, "hf://anna/flowers", "--from", str(store))
    for extra, command in (
        ("server", ("round", "list")), ("server", ("db", "check")),
        ("server", ("train", "--preset", "micro")), ("hub", push),
    ):  # fmt: skip
        done = subprocess.run(
            [layerloop, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1, done.stderr
        assert f"hint: pip install 'layerloop[{extra}]'" in done.stderr


def test_the_server_runs_without_pytorch(
    install: Callable[[str], Path], postgres_address: str, tmp_path: Path
) -> None:
    from tests.support.factories import fresh_database, with_database
    from tests.test_wheel import serving

    programs = install("server")
    with fresh_database(postgres_address) as database:
        settings = {
            "LAYERLOOP_HOME": str(tmp_path / "home"),
            "LAYERLOOP_DATABASE": with_database(postgres_address, database),
        }
        layerloop = str(programs / "layerloop")
        run(layerloop, "db", "upgrade", cwd=tmp_path, **settings)
        with serving(programs, tmp_path, settings) as address:
            assert "Layerloop" in urllib.request.urlopen(address, timeout=30).read().decode()
        drawn = ("seed", "import", str(_draw_image(tmp_path)), "--licence", "MIT", "--source", "me")
        run(layerloop, *drawn, cwd=tmp_path, **settings)
        run(layerloop, "snapshot", "freeze", "--tag", "first", cwd=tmp_path, **settings)
        listed = run(layerloop, "snapshot", "list", "--json", cwd=tmp_path, **settings)
        assert [one["samples"] for one in json.loads(listed)] == [1]


def _draw_image(folder: Path) -> Path:
    """Write a drawn image with alpha, and return its folder."""
    (folder / "seeds").mkdir()
    pixels = np.zeros((128, 128, 4), np.uint8)
    pixels[32:96, 32:96] = (200, 80, 40, 255)
    Image.fromarray(pixels).save(folder / "seeds" / "square.png")
    return folder / "seeds"


def test_training_runs_without_a_server(
    install: Callable[[str], Path], snapshot: tuple[str, Path], tmp_path: Path
) -> None:
    programs = install("train")
    name, store = snapshot
    given = (name, str(store), str(tmp_path / "run"))
    trained = run(str(programs / "python"), "-c", TRAIN, *given, cwd=tmp_path)
    assert trained.splitlines()[-2:] == [
        "['backbone', 'base', 'transparency'] TransparentPipeline",
        "[]",
    ]
