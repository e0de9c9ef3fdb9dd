"""A test file that needs no server starts without importing clients of servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "celery",
    "kombu",
    "playwright",
    "psycopg",
    "psycopg2",
    "schemathesis",
    "sqlalchemy",
    "torch",
}

PLUGIN = """
import sys

def pytest_collection_finish(session):
    print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_a_pure_file_is_collected_without_a_database_or_a_browser(tmp_path: Path) -> None:
    (tmp_path / "print_loaded.py").write_text(PLUGIN)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    # This file itself is collected: unlike others, it will not come to import more.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "print_loaded",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, str(Path(__file__))],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (loaded,) = [line for line in done.stdout.splitlines() if line.startswith("loaded:")]
    assert "conftest" in loaded.split()
    assert HEAVY & set(loaded.split()) == set()
