"""Croissant 1.1 metadata of a pulled snapshot (https://docs.mlcommons.org/croissant/)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from curation.datasets.manifest import DecisionsIndex, Manifest
from curation.exports.decisions import (
    FOLDER_PAIR_COLUMNS,
    LABEL_COLUMNS,
    PAIR_COLUMNS,
    DecisionForm,
)
from curation.exports.record import FileRecord
from curation.exports.selection import SelectedSample
from curation.exports.shards import SAMPLE_COLUMNS

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "sc": "https://schema.org/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "description": {"@container": "@language"},
    "name": {"@container": "@language"},
    "conformsTo": "dct:conformsTo",
    "recordSet": "cr:recordSet",
} | {
    name: f"cr:{name}"
    for name in (
        "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field",
        "fileProperty", "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset",
        "jsonPath", "key", "md5", "parentField", "path", "references", "regex", "repeated",
        "replace", "samplingRate", "separator", "source", "subField", "transform",
    )
}  # fmt: skip

_TYPES = {
    ".parquet": "application/x-parquet",
    ".tar": "application/x-tar",
    ".jsonl": "application/jsonlines",
    ".json": "application/json",
    ".toml": "application/toml",
    ".yaml": "application/yaml",
    ".md": "text/markdown",
    ".txt": "text/plain",
    ".png": "image/png",
    ".webp": "image/webp",
}
_DATA_TYPES = {
    "string": "sc:Text", "int64": "sc:Integer", "double": "sc:Float", "bool": "sc:Boolean",
}  # fmt: skip
_SPDX_URL = "https://spdx.org/licenses/"
_MANY = (".png", ".webp", ".txt")
"""Endings of files that are described as a set, by a pattern, rather than one by one."""


def propensity_text(index: DecisionsIndex) -> str:
    """Return with which probabilities the decided candidates were shown to people."""
    if not index.propensity:
        return "none of them was selected for people with a known probability"
    least, most = index.propensity
    return (
        f"candidates were shown to people with probabilities (propensities) from {least:g} to "
        f"{most:g}; weights of 1 / propensity undo the selection"
    )


def croissant_json(
    manifest: Manifest,
    selected: Sequence[SelectedSample],
    description: Mapping[str, Any],
    info: Mapping[str, Any],
    files: Sequence[FileRecord],
) -> str:
    """Return the JSON-LD document of a pull.

    Args:
        manifest: Manifest of the snapshot.
        selected: The samples of the pull.
        description: Snapshot and options of the pull.
        info: Metadata of the snapshot in the instance.
        files: Records of the files that were written.
    """
    snapshot, index = manifest.id, manifest.decisions
    shown = f" Of the decisions, {propensity_text(index)}." if index else ""
    licences = Counter(item.sample.licence for item in selected)
    sources = Counter(item.sample.source for item in selected if item.sample.round == 0)
    document: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": f"layerloop-{snapshot[:12]}",
        "description": f"{len(selected)} {_what(description)} of the Layerloop "
        f"snapshot {snapshot}, as --format {description['layout']}.",
        "version": f"1.0.0+{snapshot[:12]}",
        "license": [_licence_url(licence) for licence in sorted(licences)],
        "creator": {"@type": "sc:Organization", "name": "the instance that froze the snapshot"},
        "url": f"urn:sha256:{snapshot}",
        "citeAs": f"Layerloop snapshot {snapshot}",
        "keywords": ["transparency", "RGBA", "text-to-image"],
        "isLiveDataset": False,
        "prov:wasDerivedFrom": [{"@id": f"urn:sha256:{snapshot}"}, *_parents(info)],
        "rai:dataCollection": "; ".join(f"{n} from {s}" for s, n in sources.most_common(20)),
        "rai:dataAnnotationProtocol": "Reviewers accept or reject each image without seeing the "
        "decisions of others.",
        "rai:dataBiases": f"Accepted images are those that reviewers preferred.{shown}",
        "rai:dataLimitations": "See README.md.",
        "distribution": [*_objects(files), *_sets(files)],
        "recordSet": _records(description, files),
    }
    if info.get("frozen_at"):
        document["datePublished"] = str(info["frozen_at"])[:10]
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _licence_url(licence: str) -> str:
    is_spdx = bool(licence) and all(c.isalnum() or c in "-.+" for c in licence)
    return f"{_SPDX_URL}{licence}.html" if is_spdx and licence != "unknown" else licence


def _parents(info: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"@id": f"urn:sha256:{info['parent']}"}] if info.get("parent") else []


def _objects(files: Sequence[FileRecord]) -> list[dict[str, Any]]:
    """Return the files that are described one by one, with their hashes."""
    return [
        {
            "@type": "cr:FileObject",
            "@id": file.path,
            "name": file.path,
            "contentUrl": file.path,
            "contentSize": f"{file.size} B",
            "encodingFormat": _type_of(file.path),
            "sha256": file.sha256,
        }
        for file in sorted(files, key=lambda file: file.path)
        if _is_single(file.path)
    ]


def _sets(files: Sequence[FileRecord]) -> list[dict[str, Any]]:
    """Return a set for each top folder and ending of images and captions, and for each table."""
    patterns: dict[str, str] = {}
    for file in files:
        path = PurePosixPath(file.path)
        if path.suffix in _MANY:
            stars = "/".join(["*"] * (len(path.parts) - 2) + [f"*{path.suffix}"])
            patterns[f"{path.parts[0]}/{stars}"] = path.suffix
    sets = [
        {
            "@type": "cr:FileSet",
            "@id": f"set:{pattern}",
            "name": f"set:{pattern}",
            "includes": pattern,
            "encodingFormat": _TYPES[suffix],
        }
        for pattern, suffix in sorted(patterns.items())
    ]
    for pattern, suffix in (("data/*.parquet", ".parquet"), ("*/metadata.jsonl", ".jsonl")):
        if any(PurePosixPath(file.path).match(pattern) for file in files):
            sets.append(
                {
                    "@type": "cr:FileSet",
                    "@id": "tables",
                    "name": "tables",
                    "includes": pattern,
                    "encodingFormat": _TYPES[suffix],
                }
            )
    return sets


def _what(description: Mapping[str, Any]) -> str:
    decisions = description.get("decisions")
    return (
        f"decided candidates as {decisions['form']}"
        if decisions
        else ("transparent images with captions")
    )


def _columns(description: Mapping[str, Any]) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """Return the key, the columns with their types, and the columns of images of a table."""
    decisions = description.get("decisions")
    if not decisions:
        return "sample_id", dict(SAMPLE_COLUMNS), ("image",)
    if decisions["form"] == DecisionForm.labels:
        return "candidate_id", dict(LABEL_COLUMNS), ("image",)
    if description["layout"] == "parquet":
        return "pair_id", dict(PAIR_COLUMNS), ("jpg_0", "jpg_1")
    return "pair_id", dict(FOLDER_PAIR_COLUMNS), ()


def _records(description: Mapping[str, Any], files: Sequence[FileRecord]) -> list[dict[str, Any]]:
    """Return the record set of layouts with a table; other layouts have only files."""
    layout = description["layout"]
    if layout in ("parquet", "imagefolder"):
        source = {"fileSet": {"@id": "tables"}}
    elif any(file.path == "metadata.jsonl" for file in files):
        source = {"fileObject": {"@id": "metadata.jsonl"}}
    else:
        return []
    key, columns, images = _columns(description)
    fields: list[dict[str, Any]] = [
        {
            "@type": "cr:Field",
            "@id": f"samples/{name}",
            "name": name,
            "dataType": _DATA_TYPES[kind],
            "source": source | {"extract": {"column": name}},
        }
        for name, kind in columns.items()
    ]
    for image in images if layout == "parquet" else ():
        picked: dict[str, Any] = {"extract": {"column": image}}
        # The feature Image is a structure; images of pairs are plain bytes.
        picked |= {"transform": {"jsonPath": "bytes"}} if image == "image" else {}
        fields.append(
            {
                "@type": "cr:Field",
                "@id": f"samples/{image}",
                "name": image,
                "dataType": "sc:ImageObject",
                "source": source | picked,
            }
        )
    return [
        {
            "@type": "cr:RecordSet",
            "@id": "samples",
            "name": "samples",
            "key": {"@id": f"samples/{key}"},
            "field": fields,
        }
    ]


def _is_single(path: str) -> bool:
    return PurePosixPath(path).suffix not in _MANY and path not in ("README.md", "croissant.json")


def _type_of(path: str) -> str:
    return _TYPES.get(PurePosixPath(path).suffix, "application/octet-stream")
