"""Write the lock files with the hashes of all builds, for all platforms; `make lock` calls this.

Versions in the present lock files are kept, so that adding a package changes no other; --upgrade
takes the newest versions.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAIN, BASE, CUDA, STUDIO, DOCS = (
    ROOT / f"requirements{name}.lock" for name in ("", "-base", "-cuda", "-label-studio", "-docs")
)

CUDA_ONLY = re.compile(r"(nvidia|cuda|triton)(-|==)")
"""Packages that only builds of torch with CUDA need; together they have gigabytes."""

OFF_INDEX = {
    "torch==2.13.0": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
}
"""Builds that the package index does not have: torch's for CPUs, x86_64 Linux, Python 3.11."""

HEADERS = {
    MAIN: "Every package of Layerloop, its training part and its tests, "
    "with the hashes of all its builds.\n"
    "# To add a package: a range in pyproject.toml, then 'make lock'; a line 'name==version' "
    "here chooses its version.",
    BASE: "The part of requirements.lock that the API and cpu workers need, Label Studio's client "
    "included. Made by 'make lock'.",
    CUDA: "What torch needs beside requirements.lock where it is built with CUDA. "
    "Made by 'make lock'.",
    STUDIO: "What Label Studio's client needs beside requirements.lock. Made by 'make lock', "
    "installed without\n"
    "# dependencies: its converters, which nothing here calls, want an older OpenCV.",
    DOCS: "What builds the documentation, in an environment of its own (.venv-docs). "
    "Made by 'make lock'.",
}


def main() -> None:
    """Resolve without and with Label Studio's client, and write each package to its lock files."""
    locked = "".join(file.read_text() for file in HEADERS if file.exists())
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", locked, re.MULTILINE))
    plain = _resolve(["server", "train", "dev"], pins)
    studio = _resolve(["server", "train", "dev", "label-studio"], pins)
    main_names = {_name(package) for package in plain}
    _write(MAIN, [package for package in plain if not CUDA_ONLY.match(package)])
    server = {_name(package) for package in _resolve(["server", "label-studio"], pins)}
    _write(BASE, [package for package in plain if _name(package) in server])
    _write(CUDA, [package for package in plain if CUDA_ONLY.match(package)])
    _write(STUDIO, [package for package in studio if _name(package) not in main_names])
    _write(DOCS, _resolve([], pins, "--group=docs"))


def _resolve(extras: list[str], pins: dict[str, str], *groups: str) -> list[str]:
    """Return the lock entry of each package: version, environment markers and hashes.

    Where dependency groups are given, only they are resolved, without the project.
    """
    draft = ROOT / ".lock-draft.txt"
    try:
        if "--upgrade" not in sys.argv:
            draft.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        subprocess.run(
            [
                sys.executable, "-m", "uv", "pip", "compile", *(groups or ["pyproject.toml"]),
                "--universal", "--python-version=3.11", "--generate-hashes", "--no-annotate",
                "--no-header", "--no-config", "--quiet", "--output-file", draft,
                *(f"--extra={extra}" for extra in extras),
            ],
            cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return re.split(r"\n(?=\S)", draft.read_text().strip())
    finally:
        draft.unlink(missing_ok=True)


def _name(package: str) -> str:
    return package.partition("==")[0]


def _write(file: Path, packages: list[str]) -> None:
    for build, sha256 in OFF_INDEX.items():
        packages = [
            f"{package} \\\n    --hash=sha256:{sha256}"
            if re.match(rf"{re.escape(build)}\b", package)
            else package
            for package in packages
        ]
    file.write_text(f"# {HEADERS[file]}\n" + "".join(f"{package}\n" for package in packages))


if __name__ == "__main__":
    main()
