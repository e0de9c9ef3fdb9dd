"""Write the lock files with the hashes of all builds, for all platforms; `make lock` calls this.

Versions that the locks name already stay, so that adding a package changes nothing else; --upgrade
takes the newest.
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
"""Packages that only builds of torch with CUDA need, gigabytes of them."""

OFF_INDEX = {
    "torch==2.13.0": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
}
"""Builds that the package index does not have: torch's for CPUs, x86_64 Linux, Python 3.11."""

HEADS = {
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
    """Resolve once without and once with Label Studio's client, and sort what comes out into the
    files.
    """
    known = "".join(file.read_text() for file in HEADS if file.exists())
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", known, re.MULTILINE))
    plain = _resolve(["server", "train", "dev"], pins)
    studio = _resolve(["server", "train", "dev", "label-studio"], pins)
    have = {_name(one) for one in plain}
    _write(MAIN, [one for one in plain if not CUDA_ONLY.match(one)])
    server = {_name(one) for one in _resolve(["server", "label-studio"], pins)}
    _write(BASE, [one for one in plain if _name(one) in server])
    _write(CUDA, [one for one in plain if CUDA_ONLY.match(one)])
    _write(STUDIO, [one for one in studio if _name(one) not in have])
    _write(DOCS, _resolve([], pins, "--group=docs"))


def _resolve(extras: list[str], pins: dict[str, str], *groups: str) -> list[str]:
    """Return one text for each package: its version, where it is wanted, and its hashes.

    With options that name dependency groups, those are resolved and the project itself is not.
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
    for known, sha256 in OFF_INDEX.items():
        packages = [
            f"{one} \\\n    --hash=sha256:{sha256}"
            if re.match(rf"{re.escape(known)}\b", one)
            else one
            for one in packages
        ]
    file.write_text(f"# {HEADS[file]}\n" + "".join(f"{one}\n" for one in packages))


if __name__ == "__main__":
    main()
