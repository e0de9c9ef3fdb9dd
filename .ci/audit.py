"""Look locked versions up among known vulnerabilities; what could not be looked up fails, as a
vulnerability does.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path


def main(files: list[str]) -> int:
    """Audit each lock; return 0 only where every package of it was looked up and none is known to
    be vulnerable.
    """
    bad = 0
    for file in files:
        wanted = {
            _plain(name): version
            for name, version in re.findall(
                r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", Path(file).read_text(), re.MULTILINE
            )
        }
        lines = "".join(f"{name}=={version}\n" for name, version in wanted.items())
        done = subprocess.run(
            [
                sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip",
                "--format", "json", "-r", "/dev/stdin",
            ],
            input=lines, capture_output=True, text=True, check=False,
        )  # fmt: skip
        try:
            rows = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError, TypeError):
            sys.stderr.write(
                f"error: {file} could not be audited: {done.stderr[-500:]}\nhint: is there a "
                "network?\n"
            )
            bad += 1
            continue
        looked_up = {_plain(row["name"]) for row in rows if "skip_reason" not in row}
        missing = sorted(set(wanted) - looked_up)
        found = [
            f"{row['name']} {row['version']}: {vulnerability['id']}"
            for row in rows
            for vulnerability in row.get("vulns", [])
        ]
        for line in [*found, *(f"{name}: could not be looked up" for name in missing)]:
            print(line)
        bad += len(found) + len(missing)
    return 1 if bad else 0


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
