"""Label Studio results: parsed from an annotation, and built for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from curation.adapters.label_studio_view import VIEWS, control_name
from curation.domain import LayerRole, RejectReason, Verdict

VIEW_CONTROLS: Final = frozenset(f"view_{name}" for name in VIEWS)
"""Controls that only change the view and do not belong to the annotation."""


def parse_result(result: Any) -> dict[str, Any]:
    """Parse an annotation's result.

    Label Studio accepts any JSON as a result, so its structure is checked completely.

    Args:
        result: The result, as JSON.

    Returns:
        The fields verdict, reasons, layers and comment of an Annotation; or its `error`.
    """
    verdict = None
    comment = ""
    concerns: list[tuple[RejectReason, LayerRole | None]] = []
    groups = {control_name(layer): layer for layer in (None, *LayerRole)}
    for item in result if isinstance(result, list) else [result]:
        # Each item is the value of one control.
        if isinstance(item, Mapping):
            control = str(item.get("from_name"))
            value = item.get("value")
        else:
            control = ""
            value = item
        if control in VIEW_CONTROLS:
            continue
        chosen = _strings(value, "choices")
        text = _strings(value, "text")
        if control == "comment" and text is not None:
            comment = "\n".join(text).replace("\0", "")[:2_000]
        elif control == "verdict" and chosen in (["accept"], ["reject"]):
            verdict = Verdict(chosen[0])
        elif control in groups and chosen and set(chosen) <= set(RejectReason):
            concerns += [(RejectReason(reason), groups[control]) for reason in chosen]
        else:
            return {"error": f"the control {control!r} has the unknown value {str(value)[:100]!r}"}
    if verdict is None:
        return {"error": "it has neither accept nor reject"}
    # Reasons are hidden after accept, but stay in the result if reject was chosen first.
    if verdict is Verdict.accept:
        concerns = []
    return {
        "verdict": verdict,
        "reasons": [reason for reason, _ in concerns],
        "layers": [layer for _, layer in concerns if layer is not None],
        "comment": comment,
    }


def _strings(value: Any, name: str) -> list[str] | None:
    """Return the list of strings under a name; None if there is none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(found, list) and all(isinstance(text, str) for text in found):
        return found
    return None


def build_result(
    verdict: Verdict,
    reasons: Sequence[RejectReason] = (),
    layers: Sequence[LayerRole] = (),
    comment: str = "",
) -> list[dict[str, Any]]:
    """Return an annotation's result with these values; the inverse of `parse_result`.

    Args:
        verdict: Accept or reject.
        reasons: Reasons of a reject.
        layers: For a pair, the layer that each reason concerns.
        comment: A comment, if any.
    """
    result = [_item("verdict", "choices", {"choices": [str(verdict)]})]
    by_layer: dict[LayerRole | None, list[str]] = {}
    for index, reason in enumerate(reasons):
        by_layer.setdefault(layers[index] if layers else None, []).append(str(reason))
    result += [
        _item(control_name(layer), "choices", {"choices": listed})
        for layer, listed in by_layer.items()
    ]
    return result + ([_item("comment", "textarea", {"text": [comment]})] if comment else [])


def _item(control: str, kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {"from_name": control, "to_name": "candidate", "type": kind, "value": value}
