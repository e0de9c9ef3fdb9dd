"""The schema: tables and migrations agree, migrations are idempotent, and triggers enforce the rules."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from curation.db import leases
from curation.db.engine import Database
from curation.db.schema import find_schema_drift, get_revisions, migrate
from curation.db.tables import (
    APPEND_ONLY,
    candidate_moves,
    candidates,
    labeling_annotations,
    labeling_projects,
    labeling_tasks,
    metadata,
    rounds,
)
from curation.domain import STATE_TRANSITIONS, CandidateState
from curation.review.reviewers import AUTO_REVIEWER, add_reviewer
from tests.support.factories import fresh_database, make_candidates, make_round, with_database


def test_tables_and_migrations_agree(database):
    assert find_schema_drift(database) == []


def test_a_migrated_database_is_at_the_newest_version_and_stays_there(database):
    version, newest = get_revisions(database)
    assert version == newest is not None
    migrate(database)
    assert get_revisions(database) == (version, newest)


def test_an_instance_in_use_is_downgraded_and_upgraded(postgres_address, store):
    """Older versions have neither gold (waiting, shown or decided) nor the auto-reviewer."""
    with fresh_database(postgres_address) as name:
        database = Database(with_database(postgres_address, name))
        migrate(database)
        with database.transaction() as tx:
            row = {"purpose": "gold", "kind": "single", "quota": 0, "policy": {}, "state": "open"}
            gold = int(tx.scalar(sa.insert(rounds).values(row).returning(rounds.c.id)))
            pieces = make_candidates(tx, store, gold, 3)
            leases.claim(tx, pieces[1:2], "review", "ada", 60)
            showing = (
                sa.update(candidates).where(candidates.c.id == pieces[1]).values(state="showing")
            )
            tx.execute(showing)
            [other] = make_candidates(tx, store, make_round(tx), 1)
            machine = add_reviewer(tx, AUTO_REVIEWER, kind=AUTO_REVIEWER)
        for version in ("0006", "0005"):
            migrate(database, revision=version)
            assert get_revisions(database)[0] == version
        with database.transaction() as tx:
            states = {
                row.id: row.state
                for row in tx.connection.exec_driver_sql("select id, state from candidates")
            }
            [output] = tx.connection.exec_driver_sql(
                f"select purpose, state from rounds where id = {gold}"
            ).all()
            held = tx.connection.exec_driver_sql("select count(*) from leases").scalar()
        assert states == dict.fromkeys(pieces, "withdrawn") | {other: "waiting"}
        assert (tuple(output), held) == (("seeds", "closed"), 0)
        migrate(database)
        assert find_schema_drift(database) == []
        with database.transaction() as tx:
            assert add_reviewer(tx, AUTO_REVIEWER, kind=AUTO_REVIEWER) == machine
        database.close()


def test_labeling_rows_survive_the_standard_names_in_both_directions(postgres_address, store):
    with fresh_database(postgres_address) as name:
        database = Database(with_database(postgres_address, name))
        migrate(database)
        now = datetime.now(UTC)
        with database.transaction() as tx:
            round_id = make_round(tx)
            made = make_candidates(tx, store, round_id, 3)
            project = {
                "id": uuid.uuid4(),
                "server_url": "http://x",
                "round_id": round_id,
                "part": 1,
            }
            project |= {"remote_id": 5, "remote_created_at": now, "full_read_pending": True}
            project |= {"restore_mark": 3, "error": "refused", "lock_holder": "worker"}
            project |= {"pushed_at": now, "pulled_at": now, "locked_until": now}
            tx.execute(sa.insert(labeling_projects), project)
            for index, state in enumerate(("open", "annotated", "removed")):
                task = {"id": uuid.uuid4(), "project_id": project["id"], "state": state}
                task |= {"candidate_id": made[index], "batch": uuid.uuid4(), "remote_id": index}
                tx.execute(sa.insert(labeling_tasks), task | {"remote_updated_at": now})
                annotation = {
                    "task_id": task["id"],
                    "remote_id": index,
                    "author": "a",
                    "email": "b",
                }
                annotation |= {"content": {"verdict": "accept", "error": ""}, "deleted": True}
                annotation |= {"content_updated_at": now, "lost": True, "refusal_shown": True}
                annotation |= {"remote_task_id": 7, "remote_created_at": now}
                tx.execute(sa.insert(labeling_annotations), annotation)
        before = labeling_rows(database)
        migrate(database, revision="0009")
        with database.transaction() as tx:
            select = "select state from desk_postings order by number"
            states = [row.state for row in tx.connection.exec_driver_sql(select)]
            [*said] = tx.connection.exec_driver_sql("select said, gone, shown from desk_answers")
        assert states == ["up", "answered", "down"]
        assert [tuple(row) for row in said] == [
            ({"verdict": "accept", "fault": ""}, True, True) for _ in range(3)
        ]
        migrate(database)
        assert labeling_rows(database) == before
        assert find_schema_drift(database) == []
        database.close()


def labeling_rows(database: Database) -> list[list[tuple[object, ...]]]:
    """Return the rows of the tables of projects, tasks and annotations."""
    with database.transaction() as tx:
        return [
            [tuple(row) for row in tx.execute(sa.select(table).order_by(table.c.remote_id))]
            for table in (labeling_projects, labeling_tasks, labeling_annotations)
        ]


def test_an_empty_database_is_recognized(postgres_address):
    with fresh_database(postgres_address) as name:
        database = Database(with_database(postgres_address, name))
        assert get_revisions(database)[0] is None
        assert find_schema_drift(database) != []
        database.close()


def test_instances_that_start_at_once_migrate_one_after_the_other(postgres_address):
    with fresh_database(postgres_address) as name:
        several = [Database(with_database(postgres_address, name)) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(migrate, several))
        assert find_schema_drift(several[0]) == []
        for database in several:
            database.close()


def test_the_database_has_the_state_transitions_of_the_domain(database):
    with database.transaction() as tx:
        known = {(row.source, row.target) for row in tx.execute(sa.select(candidate_moves))}
    assert known == {(str(source), str(target)) for source, target in STATE_TRANSITIONS}


@pytest.mark.parametrize("source", CandidateState)
def test_the_database_enforces_the_state_transitions(database, store, source):
    """Exactly the transitions of STATE_TRANSITIONS are possible, for any client of the database."""
    others = [target for target in CandidateState if target != source]
    with database.transaction() as tx:
        ids = make_candidates(tx, store, make_round(tx), len(others), source)
    for id_, target in zip(ids, others, strict=True):
        move = (
            sa.update(candidates).where(candidates.c.id == id_).values(state=target, propensity=1.0)
        )
        if (source, target) in STATE_TRANSITIONS:
            with database.transaction() as tx:
                tx.execute(move)
        else:
            with pytest.raises(sa.exc.DBAPIError, match="may not go"), database.transaction() as tx:
                tx.execute(move)


@pytest.mark.parametrize("table", APPEND_ONLY, ids=lambda table: table.name)
@pytest.mark.parametrize(
    "change", ["update {} set created_at = now()", "delete from {}", "truncate {} cascade"]
)
def test_decisions_and_events_can_neither_be_changed_nor_deleted(database, table, change):
    with (
        pytest.raises(sa.exc.DBAPIError, match="never changed or removed"),
        database.transaction() as tx,
    ):
        tx.connection.exec_driver_sql(change.format(table.name))


def test_every_reference_to_another_table_can_be_followed_back_quickly(database):
    """Without an index on a foreign key, deleting its target scans the whole table."""
    query = """
        select conrelid::regclass::text || '.' || attname from pg_constraint
        join pg_attribute on attrelid = conrelid and attnum = conkey[1]
        where contype = 'f' and confrelid::regclass::text in ('candidates', 'layers') and not exists (
            select from pg_index where indrelid = conrelid and indkey[0] = conkey[1])"""
    with database.transaction() as tx:
        assert [
            row[0] for row in tx.connection.exec_driver_sql(query) if row[0] != "layer_bands.sha256"
        ] == []


def test_names_of_constraints_are_made_by_one_rule():
    for table in metadata.tables.values():
        for constraint in table.constraints:
            assert constraint.name is not None, table.name
