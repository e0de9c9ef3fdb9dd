"""Labeling configuration of Label Studio: the view of a task, and the parser of its annotations."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from html import escape, unescape
from typing import Final

from curation.domain import Kind, LayerRole, RejectReason
from curation.labeling.port import Task

FOREGROUND, BACKGROUND, BLENDED = LayerRole.foreground, LayerRole.background, LayerRole.blended

BACKGROUNDS: Final = {
    "checker": "repeating-conic-gradient(#c8c8c8 0 25%, #fff 0 50%) 0 0/24px 24px",
    "black": "#000",
    "grey": "#808080",
    "white": "#fff",
    "alpha": "#000",
}
"""Backgrounds behind a layer, as CSS; "alpha" also paints the layer white, to show its opacity."""

WHOLE_SIZE: Final = "width:auto;height:auto;max-width:none;max-height:none"
SIZES: Final = {"fit": "", "1:1": WHOLE_SIZE, "2:1": f"{WHOLE_SIZE};zoom:2"}

VIEWS: Final[Mapping[str, Mapping[str, str]]] = {
    "layer": {BLENDED: "b", FOREGROUND: "f", BACKGROUND: "g"},
    "ground": dict(zip(BACKGROUNDS, "ckywo", strict=True)),
    "size": dict(zip(SIZES, "exd", strict=True)),
}
"""The view controls with the key of each option; the first option is the default."""

REASON_LABELS: Final = {
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
    FOREGROUND: SINGLE[None],
    BACKGROUND: [
        RejectReason.halo,
        RejectReason.residue,
        RejectReason.malformed,
        RejectReason.prompt_miss,
        RejectReason.other,
    ],
    BLENDED: [
        RejectReason.prompt_miss,
        RejectReason.duplicate,
        RejectReason.other,
        RejectReason.clash,
    ],
}

MODIFIER: Final = {None: "", FOREGROUND: "", BACKGROUND: "shift+", BLENDED: "alt+"}
"""Modifier of the number keys, by the layer that a reason concerns."""

HIDDEN: Final = [
    "tasks:data.look",
    "tasks:data.posting",
    "tasks:data.candidate",
    "tasks:data.batch",
    "tasks:data.board",
    "tasks:data.round",
    "tasks:file_upload",
    "tasks:storage_filename",
    "tasks:inner_id",
    "tasks:created_at",
    "tasks:updated_at",
    "tasks:updated_by",
    "tasks:avg_lead_time",
    "tasks:draft_exists",
    "tasks:predictions_results",
    "tasks:predictions_model_versions",
    "tasks:total_predictions",
    "tasks:annotations_ids",
]
"""Columns of the data manager that a new project hides at first."""


INSTRUCTION: Final = f"""<p><b>Accept</b> (A) a layer that matches its prompt, is cut out cleanly \
and contains nothing else.
<b>Reject</b> (R) all others, and choose one or more reasons. Skip a task that you cannot judge;
another person gets it.</p>
<ul>{"".join(f"<li>{words}</li>" for words in REASON_LABELS.values())}</ul>
<p>C, K, Y, W and O change the background behind the layer; E, X and D change its size; F, G and B
choose the layer of a pair. If a note says that an annotation was not counted, the task was decided
elsewhere, or the annotation could not be read.</p>
"""
"""The labeling instructions of a project."""


def project_class(project_id: uuid.UUID) -> str:
    """Return the CSS class that identifies a project's configuration if the title was changed.

    Projects of former versions have it too, so the class keeps its name.
    """
    return f"ll-board-{project_id}"


def configuration(kind: Kind, project_id: uuid.UUID | None = None) -> str:
    """Return the labeling configuration: the candidate at the left, the form at the right.

    Args:
        kind: Single layers or pairs.
        project_id: Our id of the project, which is stored in the configuration.
    """
    mark = f" {project_class(project_id)}" if project_id is not None else ""
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
    <Choices name="verdict" toName="candidate" choice="single-radio" required="true"
             requiredMessage="accept or reject">
      <Choice alias="accept" value="Accept" hotkey="a"/>
      <Choice alias="reject" value="Reject" hotkey="r"/>
    </Choices>
    <View visibleWhen="choice-selected" whenTagName="verdict" whenChoiceValue="Reject">
{reasons}
    </View>
    <Header value="Comment" size="6"/>
    <TextArea name="comment" toName="candidate" rows="1" editable="true"
              placeholder="Press Enter to add it"/>
  </View>
</View>
"""


def task_html(task: Task) -> str:
    """Return the HTML of a task: note, prompt, texts and all layers; every text is escaped.

    The project's style sheet shows one of the layers, as the view controls are set.
    """
    roles = [role for role in (BLENDED, FOREGROUND, BACKGROUND) if role in task.layers]
    texts = "".join(
        f"<p class='ll-text'><b>{role}</b> {escape(task.texts[role])}</p>"
        for role in (FOREGROUND, BACKGROUND)
        if role in task.texts
    )
    images = "".join(
        f'<img class="ll-{role}" alt="{role}" src="{escape(task.layers[role])}">' for role in roles
    )
    note = f'<p class="ll-note">{escape(task.note)}</p>' if task.note else ""
    return (
        f'<div class="ll ll-{"pair" if len(roles) > 1 else "single"}">{note}'
        f'<p class="ll-prompt">{escape(task.prompt)}</p>{texts}'
        f'<div class="ll-stage">{images}</div></div>'
    )


def parse_layer_urls(page: str) -> dict[LayerRole, str]:
    """Return the URLs of the layers in HTML that `task_html` returned."""
    return {LayerRole(role): unescape(url) for role, url in _IMAGE.findall(page)}


def control_name(layer: LayerRole | None) -> str:
    """Return the name of the control for the reasons to reject a layer, or the whole."""
    return f"reasons_{layer}" if layer else "reasons"


def _reasons(layer: LayerRole | None, listed: Sequence[RejectReason]) -> str:
    title = f"The {layer}" if layer else "Why"
    keys = {
        reason: f"{MODIFIER[layer]}{number % 10}" for number, reason in enumerate(RejectReason, 1)
    }
    choices = "\n".join(
        f'        <Choice alias="{reason}" value="{REASON_LABELS[reason]}"'
        f' hotkey="{keys[reason]}"/>'
        for reason in listed
    )
    attributes = f'name="{control_name(layer)}" toName="candidate" choice="multiple"'
    control = f'<Choices {attributes} layout="vertical">'
    return f'      <Header value="{title}" size="6"/>\n      {control}\n{choices}\n      </Choices>'


_IMAGE: Final = re.compile(rf'<img class="ll-({"|".join(LayerRole)})" alt="[a-z]+" src="([^"]*)">')


def _view(name: str, keys: Mapping[str, str]) -> str:
    choices = "".join(f'<Choice value="{value}" hotkey="{key}"/>' for value, key in keys.items())
    control = (
        f'<Choices name="view_{name}" toName="candidate" choice="single-radio" layout="inline">'
    )
    return f"      {control}{choices}</Choices>"


def _style() -> str:
    """Return the style sheet; `:has` of the checked view controls sets layer, background and size.

    Names are in single quotes: Label Studio parses names in double quotes as names of controls, and
    refuses duplicates.
    """
    chosen = ".ll-page:has(.ll-views [name='{}']:checked) .ll-stage"
    grounds = [f".ll-stage {{background:{BACKGROUNDS['checker']}}}"]
    grounds += [f"{chosen.format(name)} {{background:{css}}}" for name, css in BACKGROUNDS.items()]
    sizes = [f"{chosen.format(name)} img {{{css}}}" for name, css in SIZES.items() if css]
    layers = [f"{chosen.format(role)} img:not(.ll-{role}) {{display:none}}" for role in LayerRole]
    layers += [f"{chosen.format(role)} img.ll-{role} {{display:block}}" for role in LayerRole]
    return "\n    ".join(["", *STYLE.strip().splitlines(), *grounds, *sizes, *layers, ""])


STYLE: Final = """
.ll-page {display:flex;gap:16px;align-items:flex-start}
.ll-candidate {flex:1 1 auto;min-width:0}
.ll-say {flex:0 0 260px}
.ll-say .lsf-choice, .ll-say .lsf-choice__item, .ll-say .lsf-choice__checkbox \
{margin:0 !important;padding:0 !important}
.ll-say .lsf-choice__checkbox {line-height:25px !important;min-height:0 !important}
.ll-say h4 {font-size:14px !important;line-height:20px !important;margin:10px 0 2px !important}
.ll-views {display:flex;flex-wrap:wrap;gap:4px 8px;margin:0 0 8px}
.ll-views .lsf-choices \
{display:inline-flex;margin:0;border:1px solid #8886;border-radius:6px;overflow:hidden}
.ll-views .lsf-choice, .ll-views .lsf-choice__item {margin:0 !important;padding:0 !important}
.ll-views .lsf-choice .lsf-choice__checkbox \
{margin:0 !important;padding:3px 4px !important;font-size:12px}
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
.ll-stage {overflow:auto;text-align:center;max-height:calc(100vh - var(--above));line-height:0;\
border:1px solid #8886}
.ll-stage img {display:block;margin:0 auto;object-fit:contain;width:100%;\
height:calc(100vh - var(--above) - 2px)}
.ll-note {margin:0 0 6px;padding:4px 8px;border:1px solid #b26a00;border-radius:6px;\
font-size:14px;line-height:20px}
.ll-pair .ll-stage img:not(:first-child) {display:none}
.ll-page:has(.ll-views [name='alpha']:checked) .ll-stage img {filter:brightness(0) invert(1)}
"""
