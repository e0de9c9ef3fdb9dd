"""Pages of lists: the rows after a given one in the order of the list, found by an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.errors import NotFound

Order = Sequence[sa.Column[Any]]
"""The columns that a list is sorted by; the last one identifies a row."""


def read_page(
    tx: Transaction,
    query: sa.Select[Any],
    order: Order,
    *,
    limit: int,
    after: Sequence[Any] | None = None,
    descending: bool = True,
) -> list[dict[str, Any]]:
    """Return a page of the rows of a query.

    Rows that are added or removed between two pages neither repeat nor hide others, and a late page
    costs what the first one does.

    Args:
        tx: The transaction.
        query: The query, without order and limit.
        order: The columns of the order.
        limit: The largest number of rows; 0 for no limit.
        after: The values of these columns in the row after which the page begins (`find_place`);
            None for the first page.
        descending: Whether larger values come first.
    """
    if after is not None:
        values = (sa.literal(value, one.type) for value, one in zip(after, order, strict=True))
        row, place = sa.tuple_(*order), sa.tuple_(*values)
        query = query.where(row < place if descending else row > place)
    query = query.order_by(*(column.desc() if descending else column for column in order))
    return [dict(row) for row in tx.execute(query.limit(limit) if limit else query).mappings()]


def find_place(tx: Transaction, order: Order, id_: Any) -> Sequence[Any] | None:
    """Return the place of a row in a list; None for None.

    Args:
        tx: The transaction.
        order: The columns of the order.
        id_: The identifying value of the row, or None.

    Raises:
        NotFound: There is no such row.
    """
    if id_ is None:
        return None
    row = tx.execute(sa.select(*order).where(order[-1] == id_)).one_or_none()
    if row is None:
        raise NotFound(f"the list has no {id_} to go on after", "begin with the first page again")
    return tuple(row)
