"""Synchronization with Label Studio: push tasks, pull annotations, continue after an interruption."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeVar

from curation.db.engine import Database
from curation.errors import NotFound, Refused
from curation.labeling import annotations as answers
from curation.labeling import projects, tasks, users
from curation.labeling.port import LabelingBackend, Project, Reading, RemoteTask

log = logging.getLogger("layerloop.desk")

Counted = TypeVar("Counted")

AT_ONCE = 500
"""Postings that are taken in together."""

SENT_AT_ONCE = 1_000
"""Postings in one import: some seconds of the desk's time."""

PAUSE_SECONDS, FEW = 5, 50
"""The desk's rest between two imports, in which it is slow; a board with fewer than FEW postings open does not wait."""

AT_MOST_CHANGED = 50
"""To change a posting where it stands costs the desk as much as to take down and import dozens together."""

OVERLAP = timedelta(seconds=30)
"""Read again each time: a change may be stamped before another, and show up after it."""

TRIES = 3
"""How often postings that change while they are to be taken down are read and tried again."""


@dataclass(frozen=True)
class LabelingSync:
    """One desk and this instance: `address` gives each layer of a posting an address, `most` postings go on a board."""

    database: Database
    desk: LabelingBackend
    holder: str
    address: tasks.Address
    most: int
    pause: int = PAUSE_SECONDS
    few: int = FEW

    def put_up(self, number: int) -> Counter[str]:
        """Take down what a round's boards should show no longer and put up one batch; returns how many went each way.

        Nothing happens on a board that another process is at. What the desk refuses on one board is noted and does not
        stop the others. Raises Unreachable.
        """
        moved: Counter[str] = Counter()
        with self.database.transaction() as tx:
            projects.leave_others(tx, self.desk.address, number)
            standing = projects.open_boards(tx, self.desk.address, number)
        for board in standing:
            moved["down"] += self._at(board, self._take_down) or 0
        with self.database.transaction() as tx:
            found = projects.board_with_room(tx, self.desk.address, number, self.most)
        if found is not None:
            board, room = found
            moved["up"] += self._at(board, lambda held: self._send(held, room)) or 0
        return +moved

    def collect(self, number: int | None = None, *, everything: bool = False) -> Counter[str]:
        """Bring home what was said since the last time, or `everything`, on the boards of a round or of all rounds.

        Returns what became of the answers. What is there no longer is put up again, and what is shown from addresses
        of a former address of this instance is given today's. With `everything`, boards on which nothing is
        open are read too: a desk that was put back to a backup shows again what had been taken down. Raises
        Unreachable.
        """
        outcomes: Counter[str] = Counter()
        with self.database.transaction() as tx:
            find = projects.made_boards if everything else projects.open_boards
            standing = find(tx, self.desk.address, number)
        for board in standing:
            outcomes += self.collect_board(board, everything=everything)
        return outcomes

    def collect_board(self, board: Project, *, everything: bool = False) -> Counter[str]:
        """Bring home what was said on one board since it was read the last time. Raises Unreachable."""
        return self._at(board, lambda held: self._collect(held, everything=everything)) or Counter()

    def _at(self, board: Project, work: Callable[[Project], Counted]) -> Counted | None:
        """Work on a board that no other process is at. What the desk refuses is noted there and logged once."""
        with projects.held(self.database, board, self.holder) as mine:
            if not mine:
                return None
            with self.database.transaction() as tx:
                board = projects.board_of(tx, board.id) or board
            try:
                return work(board)
            except Refused as error:
                if error.message != board.trouble:
                    log.warning("round %d at %s: %s", board.round, self.desk.address, error.message)
                with self.database.transaction() as tx:
                    projects.note_trouble(tx, board, error.message)
                return None

    def _send(self, board: Project, room: int) -> int:
        with self.database.transaction() as tx:
            batch = tasks.next_batch(tx, board, min(room, SENT_AT_ONCE), self.pause, self.few)
            sending = tasks.read_batch(tx, batch, self.address) if batch else []
        if batch is None:
            return 0
        try:
            placed = self.desk.put_up(board, batch, sending)
        except NotFound:
            with self.database.transaction() as tx:
                tasks.forget(tx, board)
            return 0
        with self.database.transaction() as tx:
            tasks.note_placed(tx, board, placed)
            tx.ask("put_up", board.round)
        if board.number is None:
            self._reserve(replace(board, number=placed.board, made_at=placed.made_at))
        return len(placed.postings)

    def _take_down(self, board: Project) -> int:
        """Bring home what was said first: what is taken down there takes its answers with it.

        What somebody says in between is seen before anything is deleted, brought home too, and tried again.
        """
        gone = 0
        for _ in range(TRIES):
            with self.database.transaction() as tx:
                going = tasks.unwanted(tx, board)
            if not going:
                break
            self._collect(board)
            with self.database.transaction() as tx:
                going = tasks.unwanted(tx, board)
            numbers = {id_: [number] for id_, (number, _) in going.items()}
            left: set[uuid.UUID] = set()
            with suppress(NotFound):  # the board is gone, and they with it
                left = self.desk.take_down(
                    board, numbers, {id_: seen for id_, (_, seen) in going.items()}
                )
            with self.database.transaction() as tx:
                tasks.note_down(tx, set(going) - left)
            gone += len(going) - len(left)
            if not left:
                break
        if gone:
            self._set_mark(board)
            self._reserve(board)
        return gone

    def _set_mark(self, board: Project, found: int | None = None) -> None:
        """Write a higher number there and here, so that a desk that is put back to before this moment shows it."""
        with self.database.transaction() as tx:
            known = projects.board_of(tx, board.id)
        if known is None:
            return
        mark = max(known.mark, found or 0) + 1
        with suppress(NotFound):
            if self.desk.set_mark(known, mark):
                with self.database.transaction() as tx:
                    projects.note_mark(tx, board, mark)

    def _reserve(self, board: Project) -> None:
        """Leave to the people who are at the desk what it gives them next."""
        since = datetime.now(UTC) - timedelta(seconds=tasks.PRESENT_SECONDS)
        present = set(self.desk.present(since))
        with self.database.transaction() as tx:
            present |= tasks.said_lately(tx, board)
            if present - {users.ORACLE}:
                tasks.reserve(tx, board, len(present - {users.ORACLE}))

    def _collect(self, board: Project, *, everything: bool = False) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        with self.database.transaction() as tx:
            until, waiting = projects.read_until(tx, board), tasks.waiting_answers(tx, board)
            flagged = projects.must_reread(tx, board)
        for posting in waiting:
            with self.database.transaction() as tx:
                outcomes += answers.try_again(tx, posting)
        whole = everything or flagged or until is None
        try:
            reading = self.desk.collect(board, None if whole or until is None else until - OVERLAP)
            restored = is_restored(board, reading)
            with self.database.transaction() as tx:
                placed = tasks.count_placed(tx, board)
            if not whole and (restored or reading.count < placed):
                # What was deleted there leaves no trace in what changed.
                whole, reading = True, self.desk.collect(board, None)
            found, stale = self._take_in_all(board, reading.seen, outcomes, restored=restored)
            if stale and not whole:
                # One that changed is shown from an old address, so all may be.
                whole, reading = True, self.desk.collect(board, None)
                found, stale = self._take_in_all(board, reading.seen, outcomes, restored=restored)
            if stale:
                outcomes["renewed"] += self._renew(board, stale)
            self._show_refusals(board)
            outcomes["again"] += self._forget_lost(board) if restored else 0
        except NotFound:
            with self.database.transaction() as tx:
                tasks.forget(tx, board)
            return outcomes + Counter({"lost": 1})
        with self.database.transaction() as tx:
            if whole:
                outcomes["lost"] += len(tasks.note_lost(tx, board, found))
            if restored and not flagged:  # else another board has told so before
                projects.reread_all(tx, self.desk.address)
            projects.note_collected(tx, board, reading.made_at, whole=whole)
            projects.note_trouble(tx, board, reading.trouble)
        if +outcomes or restored:
            self._set_mark(board, reading.mark)
        if placed:
            self._reserve(board)
        return +outcomes

    def _take_in_all(
        self,
        board: Project,
        changed: Iterator[RemoteTask],
        outcomes: Counter[str],
        *,
        restored: bool,
    ) -> tuple[set[uuid.UUID], set[uuid.UUID]]:
        """Take in what changed, adding to `outcomes`: our postings among it, and those shown from old addresses."""
        found: set[uuid.UUID] = set()
        stale: set[uuid.UUID] = set()
        for part in _chunks(changed):
            outcomes += self._take_in(board, part, restored=restored)
            found |= {seen.posting for seen in part if seen.posting is not None}
            stale |= {
                seen.posting for seen in part if seen.posting is not None and self.is_stale(seen)
            }
            projects.hold_on(self.database, board, self.holder)
        return found, stale

    def _show_refusals(self, board: Project) -> None:
        """Have tasks say which of their answers were not counted, so that whoever gave them can see it."""
        with self.database.transaction() as tx:
            ids = tasks.refusals_to_show(tx, board, AT_MOST_CHANGED)
            up = tasks.read_up(tx, ids, self.address)
        if ids:
            self.desk.update(board, up)
            with self.database.transaction() as tx:
                tasks.note_shown(tx, ids)

    def _forget_lost(self, board: Project) -> int:
        """Take down tasks whose answers a restored desk has lost: what is decided is not asked again."""
        with self.database.transaction() as tx:
            going = tasks.forgotten(tx, board)
        if going:
            self.desk.take_down(board, going)
            with self.database.transaction() as tx:
                tasks.note_down(tx, going)
        return len(going)

    def is_stale(self, seen: RemoteTask) -> bool:
        """Whether a posting is shown there from an address at which this instance does not give its layers."""
        id_, layers = seen.posting, seen.layers
        return id_ is not None and (
            not layers or any(self.address(id_, one) != layers[one] for one in layers)
        )

    def _renew(self, board: Project, stale: Collection[uuid.UUID]) -> int:
        """Give postings the addresses at which the instance is now, each by a call, also those that are answered.

        Where they are many, those of which nothing was said are taken down instead, to be put up anew, and of the
        answered ones only some are changed now; the next whole reading goes on with the others.
        """
        with self.database.transaction() as tx:
            silent = tasks.silent(tx, stale) if len(stale) > AT_MOST_CHANGED else {}
        if silent:
            self.desk.take_down(board, silent)
        with self.database.transaction() as tx:
            tasks.note_down(tx, silent)
            again = tasks.read_up(tx, tasks.open_first(tx, stale, AT_MOST_CHANGED), self.address)
            tx.ask("put_up", board.round)
        for part in _parts(sorted(again), AT_MOST_CHANGED):
            self.desk.update(board, {number: again[number] for number in part})
            projects.hold_on(self.database, board, self.holder)
        return len(silent) + len(again)

    def _take_in(
        self, board: Project, part: Sequence[RemoteTask], *, restored: bool
    ) -> Counter[str]:
        """A transaction for each posting that says something new: one that fails does not stop the others."""
        outcomes: Counter[str] = Counter()
        with self.database.transaction() as tx:
            changed, down = tasks.sort_seen(tx, part)
        for seen in changed:
            with self.database.transaction() as tx:
                outcomes += answers.take_in(tx, seen, restored=restored)
        if down:
            self.desk.take_down(board, down)
            outcomes["copies"] += len(down)
        return outcomes


def is_restored(board: Project, reading: Reading) -> bool:
    """Whether the desk was put back to an older state of itself: it shows an older number than was written there."""
    return board.mark > (reading.mark or 0)


def _chunks(found: Iterator[RemoteTask]) -> Iterator[list[RemoteTask]]:
    while part := list(islice(found, AT_ONCE)):
        yield part


def _parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
