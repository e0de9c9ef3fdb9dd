"""The card of a pulled snapshot, README.md for the Hub and for people, and its Croissant file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from curation.datasets.manifest import Manifest
from curation.exports.croissant import croissant_json, propensity_text
from curation.exports.plan import SPLIT_FOLDERS, PlannedFile
from curation.exports.record import FileRecord
from curation.exports.selection import SelectedSample

KNOWN_LIMITS = """\
- Captions are texts of imports, models and people; nobody checked all of them.
- Licences and sources are those that the importer stated. Generated images name the checkpoint
  that generated them, and no licence.
- Accepted images are those that reviewers preferred. The mix is not a random sample of what a
  model generates.
- The held-out split holds imported images only. Training images that share a layer with a
  held-out image are withheld.
"""

_DECISION_FORMS = {
    "labels": "label: accepted or not; weight: the probability that the label is right, from all "
    "verdicts of people; propensity: the probability with which it was shown",
    "pairs": "an accepted and a rejected image of one prompt; weight: the probability that the "
    "first is acceptable and the second is not",
}

_CONFIGS = {
    "imagefolder": "{folder}/**",
    "parquet": "data/{folder}-*.parquet",
    "webdataset": "data/{folder}-*.tar",
}
MAX_ROWS = 50
"""The largest number of rows of a table of counts."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def description_files(
    manifest: Manifest,
    selected: Sequence[SelectedSample],
    description: Mapping[str, Any],
    info: Mapping[str, Any],
    files: Sequence[FileRecord],
) -> Iterator[PlannedFile]:
    """Yield the card and the Croissant file of a pull.

    Args:
        manifest: Manifest of the snapshot.
        selected: The samples of the pull.
        description: Snapshot and options of the pull.
        info: Metadata of the snapshot in the instance: tags, query, parent, notes, review.
        files: Records of the files that were written.
    """
    card = dataset_card(manifest, selected, description, info)
    yield PlannedFile("README.md", "", text=card.encode())
    croissant = croissant_json(manifest, selected, description, info, files)
    yield PlannedFile("croissant.json", "", text=croissant.encode())


def dataset_card(
    manifest: Manifest,
    selected: Sequence[SelectedSample],
    description: Mapping[str, Any],
    info: Mapping[str, Any],
) -> str:
    """Return the card in Markdown with the metadata that the Hub reads.

    Args:
        manifest: Manifest of the snapshot.
        selected: The samples of the pull.
        description: Snapshot and options of the pull.
        info: Metadata of the snapshot in the instance; sections without information are left out.
    """
    samples = [item.sample for item in selected]
    splits = Counter(SPLIT_FOLDERS[sample.split] for sample in samples)
    title = f"Layerloop snapshot {manifest.id[:12]}"
    parts = [_front_matter(title, splits, description, len(samples)), f"# {title}\n"]
    decisions = description.get("decisions")
    what = (
        f"{len(samples)} decided candidates, as {decisions['form']}, of the"
        if decisions
        else f"{len(samples)} transparent images with captions, of the {manifest.samples} samples "
        "of"
    )
    parts.append(
        f"{what} snapshot `{manifest.id}`. The name is the hash of its content: equal samples have "
        "equal names everywhere.\n"
    )
    # The content.
    parts += [
        count_table("Licences", ("licence", "samples"), Counter(s.licence for s in samples)),
        count_table("Sources", ("source", "samples"), Counter(_source(s.source) for s in samples)),
        count_table("Splits", ("split", "samples"), splits),
        count_table("Rounds", ("round", "samples"), Counter(str(s.round) for s in samples)),
        count_table("Kinds", ("kind", "samples"), Counter(str(s.kind) for s in samples)),
    ]
    # How it was chosen.
    parts += [_section("Selection", _selection(info)), _section("Review", _review(info))]
    parts += [_section("Decisions", _decisions(manifest))]
    parts += [_section("Notes", [str(note) for note in info.get("notes", ())])]
    treatment = ", ".join(f"{k} {v}" for k, v in description["treatment"].items())
    layers = ", ".join(description["layers"])
    where = [f"where {condition}" for condition in description["selection"]["where"]]
    weights = [f"weight {weight}" for weight in description["selection"]["weights"]]
    weights += [_DECISION_FORMS[decisions["form"]]] if decisions else []
    pulled = [f"format {description['layout']}; layers {layers}; {treatment}", *where, *weights]
    parts += [_section("This copy", pulled), f"## Known limits\n\n{KNOWN_LIMITS}"]
    parts.append(
        "In a folder that `layerloop snapshot pull` wrote, `layerloop snapshot verify` checks "
        "every file against its hash.\n"
    )
    return "\n".join(part for part in parts if part)


def _front_matter(
    title: str, splits: Mapping[str, int], description: Mapping[str, Any], count: int
) -> str:
    size = next((name for most, name in _SIZES if count < most), "n>1M")
    lines = ["---", f"pretty_name: {title}", "license: other", "license_name: mixed"]
    lines += ["license_link: README.md", "task_categories:", "- text-to-image"]
    lines += ["tags:", "- transparency", "- rgba", "- layerloop"]
    lines += ["size_categories:", f"- {size}"]
    if pattern := _CONFIGS.get(description["layout"]):
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for folder in sorted(splits):
            lines += [f"  - split: {folder}", f'    path: "{pattern.format(folder=folder)}"']
    return "\n".join([*lines, "---", ""])


def _selection(info: Mapping[str, Any]) -> list[str]:
    rows = [f"tags: {', '.join(info['tags'])}"] if info.get("tags") else []
    rows += [f"frozen: {info['frozen_at']}"] if info.get("frozen_at") else []
    rows += [f"parent: `{info['parent']}`"] if info.get("parent") else []
    query = dict(info.get("query") or {})
    # A card is public: it names no reviewer.
    if names := query.pop("reviewers", None):
        rows.append(f"accepted by one of {len(names)} chosen reviewers")
    return rows + [f"{name}: {value}" for name, value in query.items()]


def _review(info: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {value}" for name, value in (info.get("review") or {}).items()]


def _decisions(manifest: Manifest) -> list[str]:
    """Describe the decided candidates of a snapshot: how many, by whom, and how they were shown."""
    index = manifest.decisions
    if index is None:
        return []
    rows = [f"{index.candidates} decided candidates, of which the accepted ones are samples too"]
    for title, name in (("verdicts", "verdict"), ("decided by", "decided_by"), ("kinds", "kind"),
                        ("rounds", "round"), ("reasons of rejects", "reason")):  # fmt: skip
        listed = sorted(index.counts.get(name, {}).items(), key=lambda item: (-item[1], item[0]))
        rows += [f"{title}: {', '.join(f'{n} {value}' for value, n in listed)}"] if listed else []
    return [*rows, propensity_text(index)]


def _source(source: str) -> str:
    """Return a source without the id of a single candidate."""
    return "generated candidates" if source.startswith("candidate ") else source


def _section(title: str, rows: Sequence[str]) -> str:
    return "\n".join([f"## {title}\n", *(f"- {row}" for row in rows), ""]) if rows else ""


def count_table(title: str, head: tuple[str, str], counts: Mapping[str, int]) -> str:
    """Return a section with a table of counts, the largest first, as Markdown.

    Args:
        title: Heading of the section.
        head: Headings of the columns.
        counts: The counts by value; the MAX_ROWS largest are shown.
    """
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_ROWS]
    return value_table(title, head, dict(largest), align="---:")


def value_table(
    title: str, head: tuple[str, str], rows: Mapping[str, object], align: str = "---"
) -> str:
    """Return a section with a table of values by name as Markdown; empty without rows.

    Args:
        title: Heading of the section.
        head: Headings of the columns.
        rows: The rows.
        align: Alignment of the second column.
    """
    if not rows:
        return ""
    lines = [f"## {title}\n", f"| {head[0]} | {head[1]} |", f"|---|{align}|"]
    for name, value in rows.items():
        cells = (str(text).replace("|", "\\|").replace("\n", " ") for text in (name, value))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
