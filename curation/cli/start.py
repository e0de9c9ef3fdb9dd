"""The console entry point; Ctrl-C ends it quietly even while the command line is still imported."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130


def run() -> None:
    """Import the command line and run it; this module itself imports only the standard library."""
    # Where SIGINT is ignored, as for background jobs of a script, it stays ignored.
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default:
        signal.signal(signal.SIGINT, _leave)
    from curation.cli.main import run as run_command

    try:
        if is_default:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run_command()
    except KeyboardInterrupt:  # before `run_command` was ready for it
        raise SystemExit(INTERRUPTED) from None


def _leave(_number: int, _frame: FrameType | None) -> None:
    """End the process at once."""
    # Nothing is open yet, and a half-imported module could swallow or replace an exception.
    os.write(2, b"stopped\n")
    os._exit(INTERRUPTED)
