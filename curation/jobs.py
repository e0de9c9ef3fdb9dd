"""The jobs of the conveyor, by name: each takes a house and ids, does one batch, and bears being done twice."""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from curation import captions, checkpoints, drawing, leases
from curation.database import Transaction
from curation.desk import boards, oracle
from curation.desk.exchange import Exchange
from curation.domain import CandidateState, Checkpoint, Kind, Progress, RoundState, RunState, Said
from curation.errors import Conflict, LayerloopError, Refused
from curation.house import House, load, open_exchange
from curation.ports import LayerGenerator, Report
from curation.review import decisions, reviewers
from curation.review.trays import Card
from curation.rounds import find_round
from curation.screening import pair_oracle, refusals, selection
from curation.screening.oracle import Oracle, fit_to_snapshot
from curation.tables import candidates, caption_runs, rounds, training_runs

log = logging.getLogger("layerloop.jobs")

DRAW_AT_ONCE = 16
SCREEN_AT_ONCE = 64
DECIDE_AT_ONCE = 16
HOLDER = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
"""Who this process is in the leases; a restarted worker is somebody else."""


class Stopped(Exception):
    """The worker was asked to stop; what is half done is handed back and taken up again later."""


stopping = threading.Event()
"""Set when this worker should end: long jobs look at it between two steps."""


def draw(house: House, number: int, chain: int = 0) -> None:
    """Draw one batch of a round and ask for the next; several chains let several workers share a round."""
    seconds = house.settings.lease_seconds
    with house.database.transaction() as tx:
        claimed = drawing.claim_requested(tx, number, HOLDER, DRAW_AT_ONCE, seconds)
        checkpoint = _checkpoint_of(tx, number) if claimed else None
    if checkpoint is None:
        return
    try:
        with _lease_kept(house, "draw"):
            kept = drawing.draw_claimed(house.database, house.store, _generator(house, checkpoint), claimed, HOLDER)
        log.info("round %d: drew %d, kept %d", number, len(claimed), kept)
    except Exception as error:
        log.exception("round %d: drawing failed", number)
        with house.database.transaction() as tx:
            drawing.give_back(tx, claimed, HOLDER, f"{type(error).__name__}: {error}")
    with house.database.transaction() as tx:
        tx.ask("draw", number, chain)


def screen(house: House, number: int) -> None:
    """Measure a batch of drawn candidates, refuse or pass each, and put before people what the policy chooses."""
    with house.database.transaction() as tx:
        drawn = (candidates.c.round_id == number) & (candidates.c.state == CandidateState.drawn)
        picked = sa.select(candidates.c.id).where(drawn).order_by(candidates.c.id).limit(SCREEN_AT_ONCE)
        measured = refusals.measure_candidates(tx, house.store, [row.id for row in tx.execute(picked)])
    with house.database.transaction() as tx:
        if refusals.keep_screenings(tx, measured):
            tx.ask("screen", number)
        selection.select_candidates(tx, number)


def train(house: House, run: str, tell: Report | None = None) -> None:
    """Train what a run was ordered to, resuming where it was left, and register the checkpoint."""
    run_id = uuid.UUID(run)
    seconds = house.settings.lease_seconds
    with house.database.transaction() as tx:
        order = checkpoints.claim_run(tx, run_id, HOLDER, seconds)
    if order is None:
        return

    def report(progress: Progress) -> None:
        if stopping.is_set():
            raise Stopped
        with house.database.transaction() as tx:
            checkpoints.note_progress(tx, run_id, HOLDER, progress, seconds)
        if tell is not None:
            tell(progress)

    try:
        folder = house.settings.path(f"runs/{run}")
        with _lease_kept(house, "train"):
            made = load(house.settings.trainer)(order, house.store, folder, report)
        with house.database.transaction() as tx:
            checkpoints.finish_run(tx, run_id, HOLDER, made)
    except Stopped:
        with house.database.transaction() as tx:
            leases.hand_back(tx, HOLDER)
    except Conflict:
        log.warning("run %s was taken over by another worker", run)
    except Exception as error:
        log.exception("run %s failed", run)
        with house.database.transaction() as tx:
            hint = f" ({error.hint})" if isinstance(error, LayerloopError) and error.hint else ""
            checkpoints.fail_run(tx, run_id, HOLDER, f"{type(error).__name__}: {error}{hint}")


def caption(house: House, run: str, tell: Report | None = None) -> None:
    """Let a model caption what a run was ordered for, going on where it was left."""
    run_id = uuid.UUID(run)
    seconds = house.settings.lease_seconds
    with house.database.transaction() as tx:
        order = captions.claim_run(tx, run_id, HOLDER, seconds)
    if order is None:
        return

    def held(tx: Transaction) -> None:
        captions.hold(tx, run_id, HOLDER, seconds)

    def report(progress: Progress) -> None:
        if stopping.is_set():
            raise Stopped
        with house.database.transaction() as tx:
            held(tx)
            captions.note_progress(tx, run_id, progress)
        if tell is not None:
            tell(progress)

    try:
        with _lease_kept(house, "caption"):
            _loaded.clear()  # a checkpoint and this model would not fit on one card
            captioner = load(house.settings.captioner)(order.model)
            captions.caption_samples(house.database, house.store, captioner, order, held, report)
        with house.database.transaction() as tx:
            held(tx)
            captions.end_run(tx, run_id)
    except Stopped:
        with house.database.transaction() as tx:
            leases.hand_back(tx, HOLDER)
    except Conflict:
        log.warning("captions %s were taken over by another worker", run)
    except Exception as error:
        log.exception("captions %s failed", run)
        with house.database.transaction() as tx:
            captions.end_run(tx, run_id, f"{type(error).__name__}: {error}")


def decide(house: House, number: int) -> None:
    """Let the oracle reviewer decide a tray of a round, and ask for the next while there is one."""
    judge = _oracle(house, number)
    if house.settings.desk != "pages":
        _decide_there(house, number, lambda card: pair_oracle.judge_card(judge, house.store, card))
        return
    with house.database.transaction() as tx:
        reviewer = reviewers.oracle_reviewer(tx)
        cards = decisions.take_tray(tx, reviewer, number, DECIDE_AT_ONCE, (), house.settings.lease_seconds)
    verdicts = [(card, pair_oracle.judge_card(judge, house.store, card)) for card in cards]
    with house.database.transaction() as tx:
        for card, said in verdicts:
            decisions.decide_by_oracle(tx, reviewer, card, said)
        if cards:
            tx.ask("decide", number)


def _decide_there(house: House, number: int, judge: Callable[[Card], Said]) -> None:
    def decide_there(exchange: Exchange) -> None:
        if oracle.decide_there(exchange, number, judge, DECIDE_AT_ONCE):
            with house.database.transaction() as tx:
                tx.ask("decide", number)

    _at_desk(house, decide_there)


def put_up(house: House, number: int) -> None:
    """Bring a round's boards at the desk of other software up to date: one batch up, what is over down."""
    _at_desk(house, lambda exchange: exchange.put_up(number))


def collect(house: House) -> None:
    """Bring home what was said at the desk of other software."""
    _at_desk(house, lambda exchange: exchange.collect())


def _at_desk(house: House, work: Callable[[Exchange], object]) -> None:
    """Speak with the desk, if there is one. That it is away is told once; the sweep asks again for all that stands."""
    try:
        with open_exchange(house, HOLDER) as exchange:
            if exchange is not None:
                work(exchange)
        _told.clear()
    except LayerloopError as error:
        if error.message not in _told:
            log.warning("%s (%s)", error.message, error.hint)
        _told.add(error.message)


def sweep(house: House) -> None:
    """Hand back what lost its lease, and ask again for all that waits: whatever the queue lost is found here."""
    with house.database.transaction() as tx:
        leases.sweep(tx)
        for number in _rounds_with(tx, CandidateState.requested, but_no=CandidateState.drawing):
            tx.ask("draw", number)
        for number in _rounds_with(tx, CandidateState.drawn):
            tx.ask("screen", number)
        for row in tx.execute(sa.select(training_runs.c.id).where(training_runs.c.state == RunState.requested)):
            tx.ask("train", str(row.id))
        for row in tx.execute(sa.select(caption_runs.c.id).where(caption_runs.c.state == RunState.requested)):
            tx.ask("caption", str(row.id))
        if house.settings.desk != "pages":
            _ask_for_desk(tx, house.settings.desk.partition("+")[2].rstrip("/"))


def _ask_for_desk(tx: Transaction, desk: str) -> None:
    """Ask for what is to go up and down there, and for what may have been said there since the last time."""
    for number in boards.rounds_to_serve(tx, desk):
        tx.ask("put_up", number)
    if boards.open_boards(tx, desk):
        tx.ask("collect")


def _rounds_with(tx: Transaction, state: CandidateState, but_no: CandidateState | None = None) -> list[int]:
    """Open rounds with a candidate in one state, and none in another: a round that moves needs no nudge."""

    def some(one: CandidateState) -> sa.ColumnElement[bool]:
        return sa.exists().where(candidates.c.round_id == rounds.c.id, candidates.c.state == one)

    standing = sa.select(rounds.c.id).where(rounds.c.state == RoundState.open, some(state))
    if but_no is not None:
        standing = standing.where(~some(but_no))
    return [row.id for row in tx.execute(standing)]


JOBS: dict[str, Callable[..., None]] = {
    "draw": draw, "screen": screen, "train": train, "caption": caption, "decide": decide, "sweep": sweep,
    "put_up": put_up, "collect": collect,
}  # fmt: skip
_loaded: dict[str, LayerGenerator] = {}
_told: set[str] = set()
_fitted: dict[tuple[Kind, str], Oracle | pair_oracle.PairOracle] = {}


def _generator(house: House, checkpoint: Checkpoint) -> LayerGenerator:
    """The checkpoint, loaded once and kept until another one draws: two would not fit on one card."""
    if checkpoint.id not in _loaded:
        _loaded.clear()
        _loaded[checkpoint.id] = load(house.settings.generator)(checkpoint, house.store)
    return _loaded[checkpoint.id]


def _oracle(house: House, number: int) -> Oracle | pair_oracle.PairOracle:
    """The oracle for a round's kind, fitted to the seeds in the snapshot that its checkpoint was trained on."""
    with house.database.transaction() as tx:
        snapshot = _checkpoint_of(tx, number).snapshot
        kind = Kind(find_round(tx, number)["kind"])
    if snapshot is None:
        told = "the oracle learns from the snapshot of a training, and imported weights have none"
        raise Refused(told, "let people decide")
    if (kind, snapshot) not in _fitted:
        _fitted.clear()
        fit = pair_oracle.fit_pairs_to_snapshot if kind is Kind.pair else fit_to_snapshot
        _fitted[kind, snapshot] = fit(house.store, snapshot)
    return _fitted[kind, snapshot]


def _checkpoint_of(tx: Transaction, number: int) -> Checkpoint:
    name = tx.scalar(sa.select(rounds.c.checkpoint_id).where(rounds.c.id == number))
    return checkpoints.find_checkpoint(tx, str(name))


@contextmanager
def _lease_kept(house: House, purpose: str) -> Iterator[None]:
    """Renew this process's leases in the background while work goes on with no transaction open."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(house.settings.lease_seconds / 3):
            try:
                with house.database.transaction() as tx:
                    leases.renew(tx, HOLDER, purpose, house.settings.lease_seconds)
            except Exception:
                log.exception("a lease could not be renewed")

    thread = threading.Thread(target=renew, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
