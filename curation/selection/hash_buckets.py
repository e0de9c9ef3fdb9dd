"""Coins that are a candidate's own: numbers in [0, 1) from its id, a hash, so that each falls the same every time."""

from __future__ import annotations

from typing import Final


def coin(first: int) -> str:
    """In SQL: 28 bits of the id of row c, from its hexadecimal digit `first` (1..26) on, as a number in [0, 1)."""
    return f"('x' || substr(replace(c.id::text, '-', ''), {first}, 7))::bit(28)::int / 268435456.0"


# Of digits of their own, so that none tells anything of another.
SLICE_COIN: Final = coin(1)
"""Who is in the random slice."""
JUDGING_COIN: Final = coin(9)
"""Which half of it judges."""
AUDIT_COIN: Final = coin(17)
"""Whom people look at of what a gate would decide."""
