"""Access: who is asking, what they may do, and the one transaction in which their request is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from curation.database import Transaction
from curation.domain import Access
from curation.errors import Refused
from curation.house import House
from curation.review.reviewers import Reviewer, Sessions, reviewer_of

COOKIE = "layerloop_session"

ORDER = list(Access)
"""From least to most; each may do all that those before it may."""


class NotSignedIn(Refused):
    """No session, a forged or old one, or one of somebody who was sent away."""

    def __init__(self) -> None:
        super().__init__("you are not signed in", "open the address with a sign-in token, or ask for a new one")


class AccessTooLow(Refused):
    """Signed in, and not allowed."""

    def __init__(self, needed: Access, has: Access) -> None:
        super().__init__(f"this takes access {needed}; you have {has}", "ask an administrator")


@dataclass(frozen=True)
class Visit:
    """A request of somebody whose session is genuine; what they may do is settled on entering."""

    house: House
    reviewer_id: int
    needed: Access

    @contextmanager
    def enter(self, *, one_view: bool = False) -> Iterator[tuple[Transaction, Reviewer]]:
        """The request's one transaction, kept when the block is left: answer after it, never inside.

        The reviewer is read in the same transaction, so that somebody sent away is out with their next request.
        Raises NotSignedIn, AccessTooLow.
        """
        with self.house.database.transaction(one_view=one_view) as tx:
            reviewer = reviewer_of(tx, self.reviewer_id)
            if reviewer is None or not reviewer.active:
                raise NotSignedIn
            if ORDER.index(reviewer.access) < ORDER.index(self.needed):
                raise AccessTooLow(self.needed, reviewer.access)
            yield tx, reviewer


def house_of(request: Request) -> House:
    """The house that this application serves."""
    house: House = request.app.state.house
    return house


def visit(needed: Access) -> Callable[[Request], object]:
    """A dependency that lets in whoever has this access or more. Async, since it reads no more than a cookie."""

    async def knock(request: Request) -> Visit:
        sessions: Sessions = request.app.state.sessions
        reviewer_id = sessions.open(request.cookies.get(COOKIE, ""))
        if reviewer_id is None:
            raise NotSignedIn
        return Visit(house_of(request), reviewer_id, needed)

    return knock


Annotator = Annotated[Visit, Depends(visit(Access.annotator))]
Engineer = Annotated[Visit, Depends(visit(Access.engineer))]
Trainer = Annotated[Visit, Depends(visit(Access.trainer))]
