"""Pushes to a stand-in of the Hugging Face Hub and imports from it, by commands in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.adapters.hub.address import HubAddress, RepositoryKind, parse_address
from curation.adapters.hub.limits import LocalFile, check_limits, group_commits
from curation.adapters.hub.requests import ATTEMPTS
from curation.cli.hub_download import find_weights
from curation.datasets.manifest import read_samples
from curation.errors import Refused
from curation.images.codec import decode_layer
from curation.settings import Settings
from tests.curation.exports.test_sources import SERVER_MODULES
from tests.support.hub_server import TOKEN, Failure, HubServer, Repository, serve_hub
from tests.support.random_checkpoint import random_checkpoint
from tests.support.snapshots import make_sample, make_snapshot

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = 130
"""More files than one commit has."""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serve_hub() as server:
        yield server


@pytest.fixture
def snapshot(store) -> str:
    return make_snapshot(store, [make_sample(store, number) for number in range(1, SAMPLES)])


def start(hub: HubServer, home: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from curation.cli.main import run; run()", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(home),
             "LAYERLOOP_HOME": str(home / "home")} | hub.environment | environment,
    )  # fmt: skip


def call(
    hub: HubServer, home: Path, *arguments: str, code: int = 0, **environment: str
) -> tuple[str, str]:
    """Run a command; return what it wrote on stdout and stderr."""
    process = start(hub, home, *arguments, **environment)
    output, messages = process.communicate(timeout=180)
    assert process.returncode == code, messages
    assert TOKEN not in output + messages and "Traceback" not in messages
    return output, messages


def push(hub: HubServer, tmp_path: Path, name: str, *more: str, code: int = 0, **environment: str):
    source = ("--from", str(tmp_path / "objects"))
    arguments = ("snapshot", "push", name, "hf://anna/flowers", *source, *more)
    return call(hub, tmp_path, *arguments, code=code, **environment)


@pytest.mark.slow
def test_a_pushed_snapshot_is_complete_and_a_second_push_sends_nothing(
    hub: HubServer, store, snapshot: str, tmp_path: Path
) -> None:
    output, _ = push(hub, tmp_path, snapshot, "--json", "--private")
    result = json.loads(output)
    repository = hub.repositories["datasets/anna/flowers"]
    assert repository.private
    assert result["sent"] == result["files"] == len(repository.files) - 1  # .gitattributes
    assert max(hub.commit_sizes) <= 100 and len(hub.commit_sizes) == result["commits"] == 2
    # Every layer of every sample has its exact pixels.
    for sample in read_samples(store, snapshot):
        folder = "train" if sample.split == "train" else "validation"
        data = repository.files[f"{folder}/{sample.id[:2]}/{sample.id}.png"]
        (tmp_path / "one.png").write_bytes(data)
        with Image.open(tmp_path / "one.png") as image:
            stored = decode_layer(store.get(sample.layers["foreground"]))
            assert np.array_equal(np.asarray(image), stored)
    assert repository.files["README.md"].startswith(b"---\npretty_name: Layerloop snapshot")
    assert json.loads(repository.files["croissant.json"])["@type"] == "sc:Dataset"
    assert not any(path.startswith(".layerloop") for path in repository.files)
    assert not list((tmp_path / "home" / "pushes").iterdir())
    # The same push again: no upload and no commit.
    uploads, commits = len(hub.uploads), len(repository.commits)
    again = json.loads(push(hub, tmp_path, snapshot, "--json")[0])
    assert (again["sent"], again["commits"]) == (0, 0)
    assert (len(hub.uploads), len(repository.commits)) == (uploads, commits)
    # The next snapshot sends the difference and removes what is gone, but no file of others.
    repository.commit(repository.files | {"notes/mine.txt": b"mine"})
    samples = [make_sample(store, number) for number in range(6, SAMPLES + 1)]
    following = json.loads(push(hub, tmp_path, make_snapshot(store, samples), "--json")[0])
    assert following["removed"] == 5
    images = {path for path in repository.files if path.endswith(".png")}
    assert {Path(path).stem for path in images} == {sample.id for sample in samples}
    assert repository.files["notes/mine.txt"] == b"mine"


@pytest.mark.parametrize(("form", "ending"), [("parquet", ".parquet"), ("webdataset", ".tar")])
def test_shards_are_pushed_in_one_commit(
    hub: HubServer, snapshot: str, tmp_path: Path, form: str, ending: str
) -> None:
    push(hub, tmp_path, snapshot, "--format", form)
    files = hub.repositories["datasets/anna/flowers"].files
    assert sum(path.endswith(ending) for path in files) == 2
    assert hub.commit_sizes == [len(files) - 1]


def test_a_push_needs_no_module_of_the_server(
    hub: HubServer, snapshot: str, tmp_path: Path
) -> None:
    program = (
        "import sys\nfrom curation.cli.main import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        f"print(sorted(set({SERVER_MODULES}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "snapshot", "push", snapshot, "hf://anna/flowers",
         "--from", str(tmp_path / "objects"), "--format", "parquet"],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=120,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
             "LAYERLOOP_HOME": str(tmp_path / "home")} | hub.environment,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_killed_push_sends_only_what_is_missing(
    hub: HubServer, snapshot: str, tmp_path: Path
) -> None:
    hub.pause_at = 110  # in the second commit
    arguments = ("snapshot", "push", snapshot, "hf://anna/flowers")
    process = start(hub, tmp_path, *arguments, "--from", str(tmp_path / "objects"))
    assert hub.waiting.wait(120)
    process.kill()
    process.communicate(timeout=30)
    repository = hub.repositories["datasets/anna/flowers"]
    assert "README.md" not in repository.files  # the card comes last
    stored = set(hub.verified)
    hub.pause_at = None
    hub.uploads.clear()
    hub.resume.set()
    result = json.loads(push(hub, tmp_path, snapshot, "--json")[0])
    assert result["files"] == len(repository.files) - 1
    assert result["sent"] == result["files"] - 100
    assert hub.uploads and not stored & set(hub.uploads)


def test_a_dry_run_sends_no_request(hub: HubServer, snapshot: str, tmp_path: Path) -> None:
    plan = json.loads(push(hub, tmp_path, snapshot, "--dry-run", "--json")[0])
    assert hub.requests == []
    paths = {file["path"]: file["size"] for file in plan["files"]}
    assert plan["bytes"] == sum(paths.values())
    assert {"README.md", "croissant.json", "train/metadata.jsonl"} < paths.keys()
    output, messages = push(hub, tmp_path, snapshot, "--dry-run")
    assert "train/metadata.jsonl" in output and "at most 2 commits" in messages
    assert hub.requests == []
    # The push then sends exactly these.
    push(hub, tmp_path, snapshot)
    files = hub.repositories["datasets/anna/flowers"].files
    assert {path: len(data) for path, data in files.items() if path != ".gitattributes"} == paths


def test_a_busy_hub_is_asked_again(hub: HubServer, snapshot: str, tmp_path: Path) -> None:
    soon = {"Retry-After": "0"}
    parts = ("repos/create", "/tree/", "preupload", "objects/batch", "PUT /objects", "/commit/")
    hub.failures = [Failure(part, 429, headers=soon) for part in parts]
    hub.failures.append(Failure("POST /objects/verify", 503, headers=soon))
    push(hub, tmp_path, snapshot, "--format", "parquet")
    assert hub.failures == []
    assert "README.md" in hub.repositories["datasets/anna/flowers"].files


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [(403, 2, "has no access"), (404, 3, "there is no dataset"), (409, 2, "at the same time"),
     (413, 2, "too large"), (429, 5, "limits the rate"), (500, 5, "has a problem (500)")],
)  # fmt: skip
def test_errors_of_the_hub_are_told_with_a_hint(
    hub: HubServer, snapshot: str, tmp_path: Path, status: int, code: int, says: str
) -> None:
    hub.failures = [Failure("/commit/", status, times=ATTEMPTS, headers={"Retry-After": "0"})]
    _, messages = push(hub, tmp_path, snapshot, "--format", "parquet", code=code)
    assert says in messages and "hint: " in messages
    if status == 429:  # the next run goes on
        push(hub, tmp_path, snapshot, "--format", "parquet")
        assert "README.md" in hub.repositories["datasets/anna/flowers"].files


def test_without_a_valid_token_nothing_is_made(
    hub: HubServer, snapshot: str, tmp_path: Path
) -> None:
    _, messages = push(hub, tmp_path, snapshot, HF_TOKEN="hf_wrong", code=2)
    assert "HF_TOKEN is missing, wrong or expired" in messages and "hf_wrong" not in messages
    assert hub.repositories == {}


def test_a_server_that_is_away_is_named(hub: HubServer, snapshot: str, tmp_path: Path) -> None:
    away = "http://127.0.0.1:9"
    _, messages = push(hub, tmp_path, snapshot, "--format", "parquet", HF_ENDPOINT=away, code=5)
    assert "the Hub does not answer" in messages


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("unet-01.safetensors", {"unet-01.safetensors"}),
        ("a[1].safetensors", {"a[1].safetensors"}),
        ("big-00001-of-00002.safetensors",
         {"big-00001-of-00002.safetensors", "big-00002-of-00002.safetensors",
          "big.safetensors.index.json"}),
    ],
)  # fmt: skip
def test_a_file_of_weights_comes_with_its_shards_alone(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, file: str, found: set[str]
) -> None:
    from huggingface_hub import HfApi

    names = ("unet-01", "unet-02", "unet", "a[1]", "a1",
             "big-00001-of-00002", "big-00002-of-00002")  # fmt: skip
    repository = hub.repositories["models/ben/weights"] = Repository()
    files = {f"{name}.safetensors": b"1" for name in names}
    repository.commit(files | {"big.safetensors.index.json": b"{}"})
    client = HfApi(endpoint=hub.url, token=TOKEN)
    monkeypatch.setattr("curation.adapters.hub.download.open_hub", lambda: client)
    assert set(find_weights(f"hf://ben/weights/{file}").sizes) == found


def test_limits_are_checked_before_anything_is_sent() -> None:
    def files(paths: list[str], size: int = 1) -> list[LocalFile]:
        return [LocalFile(path, Path(path), size) for path in paths]

    check_limits(files([f"train/{n % 250}/{n}.png" for n in range(99_000)]))
    with pytest.raises(Refused, match="100000 files"):
        check_limits(files([f"train/{n % 250}/{n}.png" for n in range(100_000)]))
    with pytest.raises(Refused, match="'train' has 10000 entries"):
        check_limits(files([f"train/{n}.png" for n in range(10_000)]))
    with pytest.raises(Refused, match=r"'.' has 10000 entries"):
        check_limits(files([f"{n}/a.png" for n in range(10_000)]))
    with pytest.raises(Refused, match=r"50\.0 GB"):
        check_limits(files(["data/a.parquet"], 50_000_000_001))
    groups = [len(group) for group in group_commits(files([str(n) for n in range(250)]))]
    assert groups == [100, 100, 50]
    assert [len(g) for g in group_commits(files(["a", "b", "c"], 600_000_000))] == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://anna/flowers", HubAddress("anna/flowers", RepositoryKind.model)),
        ("hf://models/anna/flowers@v1.0",
         HubAddress("anna/flowers", RepositoryKind.model, "", "v1.0")),
        ("hf://anna/flowers/a/b.safetensors",
         HubAddress("anna/flowers", RepositoryKind.model, "a/b.safetensors")),
        ("hf://anna/flowers/b.safetensors@refs/pr/1",
         HubAddress("anna/flowers", RepositoryKind.model, "b.safetensors", "refs/pr/1")),
        ("hf://anna/flowers@v2/b.safetensors",
         HubAddress("anna/flowers", RepositoryKind.model, "b.safetensors", "v2")),
    ],
)  # fmt: skip
def test_addresses_are_parsed(text: str, address: HubAddress) -> None:
    assert parse_address(text, RepositoryKind.model) == address


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://anna", "hf://anna/", "hf:///flowers", "hf://anna/..", "hf://../flowers",
     "hf://anna/flowers/../x", "hf://anna/flowers//x", "hf://anna/flowers@", "hf://a b/c",
     "hf://anna/flowers@-x", "hf://anna/flowers@a..b", "hf://datasets/anna/flowers",
     "hf://anna/flow\ners", "hf://anna/flowers/a\\b"],
)  # fmt: skip
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(Refused):
        parse_address(text, RepositoryKind.model)


@pytest.fixture
def instance(settings: Settings) -> dict[str, str]:
    """Environment of commands in an instance of this test."""
    return {n: v for n, v in settings.environment().items() if n.startswith("LAYERLOOP_")}


@pytest.mark.slow
def test_a_pushed_snapshot_is_imported_as_seeds(
    hub: HubServer, instance: dict[str, str], tmp_path: Path
) -> None:
    from curation.synthetic.dataset import draw_seed_set

    draw_seed_set(tmp_path / "seeds", 12)
    call(hub, tmp_path, "seed", "import", str(tmp_path / "seeds"), **instance)
    call(hub, tmp_path, "snapshot", "freeze", "--tag", "v1", **instance)
    call(hub, tmp_path, "snapshot", "push", "v1", "hf://anna/flowers", **instance)
    # Hostile neighbours in the repository are neither read nor kept, but for a damaged table.
    repository = hub.repositories["datasets/anna/flowers"]
    hostile = {"train/evil.pkl": b"\x80\x04.", "run.py": b"import os"}
    table = {"data/big.parquet": b"PAR1"}
    repository.tags["v1"] = repository.commit(repository.files | hostile | table)
    other = instance | {"LAYERLOOP_HOME": str(tmp_path / "other")}
    _, said = call(hub, tmp_path, "seed", "import", "hf://anna/flowers@v1", "--dry-run", **other)
    assert "would download" in said and not hub.count("resolve")
    imported = ("seed", "import", "hf://anna/flowers@v1", "--json")
    output, said = call(hub, tmp_path, *imported, **other)
    assert "states the licence 'other'" in said
    folder = tmp_path / "other" / "downloads" / "dataset--anna--flowers"
    kept = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    kept = {path: data for path, data in kept.items() if not path.startswith(".cache")}
    others = {*hostile, ".gitattributes", "README.md", "croissant.json"}
    wanted = {path: data for path, data in repository.files.items() if path not in others}
    assert kept == wanted
    summary = json.loads(output)
    pictures = sum(path.endswith(".png") for path in kept)
    assert summary["refused"] == 1 and summary["files"] == pictures + 1 == 13
    # A second import asks for no file again.
    asked = hub.count("resolve")
    call(hub, tmp_path, *imported, **other)
    assert hub.count("resolve") == asked
    # A file that the next revision lacks leaves the folder.
    gone = next(path for path in repository.files if path.endswith(".png"))
    repository.commit({p: d for p, d in repository.files.items() if p != gone})
    call(hub, tmp_path, "seed", "import", "hf://anna/flowers", **other)
    assert not (folder / gone).exists()


@pytest.mark.slow
def test_a_licence_of_a_card_is_proposed_and_not_assumed(
    hub: HubServer, instance: dict[str, str], tmp_path: Path
) -> None:
    pixels = np.zeros((96, 96, 4), np.uint8)
    pixels[24:72, 24:72] = (200, 80, 40, 255)
    Image.fromarray(pixels).save(tmp_path / "square.png")
    repository = hub.repositories["datasets/ben/things"] = Repository()
    card = b"---\nlicense: cc-by-4.0\n---\n# Things\n"
    repository.commit({"square.png": (tmp_path / "square.png").read_bytes(), "README.md": card})
    imported = ("seed", "import", "hf://ben/things", "--json")
    output, said = call(hub, tmp_path, *imported, **instance)
    assert "give --licence cc-by-4.0" in said
    assert json.loads(output)["outcomes"].get("accept", 0) == 0
    rights = ("--licence", "CC-BY-4.0", "--source", "hf://ben/things")
    output, _ = call(hub, tmp_path, *imported, *rights, **instance)
    assert sum(json.loads(output)["outcomes"].values()) == 1
    assert "rights_missing" not in output


@pytest.fixture
def checkpoint(settings: Settings, instance: dict[str, str]) -> str:
    """The id of a registered checkpoint with random weights, trained on nothing."""
    from curation.checkpoints import registry
    from curation.runtime.context import open_context

    with open_context(settings) as ctx:
        made = random_checkpoint(ctx.store)
        with ctx.database.transaction() as tx:
            return registry.register_checkpoint(tx, made, "test")


@pytest.mark.slow
def test_a_pushed_checkpoint_is_imported_with_its_id(
    hub: HubServer, instance: dict[str, str], checkpoint: str, tmp_path: Path
) -> None:
    pushed = ("checkpoint", "push", checkpoint[:12], "hf://anna/flowers-lora")
    plan = json.loads(call(hub, tmp_path, *pushed, "--dry-run", "--json", **instance)[0])
    assert hub.requests == []
    names = {"README.md", "backbone.safetensors", "base.safetensors", "checkpoint.json",
             "transparency.safetensors"}  # fmt: skip
    assert {file["path"] for file in plan["files"]} == names
    call(hub, tmp_path, *pushed, **instance)
    repository = hub.repositories["models/anna/flowers-lora"]
    assert repository.files.keys() == names | {".gitattributes"}
    card = repository.files["README.md"].decode()
    for text in ("library_name: layerloop", checkpoint, "preset | micro", "## Known limits",
                 "hf://anna/flowers-lora", "Licences of the data"):  # fmt: skip
        assert text in card
    # A pickle beside the weights is not even downloaded.
    repository.commit(repository.files | {"pytorch_model.bin": b"\x80\x04.", "x.py": b"1"})
    other = instance | {"LAYERLOOP_HOME": str(tmp_path / "other")}
    call(hub, tmp_path, "checkpoint", "import", "hf://anna/flowers-lora", "--dry-run", **other)
    assert not hub.count("resolve")
    output, _ = call(hub, tmp_path, "checkpoint", "import", "hf://anna/flowers-lora", **other)
    assert output.strip() == checkpoint
    assert not hub.count("pytorch_model.bin")
    folder = tmp_path / "other" / "downloads" / "model--anna--flowers-lora"
    for name in names - {"README.md"}:
        assert (folder / name).read_bytes() == repository.files[name]


@pytest.mark.slow
def test_only_safetensors_are_taken_from_a_model(
    hub: HubServer, instance: dict[str, str], tmp_path: Path
) -> None:
    repository = hub.repositories["models/ben/weights"] = Repository()
    repository.commit({"a.safetensors": b"\x80\x04.", "model.bin": b"\x80\x04."})
    cases = {
        "hf://ben/weights/model.bin": (2, "no safetensors file"),
        "hf://ben/weights": (2, "name the files to import"),
        "hf://ben/weights/b.safetensors": (3, "none of the files"),
        "hf://ben/weights/a.safetensors@v9": (3, "no revision 'v9'"),
        "hf://ben/nothing/a.safetensors": (3, "there is no model ben/nothing"),
        "hf://ben/../a.safetensors": (2, "names no repository"),
    }
    for address, (code, says) in cases.items():
        _, said = call(hub, tmp_path, "checkpoint", "import", address, code=code, **instance)
        assert says in said
    assert not hub.count("resolve")
