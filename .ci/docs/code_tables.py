"""Generated pages of settings, metrics, signals and formats, and the part about packages."""

from __future__ import annotations

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from markdown import code, page, prose, sentence, table

ROOT = Path(__file__).resolve().parents[2]


def settings_page() -> str:
    """Return the page of settings, from the fields of Settings."""
    from curation.settings import Settings

    rows = []
    for name, field in Settings.model_fields.items():
        bounds = [
            f"{sign} {getattr(bound, attribute):,}"
            for bound in field.metadata
            for sign, attribute in (("≥", "ge"), (">", "gt"), ("≤", "le"), ("<", "lt"))
            if hasattr(bound, attribute)
        ]
        meaning = sentence(field.description or "") + (
            f" Range: {', '.join(bounds)}." if bounds else ""
        )
        default = "" if field.default is None else code(field.default)
        rows.append([code(f"LAYERLOOP_{name.upper()}"), default, meaning])
    intro = """
Settings are environment variables. They are read in `curation/settings.py` and nowhere else. Each
one has a default with which everything runs on one machine. A variable that begins with
`LAYERLOOP_` and is not a setting is reported by name. Values of dotted names are
`package.module:function`.
"""
    return page("Settings", intro, table(["variable", "default", "meaning"], rows))


def metrics_page() -> str:
    """Return the page of metrics: HIGHER_IS_BETTER, with the pages' labels and meanings."""
    higher = _literal("training/evaluation", "HIGHER_IS_BETTER")
    known = _metric_definitions()
    rows = []
    for name, up in higher.items():
        definition = known.get(name, {})
        rows.append(
            [
                code(name),
                definition.get("label", ""),
                definition.get("unit", ""),
                "higher" if up else "lower",
                sentence(definition.get("description", "")),
            ]
        )
    module = ast.parse((ROOT / "training" / "evaluation" / "heldout.py").read_text("utf-8"))
    function = next(
        node
        for node in module.body
        if isinstance(node, ast.FunctionDef) and node.name == "evaluate"
    )
    text = ast.get_docstring(function) or ""
    text = re.sub(r"^(\w[\w, ]*?(?: \(dB\))?(?:, \w+)?): ", r"- **\1**: ", text, flags=re.MULTILINE)
    text = text.replace("\n- ", "\n\n- ", 1)
    intro = """
Metrics of a checkpoint on the held-out split. The first ones are measured at the end of every
training; `layerloop checkpoint evaluate` measures the others on request. Values with and without
JPEG have names of their own and are never comparable.
[Training](../guides/training.md#metrics-of-a-checkpoint) describes how to run it.
"""
    return page(
        "Metrics",
        intro,
        table(["metric", "label", "unit", "better", "meaning"], rows),
        "## Definitions",
        prose(text),
    )


def signals_page() -> str:
    """Return the page of screening signals of layers and pairs, and of the rules with them."""
    from curation.screening import rules
    from curation.screening.defects import DEFECT_REASONS, DEFECTS
    from curation.screening.pairs.signals import PAIR_SIGNALS
    from curation.screening.signals import SIGNALS

    single = table(
        ["signal", "definition", "unit", "cost"],
        (
            [code(signal.name), sentence(signal.definition), signal.unit, signal.cost]
            for signal in SIGNALS.values()
        ),
    )
    pair = table(
        ["signal", "definition", "unit"],
        (
            [code(signal.name), sentence(signal.definition), signal.unit]
            for signal in PAIR_SIGNALS.values()
        ),
    )
    bounds = table(
        ["rule", "refuses where", "reason"],
        (
            [
                code(rule.name),
                f"{code(rule.signal)} is {rule.beyond} {rule.bound:g}",
                sentence(rule.sentence),
            ]
            for rule in (*rules.HARD_RULES, *rules.PAIR_RULES)
        ),
    )
    planted = table(
        ["defect", "reason", "description"],
        (
            [code(name), code(DEFECT_REASONS[name].value), _first_line(make)]
            for name, make in DEFECTS.items()
        ),
    )
    intro = """
Screening measures every generated layer before a person sees it. A signal is a number; a rule
refuses a candidate and names the signal and its value. Pixels are straight (not premultiplied)
sRGB; `a` is alpha in 0..1, `C` is the color, `s` is the longer side in pixels, and the core is the
region with a > 0.5.
"""
    return page(
        "Signals", intro, "## Single layers", single, "## Pairs", pair,
        "## Rules", bounds, "## Defects that gold is planted with", planted,
    )  # fmt: skip


def formats_page() -> str:
    """Return the page of file formats, from the tables of readers and writers."""
    from curation.datasets.decision_records import CountedReason, DecisionRecord
    from curation.datasets.manifest import FORMAT, DecisionsIndex
    from curation.domain import Sample
    from curation.image_limits import DEFAULT_LIMITS
    from curation.images.opening import READERS
    from curation.images.recognition import ARCHIVES, OTHER_FILES
    from curation.ingest import caption_files, manifest_files
    from curation.scenes.layered_files import WRITERS
    from curation.scenes.scene import Background, Scene, SceneLayer

    refused = ", ".join(dict.fromkeys(name for _, name in OTHER_FILES))
    archives = ", ".join(name for _, name in ARCHIVES)
    limits = f"{DEFAULT_LIMITS.pixels / 1e6:g} million pixels, {DEFAULT_LIMITS.bytes >> 20} MiB, "
    limits += (
        f"aspect ratio {DEFAULT_LIMITS.aspect:g}, shorter side {DEFAULT_LIMITS.shortest} pixels"
    )
    images = "\n\n".join(
        [
            f"Read: {_codes(sorted(READERS))}.",
            f"Recognized and refused by name: {refused}; as archives {archives}.",
            f"Limits of one image by default: {limits}. [Settings](settings.md) change them.",
        ]
    )
    captions = table(
        ["subject", "accepted values, by precedence"],
        [
            ["manifest with precedence over others", _codes(manifest_files.PRIMARY_MANIFESTS)],
            ["manifests by line", _codes(manifest_files.JSON_LINES_SUFFIXES)],
            ["manifests as tables", _codes(manifest_files.TABLE_SEPARATORS)],
            ["column of the file's name", _codes(manifest_files.FILE_KEYS)],
            ["caption files beside an image", _codes(caption_files.CAPTION_SUFFIXES)],
            ["column of the caption", _codes(caption_files.CAPTION_KEYS)],
        ],
    )
    sample = table(["field", "type"], _fields(Sample))
    decided = (
        "A snapshot that was frozen with decisions has a field `decisions`: parts of lines for "
        "each decided candidate, sorted by id, and counts. A line has these fields and `check`: "
        "the first eight digits of the sha256 of its canonical JSON without `check`."
    )
    decisions = "\n\n".join(
        f"`{one.__name__}`: {prose(one.__doc__)}\n\n{table(['field', 'type'], _fields(one))}"
        for one in (DecisionsIndex, DecisionRecord, CountedReason)
    )
    scene = "\n\n".join(
        f"`{kind.__name__}`: {prose(kind.__doc__)}\n\n{table(['field', 'type'], _fields(kind))}"
        for kind in (Scene, Background, SceneLayer)
    )
    layouts = table(
        ["layout"],
        (
            [sentence(value)]
            for value in _enum_values("training/interop/formats.py", "WeightFormat")
        ),
    )
    exports = ", ".join(code(name) for name in _export_formats())
    snapshot = (
        f"A snapshot's root is one line of canonical JSON with `format` {code(FORMAT)}, its "
        "parts and its counts; the root's sha256 is the snapshot's id. A part is a text object "
        "of one canonical JSON line for each sample, sorted by id:"
    )
    return page(
        "Formats", "File formats that Layerloop reads and writes.", "## Images", images,
        "## Captions and metadata", captions,
        "## Snapshots", snapshot, sample, decided, decisions, "## Packs", *_packs(),
        "## Scenes", scene,
        "## Layered files", "Written: " + _codes(WRITERS) + ".",
        "## Weights",
        "All weights are safetensors. Recognized by the names and shapes of their tensors:",
        layouts,
        f"`checkpoint export --format` writes {exports}.",
    )  # fmt: skip


def _packs() -> tuple[str, str]:
    """Return the description of packs and the table of their files."""
    from curation.exports.packs.version import FORMAT, GROUPS, Shard

    fields = _codes(one.name for one in dataclasses.fields(Shard))
    contents = {
        "shards/GROUP-SHA256.tar": f"""USTAR; GROUP is {", ".join(map(code, GROUPS))}; for each
            sample, in the order of ids, its layers as stored, `ID.txt` and `ID.json`; named by its
            sha256""",
        "shards/GROUP-SHA256.parquet": """the index: a row per member, in the order of the tar, with
            `sample`, `member` (the name after the id and a dot), `offset` and `length` of the
            content in bytes, its `sha256`, and `record`, the sample's line, in the row of
            `json`""",
        "shards/GROUP-SHA256.tar.idx": """little-endian 64-bit offsets of the samples and of the
            end""",
        "versions/SNAPSHOT.jsonl": f"""a line with `format` {code(FORMAT)}, the snapshot and the
            sha256 of the other lines; then a line per shard: {fields}; `removed` are numbers of
            samples in the tar, from 0. Each line ends with `check`, the first 8 digits of the
            sha256 of the line without it""",
        "pack.json": "the snapshot that was packed last",
        "objects/ab/cd...": "roots of snapshots and lists of withheld samples",
        ".nv-meta/": "the newest snapshot as a data set of Megatron Energon",
    }
    about = """A pack is a folder, or a prefix of a bucket. Parts of a snapshot are not stored: a
        part is the lines of its samples, sorted by id, each with a newline."""
    rows = ([code(name), " ".join(text.split())] for name, text in contents.items())
    return " ".join(about.split()), table(["file", "content"], rows)


def packages_part() -> str:
    """Return the import contracts of pyproject.toml as lists."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    parts = []
    for contract in contracts:
        parts.append(f"### {contract['name']}")
        if contract["type"] == "layers":
            container = contract["containers"][0]
            rows = []
            for level, layer in enumerate(contract["layers"], 1):
                names = [name.strip() for name in layer.split("|")]
                rows.append(
                    [
                        level,
                        ", ".join(code(name) for name in names),
                        "; ".join(filter(None, (_purpose(container, name) for name in names))),
                    ]
                )
            parts.append(table(["level", "packages", "purpose"], rows))
        else:
            parts.append(
                "Source: "
                + _codes(contract["source_modules"])
                + ". Forbidden: "
                + _codes(contract["forbidden_modules"])
                + "."
            )
    return "\n\n".join(parts)


def _purpose(container: str, name: str) -> str:
    """Return the first sentence of a package's or module's docstring."""
    base = ROOT / container / name
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    text = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "") if file.exists() else ""
    return text.split("\n\n")[0].replace("\n", " ").rstrip(".")


def _codes(names: Any) -> str:
    return ", ".join(code(name) for name in names)


def _fields(kind: type) -> Iterator[list[str]]:
    """Yield name and type of each field of a dataclass, the type as its source has it."""
    for field in dataclasses.fields(kind):
        text = field.type
        if not isinstance(text, str):
            text = getattr(text, "__name__", str(text))
        yield [code(field.name), code(text)]


def _first_line(function: Any) -> str:
    return sentence((function.__doc__ or "").split("\n\n")[0])


def _literal(folder: str, name: str) -> dict[str, bool]:
    """Return a dict that a module of a folder assigns, without importing it, and so PyTorch."""
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.parse(file.read_text("utf-8")).body:
            target = node.target if isinstance(node, ast.AnnAssign) else None
            if (
                isinstance(target, ast.Name)
                and target.id == name
                and isinstance(node, ast.AnnAssign)
                and node.value
            ):
                return dict(ast.literal_eval(node.value))
    raise SystemExit(f"error: no module of {folder} assigns {name}")


def _enum_values(path: str, name: str) -> list[str]:
    module = ast.parse((ROOT / path).read_text("utf-8"))
    found = next(
        node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name
    )
    return [ast.literal_eval(node.value) for node in found.body if isinstance(node, ast.Assign)]


def _export_formats() -> list[str]:
    """Return the formats of `checkpoint export`, from its help."""
    import typer

    from curation.cli.main import app

    root = typer.main.get_command(app)
    command = root.commands["checkpoint"].commands["export"]  # type: ignore[attr-defined]
    option = next(param for param in command.params if "--format" in param.opts)
    kind = option.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [str(member.value) for member in kind]
    return re.findall(r"\b(?:layerloop|released|comfyui|diffusers|peft|kohya)\b", option.help or "")


def _metric_definitions() -> dict[str, dict[str, str]]:
    """Return label, unit and meaning of each metric, as the front end's module has them."""
    for file in sorted((ROOT / "annotator_ui" / "static").rglob("*.js")):
        text = file.read_text("utf-8")
        if "identity_harm_db" not in text or "better:" not in text:
            continue
        found = {}
        for name, body in re.findall(
            r"^ +(\w+): \{\n(.*?)\n +\},?$", text, re.DOTALL | re.MULTILINE
        ):
            found[name] = dict(re.findall(r"(\w+):\s*\"((?:[^\"\\]|\\.)*)\"", body))
        return found
    return {}
