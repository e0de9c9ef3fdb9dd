"""Long commands interrupted by Ctrl-C, SIGTERM or SIGKILL, without a worker, resume to the same result.

Leases last for an hour here, so that a command that waits for one to expire fails the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image

from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.db.engine import Database
from curation.db.tables import captions, import_files, leases, samples, training_runs
from curation.domain import LayerRole
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from curation.synthetic.dataset import draw_seed_set
from tests.support.factories import fresh_database, image, make_checkpoint, with_database

ROOT = Path(__file__).resolve().parents[2]
RESUMABLE = "stopped; run the same command again to resume"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
SIGNALS = list(CODES)
FAST_SIGNALS = [
    pytest.param(signal.SIGINT, marks=pytest.mark.slow), pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    signal.SIGKILL,
]  # fmt: skip
ADAPTERS = {
    "LAYERLOOP_TRAINER": "tests.support.gated_steps:train",
    "LAYERLOOP_EVALUATOR": "tests.support.gated_steps:evaluate",
    "LAYERLOOP_CAPTIONER": "tests.support.gated_steps:open_captioner",
    "LAYERLOOP_LLM": "tests.support.gated_steps:open_writer",
    "LAYERLOOP_GENERATOR": "tests.support.gated_steps:open_painter",
    "LAYERLOOP_LEASE_SECONDS": "3600",
}
Moment = Callable[[], bool]


@dataclass
class Instance:
    """A home with its own database, and commands that run in processes of their own."""

    folder: Path
    address: str
    stderr: list[str] = field(default_factory=list)

    def start(self, *arguments: str, gate: str = "") -> subprocess.Popen[str]:
        given = {
            "LAYERLOOP_HOME": str(self.folder / "home"),
            "LAYERLOOP_DATABASE": self.address,
            **ADAPTERS,
        }
        if gate:
            (self.folder / "reached").unlink(missing_ok=True)
            given["LAYERLOOP_TEST_GATE"] = f"{self.folder}|{gate}"
        return subprocess.Popen(
            [sys.executable, "-m", "curation.cli.main", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder, start_new_session=True,
            env=os.environ | given | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def finish(self, *arguments: str) -> str:
        running = self.start(*arguments)
        out, err = running.communicate(timeout=280)
        self.stderr.append(err)
        assert running.returncode == 0, err
        return out

    def interrupt(
        self, signal_: signal.Signals, *arguments: str, gate: str = "", moment: Moment | None = None
    ) -> str:
        """Run a command, send it a signal at a moment, and return its stderr."""
        running = self.start(*arguments, gate=gate)
        reached = moment or (self.folder / "reached").exists
        deadline = time.monotonic() + 280
        while not reached():
            ended = running.poll() is not None
            assert not ended and time.monotonic() < deadline, (
                running.communicate()[1] if ended else arguments
            )
            time.sleep(0.02)
        if signal_ is signal.SIGINT:
            os.killpg(running.pid, signal_)  # a terminal sends it to the whole group
        else:
            running.send_signal(signal_)
        _, err = running.communicate(timeout=60)
        assert running.returncode == CODES[signal_], err
        assert "Traceback" not in err
        return err

    def database(self) -> Database:
        return Database(self.address)

    def count(self, table: sa.Table) -> int:
        database = self.database()
        with database.transaction() as tx:
            counted = int(tx.scalar(sa.select(sa.func.count()).select_from(table)))
        database.close()
        return counted


def make_instance(folder: Path, address: str) -> Instance:
    (folder / "home").mkdir(parents=True)
    return Instance(folder, address)


@pytest.fixture
def instances(
    tmp_path: Path, postgres_address: str, template_database: str
) -> Iterator[tuple[Instance, Instance]]:
    """Yield two equal instances: for the uninterrupted run, and for the interrupted one."""
    with fresh_database(postgres_address, template_database) as first:
        with fresh_database(postgres_address, template_database) as second:
            yield (
                make_instance(tmp_path / "straight", with_database(postgres_address, first)),
                make_instance(tmp_path / "interrupted", with_database(postgres_address, second)),
            )


def last_line(stderr: str) -> str:
    return stderr.strip().splitlines()[-1]


def count_leases(instance: Instance) -> int:
    return instance.count(leases)


def train_arguments() -> tuple[str, ...]:
    return (
        "train",
        "--preset",
        "micro",
        "--images",
        "96",
        "--set",
        "checkpoint_every_images=32",
        "--set",
        "base_batch=8",
    )


def import_seeds(instance: Instance, seeds: Path) -> None:
    instance.finish("seed", "import", str(seeds), "--workers", "1")
    instance.finish("snapshot", "freeze", "--tag", "latest")


@pytest.mark.slow
@pytest.mark.parametrize("offset", range(3))
def test_a_training_goes_on_after_every_signal(instances, tmp_path, offset) -> None:
    """Interrupt at three moments with different signals; the weights equal those of an uninterrupted run."""
    uninterrupted, interrupted = instances
    draw_seed_set(tmp_path / "seeds", 24)
    for instance in instances:
        import_seeds(instance, tmp_path / "seeds")
    expected = uninterrupted.finish(*train_arguments())
    for index, gate in enumerate(("transparency|40", "base|56", "sheet|0")):
        signal_ = SIGNALS[(index + offset) % 3]
        stderr = interrupted.interrupt(signal_, *train_arguments(), gate=gate)
        if signal_ is signal.SIGKILL:
            assert count_leases(interrupted) == 1
        else:
            assert last_line(stderr) == RESUMABLE
            assert count_leases(interrupted) == 0
    assert interrupted.finish(*train_arguments()) == expected
    assert interrupted.count(training_runs) == 1


def _captioned(instance: Instance) -> None:
    """Add twenty samples without a caption: three batches."""
    store = FolderStore(instance.folder / "home" / "objects")
    database = instance.database()
    with database.transaction() as tx:
        for seed in range(20):
            data = encode_layer(image(seed))
            layer = StoredLayer(store.put(data), 32, 24, len(data), pixel_hash(image(seed)))
            add_samples(
                tx, [NewSample("single", "", "CC0", "test", 0, {LayerRole.foreground: layer})]
            )
    database.close()


def _lines(instance: Instance) -> list[str]:
    database = instance.database()
    with database.transaction() as tx:
        lines = sorted(tx.execute(sa.select(samples.c.line)).scalars())
    database.close()
    return lines


@pytest.mark.parametrize("signal_", FAST_SIGNALS)
def test_captions_go_on_after_every_signal(instances, signal_) -> None:
    uninterrupted, interrupted = instances
    for instance in instances:
        _captioned(instance)
    command = ("caption", "run", "--model", "any")
    uninterrupted.finish(*command)
    for moment in (2, 1):
        stderr = interrupted.interrupt(signal_, *command, gate=f"caption|{moment}")
        if signal_ is not signal.SIGKILL:
            assert last_line(stderr) == RESUMABLE
            assert count_leases(interrupted) == 0
    interrupted.finish(*command)
    assert _lines(interrupted) == _lines(uninterrupted)
    assert interrupted.count(captions) == 20


@pytest.mark.slow
@pytest.mark.parametrize("signal_", SIGNALS)
def test_an_import_goes_on_after_every_signal(instances, tmp_path, signal_) -> None:
    uninterrupted, interrupted = instances
    draw_seed_set(tmp_path / "seeds", 430)
    command = ("seed", "import", str(tmp_path / "seeds"))
    uninterrupted.finish(*command)
    for least in (1, 250):
        stderr = interrupted.interrupt(
            signal_, *command, moment=lambda least=least: interrupted.count(import_files) >= least
        )
        if signal_ is not signal.SIGKILL:
            assert last_line(stderr) == RESUMABLE
    interrupted.finish(*command)
    assert _lines(interrupted) == _lines(uninterrupted)
    assert interrupted.count(import_files) == uninterrupted.count(import_files)


SCENE = """
whole = "a fox and an owl"
[background]
prompt = "a snowy forest"
[[layers]]
prompt = "a fox"
[[layers]]
file = "cutout.png"
[[layers]]
prompt = "an owl"
[[layers]]
prompt = "a lamp"
"""


@pytest.mark.parametrize("signal_", FAST_SIGNALS)
def test_a_scene_goes_on_after_every_signal(instances, signal_) -> None:
    uninterrupted, interrupted = instances
    for instance in instances:
        (instance.folder / "scene.toml").write_text(SCENE)
        Image.fromarray(image(5, 20, 30)).save(instance.folder / "cutout.png")
        database = instance.database()
        with database.transaction() as tx:
            make_checkpoint(tx)
        database.close()
    command = ("generate", "--layers", "scene.toml", "--out", "scene")
    uninterrupted.finish(*command)
    for moment in (2, 1):
        stderr = interrupted.interrupt(signal_, *command, gate=f"draw|{moment}")
        if signal_ is not signal.SIGKILL:
            assert last_line(stderr) == RESUMABLE
    interrupted.finish(*command)
    names = sorted(path.name for path in (uninterrupted.folder / "scene").iterdir())
    assert sorted(path.name for path in (interrupted.folder / "scene").iterdir()) == names
    for name in names:
        assert (interrupted.folder / "scene" / name).read_bytes() == (
            uninterrupted.folder / "scene" / name
        ).read_bytes()


@pytest.mark.parametrize("signal_", FAST_SIGNALS)
def test_prompts_go_on_after_every_signal(instances, signal_) -> None:
    uninterrupted, interrupted = instances
    command = (
        "prompts",
        "generate",
        "--maker",
        "model",
        "--model",
        "any",
        "--count",
        "7",
        "--out",
        "p.jsonl",
    )
    uninterrupted.finish(*command)
    for moment in (1, 2):
        stderr = interrupted.interrupt(signal_, *command, gate=f"triples|{moment}")
        if signal_ is not signal.SIGKILL:
            assert last_line(stderr) == RESUMABLE
    interrupted.finish(*command)
    assert (interrupted.folder / "p.jsonl").read_bytes() == (
        uninterrupted.folder / "p.jsonl"
    ).read_bytes()


@pytest.mark.slow
def test_an_evaluation_starts_again_after_every_signal(instances, tmp_path) -> None:
    uninterrupted, _ = instances
    draw_seed_set(tmp_path / "seeds", 80)
    import_seeds(uninterrupted, tmp_path / "seeds")
    checkpoint = uninterrupted.finish("train", "--preset", "micro", "--images", "32").strip()
    command = ("checkpoint", "evaluate", checkpoint, "--draws", "0", "--json")
    for signal_ in SIGNALS:
        stderr = uninterrupted.interrupt(signal_, *command, gate="evaluate|1")
        if signal_ is not signal.SIGKILL:
            assert last_line(stderr) == "stopped; nothing was stored; the same command starts again"
    assert uninterrupted.finish(*command) == uninterrupted.finish(*command)
