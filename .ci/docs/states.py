"""The states of candidates as a drawing and tables, from the enumeration and STATE_TRANSITIONS."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from markdown import code, sentence, table

ROOT = Path(__file__).resolve().parents[2]
SPOTS = {
    "requested": (0, 1), "generating": (1, 1), "generated": (2, 1), "screened": (3, 1),
    "waiting": (4, 1), "showing": (5, 1), "failed": (1.5, 2), "refused": (3, 2),
    "unshown": (3.5, 0), "accepted": (6, 0.4), "rejected": (6, 1.6), "withdrawn": (5, 2.4),
    "removed": (6, 2.4),
}  # fmt: skip
"""Column and row of each state in the drawing."""
ENDS = {"accepted", "rejected", "refused", "withdrawn", "removed"}
BOX_WIDTH, BOX_HEIGHT, LEFT, TOP, COLUMN_WIDTH, ROW_HEIGHT = 104, 36, 12, 18, 140, 92


def states_svg() -> str:
    """Return the drawing, without the many transitions to `withdrawn` and `removed`."""
    from curation.domain import STATE_TRANSITIONS, CandidateState

    missing = [state for state in CandidateState if state.value not in SPOTS]
    if missing:
        raise SystemExit(f"error: .ci/docs/states.py has no place for the state {missing[0].value}")
    left_out = {"withdrawn", "removed"}
    pairs = {
        (source.value, target.value)
        for source, target in STATE_TRANSITIONS
        if target.value not in left_out
    }
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 970 320" role="img"',
        '  font-family="sans-serif" font-size="14">',
        "<title>States of a candidate and their transitions</title>",
        '<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8"',
        '  markerHeight="8" orient="auto-start-reverse">',
        '<path d="M0 0 8 4 0 8z" fill="#557"/></marker></defs>',
        '<rect width="970" height="320" fill="#fff"/>',
    ]
    for source, target in sorted(pairs):
        if (target, source) in pairs and (target, source) < (source, target):
            continue  # drawn once, with two heads
        lines.append(_arrow(source, target, both=(target, source) in pairs))
    lines += [_box(state.value) for state in CandidateState]
    return "\n".join([*lines, "</svg>"])


def states_part() -> str:
    """Return the table of states with their comments, and that of transitions."""
    from curation.domain import STATE_TRANSITIONS, CandidateState

    comments = _comments()
    states = table(
        ["state", "meaning", "next states"],
        (
            [
                code(state.value),
                sentence(comments.get(state.value, "")) or sentence(state.value),
                ", ".join(
                    code(other.value)
                    for other in CandidateState
                    if (state, other) in STATE_TRANSITIONS
                ),
            ]
            for state in CandidateState
        ),
    )
    return f"{len(STATE_TRANSITIONS)} transitions between {len(CandidateState)} states:\n\n{states}"


def _comments() -> dict[str, str]:
    """Return the comments behind the members of CandidateState."""
    source = (ROOT / "curation" / "domain.py").read_text("utf-8")
    node = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "CandidateState"
    )
    body = "\n".join(source.splitlines()[node.lineno : node.end_lineno])
    return {name: text.strip() for name, text in re.findall(r"= \"(\w+)\"\s*#\s*(.*)", body)}


def _spot(state: str) -> tuple[float, float]:
    column, row = SPOTS[state]
    return LEFT + column * COLUMN_WIDTH + BOX_WIDTH / 2, TOP + row * ROW_HEIGHT + BOX_HEIGHT / 2


def _box(state: str) -> str:
    x, y = _spot(state)
    fill = "#d9f0ea" if state == "accepted" else "#f6dcd8" if state in ENDS else "#eef1f8"
    return (
        f'<rect x="{x - BOX_WIDTH / 2:g}" y="{y - BOX_HEIGHT / 2:g}" '
        f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" '
        f'rx="8" fill="{fill}" stroke="#557"/>'
        f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle" fill="#123">{state}</text>'
    )


def _arrow(source: str, target: str, *, both: bool) -> str:
    """Return an arrow between the borders of two boxes."""
    (x1, y1), (x2, y2) = _spot(source), _spot(target)
    dx, dy = x2 - x1, y2 - y1
    part = min(BOX_WIDTH / 2 / abs(dx) if dx else 9, BOX_HEIGHT / 2 / abs(dy) if dy else 9)
    far = abs(dx) > 1.6 * COLUMN_WIDTH  # bends around the boxes between
    start, end = (x1 + dx * part, y1 + dy * part), (x2 - dx * part, y2 - dy * part)
    heads = 'marker-end="url(#to)"' + (' marker-start="url(#to)"' if both else "")
    if far:
        up = -1 if target != "rejected" and y2 <= y1 else 1
        middle = ((x1 + x2) / 2, (y1 + y2) / 2 + up * 46)
        start = (x1 + BOX_WIDTH / 4, y1 + up * BOX_HEIGHT / 2)
        return (
            f'<path d="M{start[0]:g} {start[1]:g} Q{middle[0]:g} {middle[1]:g} '
            f'{end[0]:g} {end[1]:g}" fill="none" stroke="#557" stroke-opacity="0.55" {heads}/>'
        )
    line = f"M{start[0]:g} {start[1]:g} L{end[0]:g} {end[1]:g}"
    return f'<path d="{line}" fill="none" stroke="#557" {heads}/>'
