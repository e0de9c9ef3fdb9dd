"""The oracle at a desk of other software: it says there what it has to say, as a person does, and it comes home so."""

from __future__ import annotations

from collections.abc import Callable

from curation.desk import boards, people, postings
from curation.desk.exchange import Exchange
from curation.domain import Said, content_id
from curation.review.reviewers import oracle_reviewer
from curation.review.trays import Card, read_cards


def decide_there(exchange: Exchange, number: int, judge: Callable[[Card], Said], count: int) -> bool:
    """Answer up to `count` postings of a round that nobody has answered, and collect; whether anything came home.

    What is answered twice, because its answer was not collected in between, has one key and is one answer. Raises
    Unreachable.
    """
    with exchange.database.transaction() as tx:
        people.match(tx, people.ORACLE, oracle_reviewer(tx))
        standing = boards.open_boards(tx, exchange.desk.address, number)
        open_ = {one: there for board in standing for one, there in postings.unanswered(tx, board, count).items()}
        cards = read_cards(tx, list(open_)[:count])
    for card in cards:
        posting, there = open_[card.id]
        exchange.desk.answer(there, people.ORACLE, content_id("oracle", posting), judge(card))
    return bool(exchange.collect(number))
