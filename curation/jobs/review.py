"""Jobs that decide and that carry decisions: the oracle, consensus, and the desk of other software."""

from __future__ import annotations

import logging
import re
import uuid
from collections import Counter
from collections.abc import Callable

from curation.domain import ReviewItem, RuleVerdict
from curation.errors import LayerloopError
from curation.jobs.lease_heartbeat import HOLDER
from curation.jobs.model_cache import oracle_of
from curation.labeling import projects, rule_annotator
from curation.labeling.sync import LabelingSync
from curation.quality import aggregation
from curation.review import decisions, reviewers
from curation.runtime.context import AppContext, open_labeling_sync
from curation.screening.pairs import rule_reviewer

log = logging.getLogger("layerloop.jobs")

DECIDE_AT_ONCE = 16

_DIGITS = re.compile(r"[0-9a-f-]{32,36}|\d+")

_failures: Counter[str] = Counter()
_read_whole: set[str] = set()


def decide(context: AppContext, number: int) -> None:
    """Let the oracle reviewer decide a tray of a round, and ask for the next while there is one."""
    judge = oracle_of(context, number)
    with context.database.transaction() as tx:
        there = context.settings.other_desk is not None and projects.is_served(tx, number)
    if there:
        _decide_there(
            context, number, lambda card: rule_reviewer.judge_card(judge, context.store, card)
        )
        return
    with context.database.transaction() as tx:
        reviewer = reviewers.oracle_reviewer(tx)
        cards = decisions.claim_items(
            tx, reviewer, number, DECIDE_AT_ONCE, (), context.settings.lease_seconds
        )
    verdicts = [(card, rule_reviewer.judge_card(judge, context.store, card)) for card in cards]
    with context.database.transaction() as tx:
        for card, said in verdicts:
            decisions.decide_by_oracle(tx, reviewer, card, said)
        if cards:
            tx.ask("decide", number)


def aggregate(context: AppContext, number: int) -> None:
    """Learn the skills of a round's reviewers anew, and settle what that makes sure."""
    with context.database.transaction() as tx:
        settled = aggregation.resolve_waiting(tx, number)
    log.info("round %d: %d candidates became sure", number, settled)


def _decide_there(
    context: AppContext, number: int, judge: Callable[[ReviewItem], RuleVerdict]
) -> None:
    def decide_there(exchange: LabelingSync) -> None:
        if rule_annotator.decide_there(exchange, number, judge, DECIDE_AT_ONCE):
            with context.database.transaction() as tx:
                tx.ask("decide", number)

    _at_desk(context, decide_there)


def put_up(context: AppContext, number: int) -> None:
    """Bring a round's boards at the desk of other software up to date: one batch up, what is over down."""
    _at_desk(context, lambda exchange: exchange.put_up(number))


def collect(context: AppContext, board: str | None = None) -> None:
    """Bring home what was said on one board at the desk of other software; without one, ask for that of all.

    The first time in a process a board is read whole: what changed tells nothing of an instance that moved, nor of all
    that may have been done to either side while no worker ran.
    """
    where = f"{context.settings.desk} {context.settings.public_address} {context.settings.database}"
    if board is None:
        _ask_for_all(context, where)
        return

    def bring_home(exchange: LabelingSync) -> None:
        with context.database.transaction() as tx:
            found = projects.board_of(tx, uuid.UUID(board))
        if found is not None:
            exchange.collect_board(found, everything=f"{where} {board}" not in _read_whole)
            _read_whole.add(f"{where} {board}")

    _at_desk(context, bring_home)


def _ask_for_all(context: AppContext, where: str) -> None:
    """Ask for every board that is open, and the first time in a process for those that are closed too."""
    desk = context.settings.other_desk
    if desk is None:
        return
    with context.database.transaction() as tx:
        find = projects.open_boards if where in _read_whole else projects.made_boards
        for board in find(tx, desk):
            tx.ask("collect", str(board.id))
    _read_whole.add(where)


def _at_desk(context: AppContext, work: Callable[[LabelingSync], object]) -> None:
    """Speak with the desk, if there is one; the sweep asks again for all that stands.

    A desk that is away is logged once, and once more when it is back, with a count.
    """
    try:
        with open_labeling_sync(context, HOLDER) as exchange:
            if exchange is not None:
                work(exchange)
    except LayerloopError as error:
        known = _DIGITS.sub("", error.message)  # the same error has other ids each time
        if known not in _failures:
            log.warning("%s (%s)", error.message, error.hint)
        _failures[known] += 1
    else:
        if _failures:
            log.info("the desk answers again, after %d tries that failed", sum(_failures.values()))
        _failures.clear()
