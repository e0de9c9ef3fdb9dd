"""The console entry point: Ctrl-C ends it quietly also while the command line is imported, which takes a second."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130


def run() -> None:
    """Import the command line and run it. Only what is cheap to import stands in this module."""
    # Where SIGINT is ignored, as of jobs in the background of a script, it stays so.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _leave)
    from curation.cli.main import run as run_command

    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run_command()
    except KeyboardInterrupt:  # before `run_command` was ready for it
        raise SystemExit(INTERRUPTED) from None


def _leave(_number: int, _frame: FrameType | None) -> None:
    """End at once: nothing is open yet, and an exception may be swallowed or renamed by a module half imported."""
    os.write(2, b"stopped\n")
    os._exit(INTERRUPTED)
