"""TypeScript checks the JavaScript of the pages in strict mode, from its JSDoc types."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.servers import missing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tsc() -> Path:
    """Return the TypeScript compiler of package-lock.json, installed if missing."""
    checker = ROOT / "node_modules" / ".bin" / "tsc"
    if not checker.exists():
        npm = shutil.which("npm")
        if npm is None:
            missing("npm", "apt-get install npm")
        command = [str(npm), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
        )
        if done.returncode:
            missing("TypeScript's checker", f"npm ci ({done.stderr.strip().splitlines()[-1:]})")
    return checker


@pytest.mark.slow
def test_type_check(tsc: Path) -> None:
    command = [str(tsc), "--project", str(ROOT / "jsconfig.json"), "--pretty", "false"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout


def test_the_type_checker_is_strict_and_the_only_package() -> None:
    options = json.loads((ROOT / "jsconfig.json").read_text())["compilerOptions"]
    assert options["checkJs"]
    assert options["strict"]
    package = json.loads((ROOT / "package.json").read_text())
    assert "dependencies" not in package, "the pages have no runtime dependencies"
    assert list(package["devDependencies"]) == ["typescript"]
    assert "resolved" not in (ROOT / "package-lock.json").read_text(), (
        "the lock file contains no registry URL"
    )
