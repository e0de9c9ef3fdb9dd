"""Bar charts of the documentation, drawn from the tables of its own pages."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROW_HEIGHT, BAR_HEIGHT, LEFT, RIGHT, WIDTH = 22, 14, 330, 70, 900


def ablation_svg() -> str:
    """Return a chart of the PSNR of each row of the ablation of the transparency recipe."""
    rows = _table(DOCS / "experiments" / "transparency.md", "| row | CPU-s | psnr |")
    return _bars(
        "PSNR in dB, preset tiny, 2,000 images",
        [(row[0], float(row[2])) for row in rows],
        10,
        "default",
    )


def reviews_svg() -> str:
    """Return a chart of how many times fewer reviews the mixed policy needs for 1,000 accepts."""
    rows = _table(DOCS / "benchmarks" / "selection.md", "| candidates | acceptable | AUC")
    values = [(f"{row[0]}; {row[1]}; {row[2]}", float(row[5])) for row in rows]
    return _bars("Times fewer reviews (case; acceptable; AUC best / fitted)", values, 0, left=480)


def _table(page: Path, header: str) -> list[list[str]]:
    """Return the cells of the table whose first line begins with `header`, without emphasis."""
    lines = page.read_text("utf-8").splitlines()
    start = next((index for index, line in enumerate(lines) if line.startswith(header)), None)
    if start is None:
        raise SystemExit(f"error: {page.name} has no table that begins with {header!r}")
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([re.sub(r"[*`]", "", cell).strip() for cell in line.strip("|").split("|")])
    return found


def _bars(
    title: str, rows: list[tuple[str, float]], minimum: float, marked: str = "", left: int = LEFT
) -> str:
    """Return horizontal bars, the row `marked` in another color; the axis begins at `minimum`."""
    maximum = max(value for _, value in rows)
    height = 40 + ROW_HEIGHT * len(rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"',
        '  font-family="sans-serif" font-size="13">',
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{left}" y="20" font-weight="bold" fill="#10302c">{title}</text>',
    ]
    for index, (name, value) in enumerate(rows):
        y = 34 + index * ROW_HEIGHT
        length = (WIDTH - left - RIGHT) * max(value - minimum, 0) / (maximum - minimum)
        color = "#0b6b5f" if name == marked else "#8fbfb7"
        lines.append(
            f'<text x="{left - 8}" y="{y + 11}" text-anchor="end" fill="#10302c">{name}</text>'
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}" fill="{color}"/>'
            f'<text x="{left + length + 6:.1f}" y="{y + 11}" fill="#10302c">{value:g}</text>'
        )
    return "\n".join([*lines, "</svg>"])
