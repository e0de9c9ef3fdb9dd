"""The rule reviewer in Label Studio: it submits annotations there as a person does."""

from __future__ import annotations

from collections.abc import Callable

from curation.domain import ReviewItem, RuleVerdict, content_id
from curation.labeling import projects, tasks, users
from curation.labeling.sync import LabelingSync
from curation.review.queue import read_cards
from curation.review.reviewers import oracle_reviewer


def decide_there(
    exchange: LabelingSync, number: int, judge: Callable[[ReviewItem], RuleVerdict], count: int
) -> bool:
    """Answer up to `count` postings of a round that nobody has answered, and collect; whether anything came home.

    What is answered twice, because its answer was not collected in between, has one key and is one answer. Raises
    Unreachable.
    """
    with exchange.database.transaction() as tx:
        users.match(tx, users.ORACLE, oracle_reviewer(tx))
        standing = projects.open_boards(tx, exchange.desk.address, number)
        open_ = {
            one: there
            for board in standing
            for one, there in tasks.unanswered(tx, board, count).items()
        }
        cards = read_cards(tx, list(open_)[:count])
    for card in cards:
        posting, there = open_[card.id]
        exchange.desk.answer(there, users.ORACLE, content_id("oracle", posting), judge(card))
    return bool(exchange.collect(number))
