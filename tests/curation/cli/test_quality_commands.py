"""Commands of review quality: overlap, agreement, gold, statistics, re-aggregation, and resuming a reviewer."""

from __future__ import annotations

import json
import uuid

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from curation.cli.main import app
from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.db.tables import gold, reviewers, rounds, samples
from curation.domain import LayerRole, Verdict
from curation.errors import Conflict, LayerloopError, Refused
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from curation.review.decisions import decide
from curation.review.reviewers import add_reviewer
from curation.settings import Settings
from tests.support.factories import image, make_candidates, make_checkpoint


@pytest.fixture
def run(settings: Settings, database, monkeypatch):
    """Return the output of a command on this test's database, or the error it ends with."""
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_"):
            monkeypatch.setenv(name, value)

    def run_(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        if isinstance(done.exception, LayerloopError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    return run_


@pytest.fixture
def store(settings: Settings) -> FolderStore:
    return FolderStore(settings.path("objects"))


def test_a_round_with_overlap_is_opened_decided_and_aggregated_again(
    run, database, store, tmp_path
):
    with database.transaction() as tx:
        make_checkpoint(tx)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    opened = ("round", "open", "--prompts", str(prompts), "--quota", "4")
    round_id = run(*opened, "--overlap", "3", "--rule", "dawid_skene").strip()
    with database.transaction() as tx:
        kept = tx.scalar(sa.select(rounds.c.consensus).where(rounds.c.id == int(round_id)))
        ids = make_candidates(tx, store, int(round_id), 6)
        for index, one in enumerate(ids):
            for name in ("ann", "bob", "cy"):
                verdict = Verdict.accept if index % 2 and name != "cy" else Verdict.reject
                decide(tx, add_reviewer(tx, name).id, one, verdict, key=uuid.uuid4(), dwell_ms=700)
    assert kept == {
        "rule": "dawid_skene",
        "overlap": 3,
        "certainty": 0.9,
        "rule_reviewer_votes": False,
    }
    with pytest.raises(Refused, match="rule reviewer cannot vote"):
        run(*opened, "--rule-reviewer-votes")
    voices = (*opened, "--overlap", "2", "--rule-reviewer-votes")
    assert run(*voices, "--dry-run") == ""
    other = json.loads(run(*voices, "--json"))["round"]
    with database.transaction() as tx:
        assert (
            tx.scalar(sa.select(rounds.c.consensus).where(rounds.c.id == other))[
                "rule_reviewer_votes"
            ]
            is True
        )
    assert (
        json.loads(run("round", "agreement", str(other), "--json"))["consensus"][
            "rule_reviewer_votes"
        ]
        is True
    )
    response = json.loads(run("round", "agreement", round_id, "--json"))
    assert (response["decided_twice"], response["adjudicating"], len(response["pairs"])) == (
        6,
        3,
        3,
    )
    assert "3 wait for an adjudicator" in run("round", "agreement", round_id)
    flips = json.loads(run("round", "reaggregate", round_id, "--json"))
    assert flips["flips"] == []
    assert [one["reviewer"] for one in flips["skills"]] == ["ann", "bob", "cy"]
    assert json.loads(run("round", "reaggregate", round_id, "--apply", "--json"))["turned"] == 0
    assert "0 of 6 decided" in run("round", "reaggregate", round_id)
    metrics = json.loads(run("reviewer", "stats", "--json"))
    assert {one["name"]: one["decisions"] for one in metrics} == {"ann": 6, "bob": 6, "cy": 6}
    assert "6 decisions" in run("reviewer", "stats", "ann")


def test_gold_is_planted_and_a_pause_is_lifted(run, database, store):
    from tests.support.factories import make_round

    with database.transaction() as tx:
        round_id = str(make_round(tx))
        for seed in range(4):
            data = encode_layer(image(seed))
            layer = StoredLayer(store.put(data), 32, 24, len(data), pixel_hash(image(seed)))
            add_samples(
                tx,
                [
                    NewSample(
                        "single", f"a cat {seed}", "CC0", "test", 0, {LayerRole.foreground: layer}
                    )
                ],
            )
        ann = add_reviewer(tx, "ann")
        tx.execute(sa.update(reviewers).values(paused="1 of 12 obvious defects were noticed"))
    run("round", "gold", round_id, "--count", "12", "--dry-run")
    count = sa.select(sa.func.count())
    with database.transaction() as tx:
        assert tx.scalar(count.select_from(gold)) == 0
    run("round", "gold", round_id, "--count", "12", "--share", "0.1", "--bound", "0.5")
    with database.transaction() as tx:
        assert tx.scalar(count.select_from(gold)) == 12
        assert tx.scalar(count.select_from(samples)) == 4
        assert tx.scalar(sa.select(rounds.c.gold).where(rounds.c.id == int(round_id))) == {
            "share": 0.1,
            "bound": 0.5,
        }
    run("round", "gold", round_id, "--share", "0")
    assert [row["id"] for row in json.loads(run("round", "list", "--json"))] == [int(round_id)]
    assert (
        json.loads(run("reviewer", "list", "--json"))[0]["paused"]
        == "1 of 12 obvious defects were noticed"
    )
    run("reviewer", "resume", "ann")
    with pytest.raises(Conflict, match="not paused"):
        run("reviewer", "resume", "ann")
    with database.transaction() as tx:
        assert tx.scalar(sa.select(reviewers.c.paused).where(reviewers.c.id == ann.id)) is None
