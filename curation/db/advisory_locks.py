"""PostgreSQL's advisory locks: one list of their keys, so that no two of them block each other."""

from __future__ import annotations

from enum import IntEnum, unique

from curation.db.engine import Transaction


@unique
class AdvisoryLock(IntEnum):
    """The keys; each is held by whoever does what it is named after."""

    migrate = 7_201_113
    install_queue = 7_201_114
    fold_counts = 7_201_115
    seal_events = 7_201_116
    screen = 7_201_117  # two batches must not miss each other's duplicates
    plant_gold = 7_201_118
    reconcile = 7_201_119
    write_layers = 7_201_120  # shared by writers of layers and snapshots; see datasets.blocked
    take_down = 7_201_121
    select = 7_201_122  # with the id of a round
    accept_top_n = 7_201_123  # with the id of a round
    open_round = 7_201_125


def lock(tx: Transaction, key: AdvisoryLock, round_id: int | None = None) -> None:
    """Wait for a lock, and hold it until the transaction ends.

    Args:
        tx: The transaction.
        key: The lock.
        round_id: A round, where each round has a lock of its own.
    """
    number = "" if round_id is None else f", {int(round_id)}"
    tx.connection.exec_driver_sql(f"select pg_advisory_xact_lock({int(key)}{number})")


def lock_shared(tx: Transaction, key: AdvisoryLock) -> None:
    """Hold a lock together with others until the transaction ends; waits for an exclusive one.

    Args:
        tx: The transaction.
        key: The lock.
    """
    tx.connection.exec_driver_sql(f"select pg_advisory_xact_lock_shared({int(key)})")


def try_lock(tx: Transaction, key: AdvisoryLock) -> bool:
    """Hold a lock until the transaction ends if nobody holds it; return whether it is held.

    Args:
        tx: The transaction.
        key: The lock.
    """
    query = f"select pg_try_advisory_xact_lock({int(key)})"
    return bool(tx.connection.exec_driver_sql(query).scalar_one())
