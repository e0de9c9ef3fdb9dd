"""Jobs that decide and that carry decisions: the oracle, consensus, and the desk of other software."""

from __future__ import annotations

import logging
from collections.abc import Callable

from curation.desk import oracle
from curation.desk.exchange import Exchange
from curation.domain import Said
from curation.errors import LayerloopError
from curation.house import House, open_exchange
from curation.jobs.holding import HOLDER
from curation.jobs.loaded import oracle_of
from curation.review import aggregation, decisions, reviewers
from curation.review.trays import Card
from curation.screening import pair_oracle

log = logging.getLogger("layerloop.jobs")

DECIDE_AT_ONCE = 16

_told: set[str] = set()
_read_whole: set[str] = set()


def decide(house: House, number: int) -> None:
    """Let the oracle reviewer decide a tray of a round, and ask for the next while there is one."""
    judge = oracle_of(house, number)
    if house.settings.other_desk is not None:
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


def aggregate(house: House, number: int) -> None:
    """Learn the skills of a round's reviewers anew, and settle what that makes sure."""
    with house.database.transaction() as tx:
        settled = aggregation.resolve_waiting(tx, number)
    log.info("round %d: %d candidates became sure", number, settled)


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
    """Bring home what was said at the desk of other software.

    The first time in a process everything is read: what changed is no trace of a house that has moved, nor of all that
    may have been done to either side while no worker ran.
    """
    between = f"{house.settings.desk} {house.settings.public_address} {house.settings.database}"

    def bring_home(exchange: Exchange) -> None:
        exchange.collect(everything=between not in _read_whole)
        _read_whole.add(between)

    _at_desk(house, bring_home)


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
