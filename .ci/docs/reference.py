"""Write the pages of docs/reference and the generated parts of other pages from the code.

`make reference` writes them; `--check` only compares, prints each page that differs, and then exits
with 1. A generated part of a hand-written page is between `<!-- generated: NAME -->` and
`<!-- end -->`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
for variable in [name for name in os.environ if name.startswith("LAYERLOOP_")]:
    del os.environ[variable]  # the pages show the defaults, not the settings of this environment

from cli_page import cli_page  # noqa: E402
from code_tables import (  # noqa: E402
    formats_page,
    metrics_page,
    packages_part,
    settings_page,
    signals_page,
)
from http_page import http_page  # noqa: E402
from plots import ablation_svg, reviews_svg  # noqa: E402
from presets_page import presets_page  # noqa: E402
from python_page import python_page  # noqa: E402
from states import states_part, states_svg  # noqa: E402

DOCS = ROOT / "docs"

FILES: dict[str, Callable[[], str]] = {
    "reference/cli.md": cli_page,
    "reference/settings.md": settings_page,
    "reference/presets.md": presets_page,
    "reference/metrics.md": metrics_page,
    "reference/signals.md": signals_page,
    "reference/http-api.md": http_page,
    "reference/python-api.md": python_page,
    "reference/formats.md": formats_page,
    "images/candidate-states.svg": states_svg,
    "images/ablation.svg": ablation_svg,
    "images/reviews-saved.svg": reviews_svg,
}
"""Files that are generated as a whole."""

PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("concepts/candidate-lifecycle.md", "states"): states_part,
    ("architecture/packages.md", "packages"): packages_part,
}
"""Generated parts of hand-written pages."""


def splice(text: str, name: str, part: str) -> str:
    """Replace the generated part of a page, between its two marks."""
    pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"error: the marks of the generated part {name!r} are missing")
    return pattern.sub(lambda match: match[1] + "\n" + part.strip() + "\n" + match[2], text)


def pages() -> dict[Path, str]:
    """Return every generated file with the text it should have."""
    found = {DOCS / name: make().rstrip() + "\n" for name, make in FILES.items()}
    for (name, part), make in PARTS.items():
        page = DOCS / name
        found[page] = splice(found.get(page) or page.read_text("utf-8"), part, make())
    return found


def main() -> int:
    """Write all pages, or compare them and return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="compare only; exit with 1 where a page differs"
    )
    check = parser.parse_args().check
    different = 0
    for page, text in pages().items():
        if page.exists() and page.read_text("utf-8") == text:
            continue
        different += 1
        print(("differs: " if check else "written: ") + str(page.relative_to(ROOT)))
        if not check:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, "utf-8")
    if check and different:
        print(
            "error: generated pages differ from the code\nhint: run 'make reference' and commit "
            "the result"
        )
    return int(check and different > 0)


if __name__ == "__main__":
    sys.exit(main())
