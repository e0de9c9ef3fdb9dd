"""Hash buckets: reproducible random numbers in [0, 1) from a candidate's id, which is a hash."""

from __future__ import annotations

from typing import Final


def hash_bucket(first_digit: int) -> str:
    """Return SQL for a number in [0, 1) from 28 bits of the id of row c.

    Args:
        first_digit: The first hexadecimal digit used (1..26).
    """
    return (
        f"('x' || substr(replace(c.id::text, '-', ''), {first_digit}, 7))::bit(28)::int / "
        "268435456.0"
    )


# Each uses different digits, so that the numbers are independent.
SLICE_BUCKET: Final = hash_bucket(1)
"""Selects the random slice."""
HOLDOUT_BUCKET: Final = hash_bucket(9)
"""Selects the half of the random slice that proves gates."""
AUDIT_BUCKET: Final = hash_bucket(17)
"""Selects the candidates that people review of those a gate would decide."""
