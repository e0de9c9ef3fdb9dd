"""Pages of lists in the API: the parameter `limit`, and the next page in the header `Link`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query, Request, Response

from curation.api.fields import QUERY_NUMBER, STORABLE

Row = TypeVar("Row")

Limit = Annotated[int, Query(ge=1, le=1_000), QUERY_NUMBER]
"""The parameter `limit` of a list."""

PageNumber = Annotated[int, Query(ge=1, le=2**31 - 1), QUERY_NUMBER]
"""The parameter `after` of a list whose items have numbers."""

Digest = Annotated[str, Query(pattern="^[0-9a-f]{64}$"), STORABLE]
"""The parameter `after` of a list whose items are named by their content."""


def cut_page(
    request: Request,
    response: Response,
    rows: Sequence[Row],
    limit: int,
    key: Callable[[Row], Any],
) -> Sequence[Row]:
    """Return the rows of a page, and name the next page in the header `Link`.

    Args:
        request: The request.
        response: The response.
        rows: The rows that were read, one more than the limit if there are more.
        limit: The largest number of rows of the page.
        key: The function that returns the value of `after` that continues after a row.
    """
    shown = rows[:limit]
    if len(rows) > limit:
        address = request.url.include_query_params(after=key(shown[-1]))
        response.headers["Link"] = f'<{address.path}?{address.query}>; rel="next"'
    return shown
