"""A guard for tests: the product reads no object while it has a transaction open; a test itself may do so."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from curation.adapters.s3 import S3Store
from curation.db.engine import Database, Transaction
from curation.object_store import FolderStore

TESTS = Path(__file__).resolve().parents[1]

_open = threading.local()


def _is_test(depth: int) -> bool:
    return Path(sys._getframe(depth + 1).f_code.co_filename).is_relative_to(TESTS)


@contextmanager
def no_object_is_read_in_a_transaction() -> Iterator[None]:
    """Fail each read of an object in a thread whose transaction was opened by the product."""
    really_open = Database.transaction

    def transaction(self: Database, **options: Any) -> Any:
        own = not _is_test(1)
        opening = really_open(self, **options)

        @contextmanager
        def counted() -> Iterator[Transaction]:
            with opening as tx:
                _open.count = getattr(_open, "count", 0) + own
                try:
                    yield tx
                finally:
                    _open.count -= own

        return counted()

    def guarded(get: Any) -> Any:
        def read(store: object, sha256: str) -> bytes:
            assert not getattr(_open, "count", 0), "an object is read in a transaction"
            found: bytes = get(store, sha256)
            return found

        return read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "transaction", transaction)
        for kind in (FolderStore, S3Store):
            patch.setattr(kind, "get", guarded(kind.get))
        yield
