"""Advisory locks: each has a key of its own, so that none blocks another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from curation.db.advisory_locks import AdvisoryLock, lock, lock_shared, try_lock
from curation.db.engine import Database
from curation.errors import Conflict
from curation.takedown.execution import exclusively

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("held", AdvisoryLock, ids=lambda key: key.name)
def test_a_held_lock_leaves_all_others_free(database: Database, held: AdvisoryLock) -> None:
    with database.transaction() as tx:
        lock(tx, held)
        with database.transaction() as other:
            free = {key for key in AdvisoryLock if try_lock(other, key)}
    assert free == set(AdvisoryLock) - {held}


def test_a_lock_of_a_round_leaves_other_rounds_free(database: Database) -> None:
    with database.transaction() as tx, database.transaction() as other:
        lock(tx, AdvisoryLock.select, 1)
        lock(other, AdvisoryLock.select, 2)
        assert try_lock(other, AdvisoryLock.select)


def test_a_shared_lock_excludes_only_the_exclusive_one(database: Database) -> None:
    with database.transaction() as tx, database.transaction() as other:
        lock_shared(tx, AdvisoryLock.write_layers)
        lock_shared(other, AdvisoryLock.write_layers)
        assert not try_lock(other, AdvisoryLock.write_layers)


def test_other_work_goes_on_during_a_takedown(database: Database) -> None:
    with exclusively(database):
        with database.transaction() as tx:
            free = {key for key in AdvisoryLock if try_lock(tx, key)}
        with pytest.raises(Conflict, match="another takedown is running"), exclusively(database):
            pass
    assert free == set(AdvisoryLock) - {AdvisoryLock.take_down}


def test_no_other_module_has_a_key() -> None:
    own = ROOT / "curation" / "db" / "advisory_locks.py"
    others = (file for file in (ROOT / "curation").rglob("*.py") if file != own)
    keys = [file.name for file in others if re.search(r"\b7_?201_?1\d\d\b", file.read_text())]
    assert keys == []
