"""Work in threads: in order or as it completes, a bounded number ahead, and stopped by an error."""

from __future__ import annotations

import threading

import pytest

from curation.exports.parallel import WINDOW, in_parallel

ITEMS = range(100)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("ordered", [True, False])
def test_each_item_is_done_once(workers: int, ordered: bool) -> None:
    found = list(in_parallel(lambda item: item * item, ITEMS, workers, ordered=ordered))
    assert sorted(found) == [item * item for item in ITEMS]
    assert found == sorted(found) or not ordered


def test_results_come_in_order_though_a_first_one_takes_longest() -> None:
    released = threading.Event()

    def work(item: int) -> int:
        if item:
            released.set()
        else:
            assert released.wait(20)
        return item

    assert list(in_parallel(work, range(6), 2, ordered=True)) == list(range(6))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_bounded_number_of_items_is_taken_ahead(ordered: bool) -> None:
    taken = []

    def items():
        for item in ITEMS:
            taken.append(item)
            yield item

    results = in_parallel(lambda item: item, items(), 2, ordered=ordered)
    for done in range(1, 11):
        next(results)
        assert len(taken) <= 2 * WINDOW + done
    results.close()
    assert len(taken) < 2 * WINDOW + 12


@pytest.mark.parametrize("ordered", [True, False])
def test_an_error_of_an_item_ends_the_work(ordered: bool) -> None:
    def work(item: int) -> int:
        if item == 5:
            raise ValueError("damaged")
        return item

    with pytest.raises(ValueError, match="damaged"):
        list(in_parallel(work, ITEMS, 2, ordered=ordered))
