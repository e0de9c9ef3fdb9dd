"""Labeling configuration of Label Studio: what a task shows, and how its annotations are parsed."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from html import escape, unescape
from typing import Any, Final

from curation.domain import Kind, LayerRole, RejectReason, Verdict
from curation.labeling.port import Task

FRONT, BACK, WHOLE = LayerRole.foreground, LayerRole.background, LayerRole.blended

GROUNDS: Final = {
    "checker": "repeating-conic-gradient(#c8c8c8 0 25%, #fff 0 50%) 0 0/24px 24px",
    "black": "#000",
    "grey": "#808080",
    "white": "#fff",
    "alpha": "#000",
}
"""What a layer is shown on. "alpha" paints the layer itself white, so that what is seen is its opacity."""

WHOLE_SIZE: Final = "width:auto;height:auto;max-width:none;max-height:none"
SIZES: Final = {"fit": "", "1:1": WHOLE_SIZE, "2:1": f"{WHOLE_SIZE};zoom:2"}

VIEWS: Final[Mapping[str, Mapping[str, str]]] = {
    "layer": {WHOLE: "b", FRONT: "f", BACK: "g"},
    "ground": dict(zip(GROUNDS, "ckywo", strict=True)),
    "size": dict(zip(SIZES, "exd", strict=True)),
}
"""What can be switched, with its keys; the first of each is seen where nothing was chosen."""

WORDS: Final = {
    RejectReason.halo: "Fringe along the edge",
    RejectReason.residue: "Haze or remains",
    RejectReason.holes: "Holes in the subject",
    RejectReason.opaque: "Should be see-through",
    RejectReason.cropped: "Cut off at the border",
    RejectReason.malformed: "Wrong anatomy or structure",
    RejectReason.prompt_miss: "Not the prompt",
    RejectReason.duplicate: "Seen before",
    RejectReason.other: "Something else",
    RejectReason.clash: "Layers do not fit",
}

SINGLE: Final[Mapping[LayerRole | None, Sequence[RejectReason]]] = {
    None: [reason for reason in RejectReason if reason is not RejectReason.clash]
}
PAIR: Final[Mapping[LayerRole | None, Sequence[RejectReason]]] = {
    FRONT: SINGLE[None],
    BACK: [RejectReason(one) for one in ("halo", "residue", "malformed", "prompt_miss", "other")],
    WHOLE: [RejectReason(one) for one in ("prompt_miss", "duplicate", "other", "clash")],
}
SWITCHES: Final = frozenset(f"view_{name}" for name in VIEWS)
"""Controls that say nothing of the candidate."""

CHORD: Final = {None: "", FRONT: "", BACK: "shift+", WHOLE: "alt+"}
"""What is held with a number key, by the layer that a reason concerns."""


INSTRUCTION: Final = f"""<p><b>Accept</b> (A) a layer that shows its prompt, is cut out cleanly and has nothing
in it that it should not have. <b>Reject</b> (R) any other, and say why: several reasons may be chosen. Skip what you
cannot judge; somebody else gets it.</p>
<ul>{"".join(f"<li>{words}</li>" for words in WORDS.values())}</ul>
<p>C, K, Y, W and O change what is behind the layer, E, X and D its size; of pairs F, G and B the layer that is shown.
A task whose note says that an answer was not counted has been decided elsewhere, or its answer could not be read.</p>
"""
"""What Label Studio shows to whoever starts to label."""


def board_class(board: uuid.UUID) -> str:
    """The style class that marks a board's configuration, so that its project is found whatever it is called."""
    return f"ll-board-{board}"


def configuration(kind: Kind, board: uuid.UUID | None = None) -> str:
    """The labeling configuration of a board: the candidate at the left, what is said of it at the right."""
    mark = f" {board_class(board)}" if board is not None else ""
    groups = PAIR if kind is Kind.pair else SINGLE
    reasons = "\n".join(_reasons(layer, listed) for layer, listed in groups.items())
    views = "\n".join(
        _view(name, keys) for name, keys in VIEWS.items() if name != "layer" or kind is Kind.pair
    )
    return f"""<View className="ll-page{mark}">
  <Style>{_style()}</Style>
  <View className="ll-candidate">
    <View className="ll-views">
{views}
    </View>
    <HyperText name="candidate" value="$look" inline="true"/>
  </View>
  <View className="ll-say">
    <Choices name="verdict" toName="candidate" choice="single-radio" required="true" requiredMessage="accept or reject">
      <Choice alias="accept" value="Accept" hotkey="a"/>
      <Choice alias="reject" value="Reject" hotkey="r"/>
    </Choices>
    <View visibleWhen="choice-selected" whenTagName="verdict" whenChoiceValue="Reject">
{reasons}
    </View>
    <Header value="Comment" size="6"/>
    <TextArea name="comment" toName="candidate" rows="1" editable="true" placeholder="Enter keeps it"/>
  </View>
</View>
"""


def look(posting: Task) -> str:
    """The HTML of one candidate. Every text is escaped; the style sheet of its board changes what is seen of it."""
    shown = [role for role in (WHOLE, FRONT, BACK) if role in posting.layers]
    texts = [(str(role), posting.texts[role]) for role in (FRONT, BACK) if role in posting.texts]
    told = "".join(f"<p class='ll-text'><b>{name}</b> {escape(text)}</p>" for name, text in texts)
    images = "".join(
        f'<img class="ll-{role}" alt="{role}" src="{escape(posting.layers[role])}">'
        for role in shown
    )
    note = f'<p class="ll-note">{escape(posting.note)}</p>' if posting.note else ""
    return (
        f'<div class="ll ll-{"pair" if len(shown) > 1 else "single"}">{note}'
        f'<p class="ll-prompt">{escape(posting.prompt)}</p>{told}'
        f'<div class="ll-stage">{images}</div></div>'
    )


def shown(page: str) -> dict[LayerRole, str]:
    """The addresses of the layers on a page that `look` made."""
    return {LayerRole(role): unescape(address) for role, address in _IMAGE.findall(page)}


def read_result(result: Any) -> dict[str, Any]:
    """The verdict, reasons, layers and comment of an annotation's result, as fields of an Answer; or its `fault`.

    Label Studio takes any JSON for a result, so nothing is believed of its form.
    """
    verdict, comment = None, ""
    said: list[tuple[RejectReason, LayerRole | None]] = []
    groups = {_control(layer): layer for layer in (None, *LayerRole)}
    for item in result if isinstance(result, list) else [result]:
        control, value = (
            (str(item.get("from_name")), item.get("value"))
            if isinstance(item, Mapping)
            else ("", item)
        )
        if control in SWITCHES:
            continue  # how it was looked at last
        chosen, text = _strings(value, "choices"), _strings(value, "text")
        if control == "comment" and text is not None:
            comment = "\n".join(text).replace("\0", "")[:2_000]
        elif control == "verdict" and chosen in (["accept"], ["reject"]):
            verdict = Verdict(chosen[0])
        elif control in groups and chosen and set(chosen) <= set(RejectReason):
            said += [(RejectReason(one), groups[control]) for one in chosen]
        else:
            return {
                "fault": f"the control {control!r} says {str(value)[:100]!r}, which means nothing here"
            }
    if verdict is None:
        return {"fault": "it says neither accept nor reject"}
    if verdict is Verdict.accept:
        said = []  # hidden with the verdict, but still there when a reject was chosen first
    reasons, layers = (
        [reason for reason, _ in said],
        [layer for _, layer in said if layer is not None],
    )
    return {"verdict": verdict, "reasons": reasons, "layers": layers, "comment": comment}


def _strings(value: Any, name: str) -> list[str] | None:
    """The list of texts under a name; None where there is none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else None


def as_result(
    verdict: Verdict,
    reasons: Sequence[RejectReason] = (),
    layers: Sequence[LayerRole] = (),
    comment: str = "",
) -> list[dict[str, Any]]:
    """The inverse of `read_result`: an annotation's result that says this."""
    result = [_item("verdict", "choices", {"choices": [str(verdict)]})]
    concerned: dict[LayerRole | None, list[str]] = {}
    for place, reason in enumerate(reasons):
        concerned.setdefault(layers[place] if layers else None, []).append(str(reason))
    result += [
        _item(_control(layer), "choices", {"choices": listed})
        for layer, listed in concerned.items()
    ]
    return result + ([_item("comment", "textarea", {"text": [comment]})] if comment else [])


def _item(control: str, kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {"from_name": control, "to_name": "candidate", "type": kind, "value": value}


def _control(layer: LayerRole | None) -> str:
    return f"reasons_{layer}" if layer else "reasons"


def _reasons(layer: LayerRole | None, listed: Sequence[RejectReason]) -> str:
    title = f"The {layer}" if layer else "Why"
    keys = {reason: f"{CHORD[layer]}{place % 10}" for place, reason in enumerate(RejectReason, 1)}
    choices = "\n".join(
        f'        <Choice alias="{reason}" value="{WORDS[reason]}" hotkey="{keys[reason]}"/>'
        for reason in listed
    )
    control = (
        f'<Choices name="{_control(layer)}" toName="candidate" choice="multiple" layout="vertical">'
    )
    return f'      <Header value="{title}" size="6"/>\n      {control}\n{choices}\n      </Choices>'


_IMAGE: Final = re.compile(rf'<img class="ll-({"|".join(LayerRole)})" alt="[a-z]+" src="([^"]*)">')


def _view(name: str, keys: Mapping[str, str]) -> str:
    choices = "".join(f'<Choice value="{value}" hotkey="{key}"/>' for value, key in keys.items())
    control = (
        f'<Choices name="view_{name}" toName="candidate" choice="single-radio" layout="inline">'
    )
    return f"      {control}{choices}</Choices>"


def _style() -> str:
    """The style sheet; only `:has` of chosen views tells which layer is seen, on what, and how large.

    Names in it stand in single quotes: Label Studio takes others for names of controls, and refuses any twice.
    """
    chosen = ".ll-page:has(.ll-views [name='{}']:checked) .ll-stage"
    grounds = [f".ll-stage {{background:{GROUNDS['checker']}}}"]
    grounds += [f"{chosen.format(name)} {{background:{css}}}" for name, css in GROUNDS.items()]
    sizes = [f"{chosen.format(name)} img {{{css}}}" for name, css in SIZES.items() if css]
    layers = [f"{chosen.format(role)} img:not(.ll-{role}) {{display:none}}" for role in LayerRole]
    layers += [f"{chosen.format(role)} img.ll-{role} {{display:block}}" for role in LayerRole]
    return "\n    ".join(["", *STYLE.strip().splitlines(), *grounds, *sizes, *layers, ""])


STYLE: Final = """
.ll-page {display:flex;gap:16px;align-items:flex-start}
.ll-candidate {flex:1 1 auto;min-width:0}
.ll-say {flex:0 0 260px}
.ll-say .lsf-choice, .ll-say .lsf-choice__item, .ll-say .lsf-choice__checkbox {margin:0 !important;padding:0 !important}
.ll-say .lsf-choice__checkbox {line-height:25px !important;min-height:0 !important}
.ll-say h4 {font-size:14px !important;line-height:20px !important;margin:10px 0 2px !important}
.ll-views {display:flex;flex-wrap:wrap;gap:4px 8px;margin:0 0 8px}
.ll-views .lsf-choices {display:inline-flex;margin:0;border:1px solid #8886;border-radius:6px;overflow:hidden}
.ll-views .lsf-choice, .ll-views .lsf-choice__item {margin:0 !important;padding:0 !important}
.ll-views .lsf-choice .lsf-choice__checkbox {margin:0 !important;padding:3px 4px !important;font-size:12px}
.ll-views .lsf-choice + .lsf-choice {border-left:1px solid #8886}
.ll-views .ant-radio {display:none}
.ll-views label > span {padding:0 !important}
.ll-views .lsf-choice:has(:checked) {background:#8884}
.ll-views .lsf-choices:not(:has(:checked)) .lsf-choice:first-child {background:#8884}
.ll-prompt {font-size:17px;line-height:22px;margin:0 0 4px}
.ll-text {font-size:13px;line-height:18px;margin:0 0 2px}
.ll {--above:196px}
.ll-pair {--above:240px}
@media (max-width:1400px) {.ll-pair {--above:274px}}
.ll-stage {overflow:auto;text-align:center;max-height:calc(100vh - var(--above));line-height:0;border:1px solid #8886}
.ll-stage img {display:block;margin:0 auto;object-fit:contain;width:100%;height:calc(100vh - var(--above) - 2px)}
.ll-note {margin:0 0 6px;padding:4px 8px;border:1px solid #b26a00;border-radius:6px;font-size:14px;line-height:20px}
.ll-pair .ll-stage img:not(:first-child) {display:none}
.ll-page:has(.ll-views [name='alpha']:checked) .ll-stage img {filter:brightness(0) invert(1)}
"""
