"""The exchange with a desk of other software: candidates go up, answers come home; what is cut off goes on later."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

from curation.database import Database
from curation.desk import answers, boards, postings
from curation.desk.door import Board, ReviewDesk, Seen
from curation.errors import NotFound

AT_ONCE = 500
"""Postings in one import: some seconds of the desk's time."""

PAUSE_SECONDS, FEW = 30, 50
"""Label Studio's own guidance is one import in 30 s; a board with fewer than FEW postings open is not left waiting."""

AT_MOST_CHANGED = 50
"""To change a posting where it stands costs the desk as much as to take down and import dozens together."""

OVERLAP = timedelta(seconds=30)
"""Read again each time: a change may be stamped before another, and show up after it."""


@dataclass(frozen=True)
class Exchange:
    """One desk and this house: `address` gives each layer of a posting an address, `most` postings go on a board."""

    database: Database
    desk: ReviewDesk
    holder: str
    address: postings.Address
    most: int
    pause: int = PAUSE_SECONDS
    few: int = FEW

    def put_up(self, number: int) -> Counter[str]:
        """Take down what a round's boards should show no longer and put up one batch; returns how many went each way.

        Nothing happens on a board that another process is at. Raises Unreachable.
        """
        moved: Counter[str] = Counter()
        with self.database.transaction() as tx:
            boards.leave_others(tx, self.desk.address, number)
            standing = boards.open_boards(tx, self.desk.address, number)
        for board in standing:
            with boards.held(self.database, board, self.holder) as mine:
                if mine:
                    moved["down"] += self._take_down(board)
        with self.database.transaction() as tx:
            found = boards.board_with_room(tx, self.desk.address, number, self.most)
        if found is not None:
            with boards.held(self.database, found[0], self.holder) as mine:
                if mine:
                    moved["up"] += self._send(*found)
        return +moved

    def collect(self, number: int | None = None, *, everything: bool = False) -> Counter[str]:
        """Bring home what was said since the last time, or `everything`, on the boards of a round or of all rounds.

        Returns what became of the answers. What is there no longer is put up again, and what is shown from addresses
        where this house is no longer is given the ones where it is now. Raises Unreachable.
        """
        outcomes: Counter[str] = Counter()
        with self.database.transaction() as tx:
            standing = boards.open_boards(tx, self.desk.address, number)
        for board in standing:
            with boards.held(self.database, board, self.holder) as mine:
                if mine:
                    outcomes += self._collect(board, everything=everything)
        return outcomes

    def _send(self, board: Board, room: int) -> int:
        with self.database.transaction() as tx:
            batch = postings.next_batch(tx, board, min(room, AT_ONCE), self.pause, self.few)
            sending = postings.read_batch(tx, batch, self.address) if batch else []
        if batch is None:
            return 0
        try:
            made, placed = self.desk.put_up(board, batch, sending)
        except NotFound:
            with self.database.transaction() as tx:
                postings.forget(tx, board)
            return 0
        with self.database.transaction() as tx:
            postings.note_placed(tx, board, made, placed)
            tx.ask("put_up", board.round)
        return len(placed)

    def _take_down(self, board: Board) -> int:
        """Bring home what was said first: what is taken down there takes its answers with it."""
        with self.database.transaction() as tx:
            going = postings.unwanted(tx, board)
        if not going:
            return 0
        self._collect(board)
        with self.database.transaction() as tx:
            going = postings.unwanted(tx, board)
        with suppress(NotFound):  # the board is gone, and they with it
            self.desk.take_down(board, going)
        with self.database.transaction() as tx:
            postings.note_down(tx, going)
        return len(going)

    def _collect(self, board: Board, *, everything: bool = False) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        with self.database.transaction() as tx:
            until, waiting = boards.read_until(tx, board), postings.waiting_answers(tx, board)
        for posting in waiting:
            with self.database.transaction() as tx:
                outcomes += answers.try_again(tx, posting)
        whole = everything or until is None
        try:
            total, changed = self.desk.collect(board, None if whole or until is None else until - OVERLAP)
            with self.database.transaction() as tx:
                fewer = total < postings.count_placed(tx, board)
            if fewer and not whole:
                # What was deleted there leaves no trace in what changed.
                whole, (_, changed) = True, self.desk.collect(board, None)
            found, stale = self._take_in_all(board, changed, outcomes)
            if stale and not whole:
                # One that changed is shown from an old address, so all may be.
                whole = True
                found, stale = self._take_in_all(board, self.desk.collect(board, None)[1], outcomes)
            if stale:
                outcomes["renewed"] += self._renew(board, stale)
        except NotFound:
            with self.database.transaction() as tx:
                postings.forget(tx, board)
            return outcomes + Counter({"lost": 1})
        with self.database.transaction() as tx:
            if whole:
                outcomes["lost"] += len(postings.note_lost(tx, board, found))
            boards.note_collected(tx, board)
        return +outcomes

    def _take_in_all(
        self, board: Board, changed: Iterator[Seen], outcomes: Counter[str]
    ) -> tuple[set[uuid.UUID], set[uuid.UUID]]:
        """Take in what changed, adding to `outcomes`: our postings among it, and those shown from old addresses."""
        found: set[uuid.UUID] = set()
        stale: set[uuid.UUID] = set()
        for part in _chunks(changed):
            outcomes += self._take_in(board, part)
            found |= {seen.posting for seen in part if seen.posting is not None}
            stale |= {seen.posting for seen in part if seen.posting is not None and self.is_stale(seen)}
            boards.hold_on(self.database, board, self.holder)
        return found, stale

    def is_stale(self, seen: Seen) -> bool:
        """Whether a posting is shown there from an address at which this house does not give its layers."""
        id_, layers = seen.posting, seen.layers
        return id_ is not None and (not layers or any(self.address(id_, one) != layers[one] for one in layers))

    def _renew(self, board: Board, stale: Collection[uuid.UUID]) -> int:
        """Put open postings up as they are now: their batch is there, so they are changed where they stand.

        Where they are many, those of which nothing was said are taken down instead, to be put up anew.
        """
        with self.database.transaction() as tx:
            silent = postings.silent(tx, stale) if len(stale) > AT_MOST_CHANGED else {}
        if silent:
            self.desk.take_down(board, silent)
        with self.database.transaction() as tx:
            postings.note_down(tx, silent)
            again = postings.read_batches(tx, stale, self.address)
            tx.ask("put_up", board.round)
        for batch, several in again.items():
            self.desk.put_up(board, batch, several)
            boards.hold_on(self.database, board, self.holder)
        return len(silent) + sum(map(len, again.values()))

    def _take_in(self, board: Board, part: Sequence[Seen]) -> Counter[str]:
        """A transaction for each posting that says something new: one that fails does not stop the others."""
        outcomes: Counter[str] = Counter()
        with self.database.transaction() as tx:
            changed, copies = postings.sort_seen(tx, part)
        for seen in changed:
            with self.database.transaction() as tx:
                outcomes += answers.take_in(tx, seen)
        if copies:
            self.desk.take_down(board, copies)
            outcomes["copies"] += len(copies)
        return outcomes


def _chunks(found: Iterator[Seen]) -> Iterator[list[Seen]]:
    while part := list(islice(found, AT_ONCE)):
        yield part
