"""Pages of lists over HTTP: the header `Link` leads through all of them, and hostile places are refused."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from curation.datasets.samples import add_samples
from curation.db.engine import Database
from curation.db.tables import checkpoints, snapshots
from curation.domain import Role
from curation.loops.plan import LoopPlan
from curation.loops.rows import start_loop
from curation.review import reviewers
from curation.rounds import lifecycle
from tests.curation.datasets.test_samples import new_sample
from tests.curation.db.test_paging import make_runs
from tests.support.factories import make_checkpoint, make_round

KEYS = {"rounds": "id", "runs": "id", "loops": "id", "snapshots": "id", "checkpoints": "id", "reviewers": "name"}  # fmt: skip


@pytest.fixture
def filled(database: Database) -> None:
    """Make several of everything that is listed."""
    with database.transaction() as tx:
        add_samples(tx, [new_sample(0)])
        make_checkpoint(tx)
        row = dict(tx.execute(sa.select(checkpoints)).mappings().one())
        tx.execute(sa.insert(checkpoints), [row | {"id": f"{i:064x}"} for i in range(4)])
        for number in range(4):
            make_round(tx)
            reviewers.add_reviewer(tx, f"Zoë & co {number}")
            start_loop(tx, LoopPlan(1, 8, "micro"), "test")
        make_runs(tx, None)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("name", KEYS)
def test_the_links_lead_through_the_whole_list(signed_in, name):
    visitor = signed_in(Role.engineer)
    whole = visitor.get(f"/api/{name}", params={"limit": 1_000})
    assert "link" not in whole.headers
    expected = [row[KEYS[name]] for row in whole.json()]
    assert len(expected) >= 4
    address, found = f"/api/{name}?limit=2", []
    while address:
        answer = visitor.get(address)
        assert answer.status_code == 200
        found += [row[KEYS[name]] for row in answer.json()]
        address = answer.links.get("next", {}).get("url")
    assert found == expected


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("after", ["0", "-1", "9" * 30, "%00", "' or 1=1 --", "f" * 64, "\ud800"])
def test_a_place_that_does_not_exist_is_refused_or_an_end(signed_in, name, after):
    visitor = signed_in(Role.engineer)
    answer = visitor.get(f"/api/{name}?after={after if after != chr(0xD800) else '%ED%A0%80'}")
    assert answer.status_code in {404, 422}, answer.text
    assert visitor.get(f"/api/{name}", params={"limit": 0}).status_code == 422
    assert visitor.get(f"/api/{name}", params={"limit": 1_001}).status_code == 422


@pytest.mark.usefixtures("filled")
def test_rounds_by_state_keep_the_filter_in_the_link(signed_in, database):
    with database.transaction() as tx:
        [one, two, *_] = [row["id"] for row in lifecycle.list_rounds(tx)]
        lifecycle.close_round(tx, one, "test")
        lifecycle.pause_round(tx, two, "test")
    visitor = signed_in(Role.engineer)
    first = visitor.get("/api/rounds?state=open&state=paused&limit=1")
    assert [row["id"] for row in first.json()] == [two]
    second = visitor.get(first.links["next"]["url"])
    assert [row["state"] for row in second.json()] == ["open"]
    assert visitor.get("/api/rounds?state=lost").status_code == 422


def test_the_active_checkpoint_is_marked_on_every_page(signed_in, database):
    with database.transaction() as tx:
        former, active = make_checkpoint(tx, "one"), make_checkpoint(tx, "two")
    visitor = signed_in(Role.engineer)
    listed = visitor.get("/api/checkpoints").json()
    assert {row["id"]: row["active"] for row in listed} == {active: True, former: False}
    assert not visitor.get(f"/api/checkpoints/{former}").json()["active"]


def test_a_snapshot_is_found_without_reading_all_of_them(signed_in, database):
    """Also the statements of the list do not grow with its rows."""
    with database.transaction() as tx:
        rows = [{"id": f"{i:064x}", "samples": 0, "counts": {}} for i in range(30)]
        tx.execute(sa.insert(snapshots), rows)
    statements: list[str] = []

    def count(_c, _cursor, statement: str, *_: object) -> None:
        statements.append(statement)

    visitor = signed_in(Role.engineer)
    sa.event.listen(database.engine, "before_cursor_execute", count)
    lengths = []
    for limit in (2, 25):
        statements.clear()
        assert len(visitor.get("/api/snapshots", params={"limit": limit}).json()) == limit
        lengths.append(len(statements))
    sa.event.remove(database.engine, "before_cursor_execute", count)
    assert lengths[0] == lengths[1]
