"""Sources of pulls without server modules: a folder, a real S3 server, a served instance."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from pathlib import Path

import boto3
import pytest
import sqlalchemy as sa
import uvicorn

from curation.access.scopes import Scope
from curation.access.tokens import create_token
from curation.adapters.api_reader import ApiReader
from curation.adapters.s3 import S3Store
from curation.adapters.snapshot_sources import open_source
from curation.api.app import create_app
from curation.datasets import snapshots
from curation.datasets.decision_records import read_decisions
from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.db.tables import candidate_layers
from curation.domain import Kind, LayerRole, Role, Verdict
from curation.errors import NotFound, Refused, Unreachable
from curation.exports.formats import pull_snapshot
from curation.exports.verify import verify_snapshot
from curation.images.codec import encode_layer, pixel_hash
from curation.review.decisions import decide
from curation.review.frozen_decisions import find_decided
from curation.review.reviewers import add_reviewer
from curation.runtime.context import AppContext, open_context
from layerloop import open_snapshot
from tests.curation.exports.test_pull import files_of, request
from tests.support.factories import image, make_candidates, make_round
from tests.support.servers import free_port, wait_for
from tests.support.snapshots import make_sample, make_snapshot

ROOT = Path(__file__).resolve().parents[3]
SERVER_MODULES = ("sqlalchemy", "celery", "psycopg2", "psycopg", "fastapi", "cv2", "curation.db")


def pull_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that fails if it imported a module of the server."""
    program = (
        "import sys, atexit\n"
        f"heavy = {SERVER_MODULES}\n"
        "from curation.cli.main import run\n"
        "sys.argv = ['layerloop', *sys.argv[1:]]\n"
        "try: run()\n"
        "finally: print('loaded', sorted(set(heavy) & set(sys.modules)), file=sys.stderr)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True,
        check=False, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment},
        timeout=120,
    )  # fmt: skip


@pytest.fixture
def snapshot(store):
    return make_snapshot(store, [make_sample(store, index) for index in range(1, 13)])


def test_a_folder_is_opened_by_its_path_and_the_beginning_of_an_id(store, snapshot, tmp_path):
    for address in (str(store.folder), f"file://{store.folder}", str(store.folder.parent)):
        found = open_source(address, snapshot[:9])
        assert (found.snapshot, found.store.get(snapshot)) == (snapshot, store.get(snapshot))
    pull_snapshot(store, snapshot, request(), tmp_path / "p")
    assert open_source(str(tmp_path / "p"), snapshot[:9]).snapshot == snapshot
    with pytest.raises(Refused, match="is not the id of a snapshot"):
        open_source(str(store.folder), "latest")
    with pytest.raises(NotFound):
        open_source(str(store.folder), "0" * 10)
    with pytest.raises(NotFound, match="no object store"):
        open_source(str(tmp_path / "nothing"), snapshot)
    with pytest.raises(Refused, match="cannot be opened"):
        open_source("ftp://host/x", snapshot)


def test_a_pull_from_a_folder_imports_nothing_of_a_server(store, snapshot, tmp_path):
    done = pull_command(
        "snapshot", "pull", snapshot, str(tmp_path / "p"), "--from", str(store.folder)
    )
    assert done.returncode == 0, done.stderr
    assert "loaded []" in done.stderr
    done = pull_command("snapshot", "verify", str(tmp_path / "p"))
    assert done.returncode == 0, done.stderr
    assert "loaded []" in done.stderr
    victim = next((tmp_path / "p" / "train").rglob("*.png"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    done = pull_command("snapshot", "verify", str(tmp_path / "p"))
    assert done.returncode == 4
    assert victim.stem in done.stdout


@pytest.mark.slow
def test_a_snapshot_is_pulled_from_a_bucket(s3_credentials, store, snapshot, tmp_path):
    client = boto3.client("s3", endpoint_url=s3_credentials.endpoint)
    client.create_bucket(Bucket="pulls")
    upper = S3Store("pulls", "some/prefix", s3_credentials.endpoint)
    for file in store.folder.rglob("*"):
        if file.is_file():
            upper.put(file.read_bytes())
    address = "s3://pulls/some/prefix"
    found = open_source(address, snapshot[:9], endpoint=s3_credentials.endpoint)
    assert found.snapshot == snapshot
    pull_snapshot(found.store, snapshot, request(), tmp_path / "remote")
    pull_snapshot(store, snapshot, request(), tmp_path / "local")
    assert files_of(tmp_path / "remote") == files_of(tmp_path / "local")
    # A damaged object is found although no server checks it.
    name = next(iter(make_sample(store, 1).layers.values()))
    damaged = bytearray(store.get(name))
    damaged[30] ^= 1
    client.put_object(Bucket="pulls", Key=f"some/prefix/{name[:2]}/{name[2:]}", Body=bytes(damaged))
    [damage] = verify_snapshot(found.store, snapshot)
    assert damage.name == name
    with pytest.raises(NotFound):
        found.store.get("0" * 64)
    with pytest.raises(Unreachable):
        open_source("s3://no-such-bucket/x", snapshot, endpoint="http://127.0.0.1:9").store.get(
            snapshot
        )


@pytest.fixture
def served(settings, tmp_path):
    """Yield the address of a served instance with a snapshot "v1", a token, its context and the snapshot's id."""
    with open_context(settings.model_copy(update={"front_end": "no_pages:mount"})) as context:
        with context.database.transaction() as tx:
            add_samples(tx, [_sample(context, seed) for seed in range(10)])
        frozen = snapshots.freeze_snapshot(context.database, context.store, tag="v1", actor="test")
        with context.database.transaction() as tx:
            day = 86_400
            token = create_token(tx, "trainer", [Scope.snapshots_read], day, "test")
        port = free_port()
        config = uvicorn.Config(create_app(context), host="127.0.0.1", port=port, log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_for("the application", lambda: server.started)
        yield f"http://127.0.0.1:{port}", token, context, frozen.id
        server.should_exit = True
        thread.join(20)


def _sample(context: AppContext, seed: int) -> NewSample:
    rgba = image(seed)
    data = encode_layer(rgba)
    layer = StoredLayer(
        context.store.put(data), rgba.shape[1], rgba.shape[0], len(data), pixel_hash(rgba)
    )
    return NewSample(
        Kind.single, f"seed {seed}", "CC0-1.0", "drawn", 0, {LayerRole.foreground: layer}
    )


def test_an_instance_is_pulled_by_token_and_tag(served, tmp_path):
    address, token, context, snapshot = served
    done = pull_command(
        "snapshot", "pull", "v1", str(tmp_path / "p"), "--from", address, "--json",
        LAYERLOOP_TOKEN=token,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "loaded []" in done.stderr
    source = open_source(address, "v1", token=token)
    info = source.info
    source.close()
    assert (info["tags"], info["id"]) == (["v1"], snapshot)
    pull_snapshot(context.store, snapshot, request(), tmp_path / "local", info=info)
    assert files_of(tmp_path / "p") == files_of(tmp_path / "local")


def test_a_token_reads_objects_of_snapshots_and_no_others(served):
    address, token, context, snapshot = served
    reader = ApiReader(address, token, "v1")
    assert reader.get(snapshot) == context.store.get(snapshot)
    with context.database.transaction() as tx:
        make_candidates(tx, context.store, make_round(tx), 1)
        rejected = tx.connection.exec_driver_sql("select sha256 from candidate_layers").scalar()
    assert context.store.has(rejected)
    with pytest.raises(NotFound, match="no such object"):
        reader.get(rejected)
    with pytest.raises(NotFound):
        ApiReader(address, token, "nothing")
    for wrong in ("layerloop_" + "x" * 43, "nonsense"):
        with pytest.raises(Refused):
            ApiReader(address, wrong, "v1")
    with pytest.raises(Refused, match="needs a token"):
        ApiReader(address, "", "v1")
    with context.database.transaction() as tx:
        other = create_token(tx, "other", [Scope.statistics_read], 60, "test")
    with pytest.raises(Refused):
        ApiReader(address, other, "v1")
    reader.close()


def test_layers_of_rejects_are_given_out_by_snapshots_with_decisions_alone(served):
    address, token, context, plain = served
    with context.database.transaction() as tx:
        person = add_reviewer(tx, "Anna", Role.annotator).id
        decided, waiting = make_candidates(tx, context.store, make_round(tx), 2)
        decide(tx, person, decided, Verdict.reject, key=uuid.uuid4())
        query = sa.select(candidate_layers.c.candidate_id, candidate_layers.c.sha256)
        names = dict(map(tuple, tx.execute(query)))
    options = {"tag": "v2", "actor": "test", "find_decided": find_decided}
    frozen = snapshots.freeze_snapshot(context.database, context.store, **options)
    reader = ApiReader(address, token, "v2")
    assert reader.info["decisions"]["verdict"] == {"reject": 1}
    [record] = read_decisions(reader, frozen.id)
    assert record.candidate == decided.hex
    assert reader.get(names[decided]) == context.store.get(names[decided])
    assert verify_snapshot(reader, frozen.id) == []
    with pytest.raises(NotFound):
        reader.get(names[waiting])
    reader.close()
    older = ApiReader(address, token, plain)
    with pytest.raises(NotFound):
        older.get(names[decided])
    older.close()


def test_an_instance_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr("curation.adapters.api_reader.FIRST_PAUSE", 0.01)
    with pytest.raises(Unreachable, match="does not answer"):
        ApiReader("http://127.0.0.1:9", "token", "v1")


def test_a_pulled_folder_is_refused_as_the_place_of_a_newest_snapshot(tmp_path):
    (tmp_path / "pulled" / ".layerloop").mkdir(parents=True)
    for name, options in (
        (f"{tmp_path}/pulled", {}),
        ("latest", {"source": tmp_path / "pulled"}),
    ):
        with pytest.raises(Refused, match="is a pulled folder") as refused:
            open_snapshot(name, **options)
        assert "source=" in refused.value.hint
