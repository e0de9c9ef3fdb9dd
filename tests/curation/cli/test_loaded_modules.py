"""Commands load only the modules that they need, since loading others takes longer than most commands."""

from __future__ import annotations

import subprocess
import sys

LISTING = "curation.cli.main, curation.runtime.context, curation.rounds.lifecycle"
HEAVY = (
    "numpy",
    "scipy",
    "PIL",
    "celery",
    "kombu",
    "alembic",
    "psycopg",
    "boto3",
    "fastapi",
    "torch",
)


def test_a_listing_command_loads_nothing_heavy() -> None:
    program = f"import sys, {LISTING}; print(*sorted(sys.modules.keys() & {set(HEAVY)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.stdout == "\n", done.stdout + done.stderr
