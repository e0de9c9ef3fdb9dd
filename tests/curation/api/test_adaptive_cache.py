"""Expensive values are cached for a hundred times the time that they take, cheap ones never."""

from __future__ import annotations

from curation.api.adaptive_cache import AdaptiveCache


class Clock:
    """A clock that moves when a computation takes time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.computed = 0

    def __call__(self) -> float:
        return self.now

    def compute(self, seconds: float) -> int:
        self.now += seconds
        self.computed += 1
        return self.computed


def test_cheap_values_are_computed_each_time():
    clock = Clock()
    kept: AdaptiveCache[int] = AdaptiveCache(cheap=0.003, clock=clock)
    assert [kept.get("a", lambda: clock.compute(0.002)) for _ in range(3)] == [1, 2, 3]


def test_expensive_values_are_cached_a_hundred_times_as_long_as_they_take():
    clock = Clock()
    kept: AdaptiveCache[int] = AdaptiveCache(cheap=0.003, clock=clock)

    def dear() -> int:
        return clock.compute(0.1)

    assert kept.get("a", dear) == 1
    clock.now += 9.9
    assert kept.get("a", dear) == 1
    assert kept.get("b", dear) == 2
    clock.now += 0.2
    assert kept.get("a", dear) == 3


def test_the_cache_is_bounded():
    clock = Clock()
    kept: AdaptiveCache[int] = AdaptiveCache(cheap=0.0, clock=clock)
    for key in range(kept.MOST + 50):
        kept.get(key, lambda: clock.compute(1.0))
    assert len(kept._entries) == kept.MOST
