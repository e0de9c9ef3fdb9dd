"""Verification without an instance: of a snapshot in an object store, and of a pulled folder.

Every object is read and compared with the hash that names it, so that any flipped bit is found. A
damaged layer names its samples. A damaged part is searched for the line that changed: by its form,
by the id that its own content gives, by the snapshot's counts, and, in short parts, by trying
single bits until the hash fits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from curation.datasets.decision_records import DecisionRecord
from curation.datasets.manifest import Manifest, Part, parse_manifest
from curation.domain import Progress, Sample, content_id
from curation.errors import Corrupt, LayerloopError, NotFound
from curation.exports.damage import Damage
from curation.exports.pull import in_parallel
from curation.exports.record import (
    STATE,
    FileRecord,
    parse_record,
    read_description,
)
from curation.exports.shards import KEYS, ParquetFormat, WebDatasetFormat
from curation.images.codec import decode_layer
from curation.object_store import ObjectReader, compute_sha256
from curation.ports import ProgressCallback

MAX_SEARCHED_BYTES = 24_000
"""Length of a text up to which single bits are tried; the time grows with its square."""


def verify_snapshot(
    store: ObjectReader,
    snapshot: str,
    report: ProgressCallback = lambda _: None,
    *,
    workers: int = 4,
    manifest_only: bool = False,
) -> list[Damage]:
    """Read every object of a snapshot, and return all that is missing or damaged.

    Args:
        store: Store of the snapshot; nothing else is needed.
        snapshot: Full id of the snapshot.
        report: Receives the progress.
        workers: Number of threads.
        manifest_only: Leave out the layers.
    """
    data, damage = _read(store, snapshot, "manifest")
    if damage is not None:
        return [damage]
    manifest = parse_manifest(data, snapshot)
    found: list[Damage] = []
    layers: dict[str, list[str]] = {}
    decided: dict[str, list[str]] = {}
    for part in manifest.parts:
        found += _check_part(store, manifest, part, layers)
    for part in manifest.decisions.parts if manifest.decisions else ():
        found += _check_decisions(store, part, decided)
    if manifest.withheld:
        _, damage = _read(store, manifest.withheld, "withheld")
        found += [damage] if damage else []
    if manifest_only:
        return found

    def check(name: str) -> Damage | None:
        data, damage = _read(store, name, "layer", layers.get(name, ()))
        damage = damage or undecodable(name, data, layers.get(name, ()))
        return damage and replace(damage, candidates=tuple(decided.get(name, ())))

    # A layer may belong to several samples and candidates, and is read once.
    names = list({**layers, **decided})
    report(Progress("verifying", 0, len(names)))
    for done, damage in enumerate(in_parallel(check, names, workers), 1):
        found += [damage] if damage else []
        report(Progress("verifying", done, len(names)))
    return sorted(found, key=lambda one: (one.kind, one.name))


def verify_folder(
    folder: Path, report: ProgressCallback = lambda _: None, *, workers: int = 4
) -> list[Damage]:
    """Compare every file of a finished pull with its recorded hash.

    Args:
        folder: The folder of the pull.
        report: Receives the progress.
        workers: Number of threads.

    Raises:
        NotFound: The folder holds no finished pull.
    """
    state = folder / STATE
    try:
        description = read_description(folder)
    except Corrupt as error:
        return [Damage("file", f"{STATE}/pull.json", error.message)]
    if not description or not (state / "files.jsonl").is_file():
        raise NotFound(f"{folder} holds no finished pull", "run 'layerloop snapshot pull' again")
    listed = (state / "files.jsonl").read_bytes()
    if hashlib.sha256(listed).hexdigest() != description["files"]:
        samples = locate_line(listed, description["files"], _recorded_sample)
        return [Damage("file", f"{STATE}/files.jsonl", "the record of the files differs", samples)]
    records = [parse_record(line) for line in listed.decode().split("\n") if line]

    def check(one: FileRecord) -> Damage | None:
        return _check_file(folder, one)

    found = []
    report(Progress("verifying", 0, len(records)))
    for done, damage in enumerate(in_parallel(check, records, workers), 1):
        found += [damage] if damage else []
        report(Progress("verifying", done, len(records)))
    if description.get("decisions"):
        found = [replace(one, samples=(), candidates=one.samples) for one in found]
    return sorted(found, key=lambda one: one.name)


def locate_line(
    data: bytes, sha256: str, sample_of: Callable[[bytes], str | None]
) -> tuple[str, ...]:
    """Return the sample in whose line a single bit differs, by trying bits of a short text.

    Args:
        data: The damaged text.
        sha256: The hash that it should have.
        sample_of: Function that returns the sample of a line.

    Returns:
        One id, or nothing if no single bit explains the difference or the text is long.
    """
    if len(data) > MAX_SEARCHED_BYTES:
        return ()
    wanted = bytes.fromhex(sha256)
    before = hashlib.sha256()
    for place, value in enumerate(data):
        rest = data[place + 1 :]
        for bit in range(8):
            trial = before.copy()
            trial.update(bytes([value ^ (1 << bit)]) + rest)
            if trial.digest() == wanted:
                repaired = data[:place] + bytes([value ^ (1 << bit)]) + rest
                return _sample_at(repaired, place, sample_of)
        before.update(data[place : place + 1])
    return ()


def _sample_at(
    text: bytes, place: int, sample_of: Callable[[bytes], str | None]
) -> tuple[str, ...]:
    start = text.rfind(b"\n", 0, place) + 1
    end = text.find(b"\n", place)
    sample = sample_of(text[start : end if end >= 0 else len(text)])
    return (sample,) if sample else ()


def _check_part(
    store: ObjectReader, manifest: Manifest, part: Part, layers: dict[str, list[str]]
) -> Iterator[Damage]:
    """Check a part, and add its layers with their samples."""
    data, damage = _read(store, part.sha256, "part")
    if damage is None:
        for line in data.decode().split("\n"):
            if line:
                sample = Sample.read(line)
                for name in sample.layers.values():
                    layers.setdefault(name, []).append(sample.id)
        return
    raw = _raw(store, part.sha256)
    samples = _damaged_lines(raw, manifest, part) if raw is not None else ()
    if len(samples) != 1 and raw is not None:
        samples = locate_line(raw, part.sha256, _line_sample) or samples
    if raw is not None and not samples:
        problem = f"{damage.problem}; one of {part.samples} samples from {part.prefix or '0'}"
        damage = Damage(damage.kind, damage.name, problem)
    yield Damage(damage.kind, damage.name, damage.problem, samples)


def _check_decisions(
    store: ObjectReader, part: Part, layers: dict[str, list[str]]
) -> Iterator[Damage]:
    """Check a part of decisions, and add its layers with their candidates.

    Every line has a check of its own, so that a damaged one is known in a part of any length.
    """
    data, damage = _read(store, part.sha256, "decisions")
    if damage is None:
        for line in data.decode().split("\n"):
            if line:
                record = DecisionRecord.read(line)
                for name in record.layers.values():
                    layers.setdefault(name, []).append(record.candidate)
        return
    raw = _raw(store, part.sha256)
    lines = raw.split(b"\n") if raw is not None else []
    damaged = [line for line in lines if line and not _is_sound_decision(line)]
    names = tuple(name for line in damaged for name in _line_candidates(line))
    yield replace(damage, candidates=names)


def _is_sound_decision(line: bytes) -> bool:
    try:
        DecisionRecord.read(line.decode())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _line_candidates(line: bytes) -> list[str]:
    """Return the candidates of a damaged line: two where the end of a line was damaged.

    Single bits of the id, and if there is none, of the whole line, are tried until the check fits.
    """
    stated = list(re.finditer(rb'"candidate":"(.{32})"', line))
    if len(stated) == 1:
        repaired = _repair_decision(line, range(*stated[0].span(1)))
    else:
        repaired = _repair_decision(line, range(min(len(line), MAX_SEARCHED_BYTES)))
    names = [one.group(1).decode("ascii", errors="replace") for one in stated]
    return [repaired] if repaired else names or ["unreadable"]


def _repair_decision(line: bytes, places: range) -> str | None:
    """Return the candidate of a line that is sound after a single bit is changed back."""
    for place in places:
        for bit in range(8):
            trial = line[:place] + bytes([line[place] ^ (1 << bit)]) + line[place + 1 :]
            if _is_sound_decision(trial):
                return DecisionRecord.read(trial.decode()).candidate
    return None


def _damaged_lines(data: bytes, manifest: Manifest, part: Part) -> tuple[str, ...]:
    """Return the ids of lines that cannot be as they were frozen."""
    lines = data.split(b"\n")
    return tuple(
        _line_sample(line) or "unreadable"
        for line in lines[:-1] or lines
        if not _is_sound(line, manifest, part)
    )


def _is_sound(line: bytes, manifest: Manifest, part: Part) -> bool:
    try:
        sample = Sample.read(line.decode())
        is_canonical = sample.line().encode() == line
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    is_own_id = content_id("sample", sample.visible).hex == sample.id
    counted = {
        "kind": sample.kind, "licence": sample.licence, "split": sample.split,
        "round": str(sample.round),
    }  # fmt: skip
    is_counted = all(
        str(value) in manifest.counts[name] for name, value in counted.items()
        if name in manifest.counts
    )  # fmt: skip
    return is_canonical and is_own_id and is_counted and sample.id.startswith(part.prefix)


def _line_sample(line: bytes) -> str | None:
    """Return the id of the sample of a line, even if the line is no longer JSON.

    The line states the id and, as the hash of the visible pixels, what it follows from. Where the
    two differ in one digit, the id itself was damaged.
    """
    stated = re.search(rb'"id":"(.{32})"', line)
    visible = re.search(rb'"visible":"([0-9a-f]{64})"', line)
    id_ = stated.group(1).decode("ascii", errors="replace") if stated else ""
    derived = content_id("sample", visible.group(1).decode()).hex if visible else ""
    differing = sum(a != b for a, b in zip(id_, derived, strict=False))
    return (derived if derived and differing <= 1 else id_) or None


def _recorded_sample(line: bytes) -> str | None:
    try:
        one = parse_record(line.decode())
    except (ValueError, KeyError, TypeError):
        return None
    return one.sample or None


def _read(
    store: ObjectReader, name: str, kind: str, samples: Iterable[str] = ()
) -> tuple[bytes, Damage | None]:
    try:
        return store.get(name), None
    except Corrupt:
        return b"", Damage(kind, name, "its bytes do not match its hash", tuple(samples))
    except NotFound:
        return b"", Damage(kind, name, "it is missing", tuple(samples))


def _raw(store: ObjectReader, name: str) -> bytes | None:
    """Return the bytes of a damaged object, where a store hands them out unchecked."""
    read: Callable[[str], bytes] | None = getattr(store, "get_unchecked", None)
    try:
        return read(name) if read else None
    except LayerloopError:
        return None


def undecodable(name: str, data: bytes, samples: Iterable[str]) -> Damage | None:
    """Return the damage of a layer whose bytes are as stored and yet are no image, if it is so."""
    try:
        decode_layer(data)
    except Corrupt as error:
        return Damage("layer", name, error.message, tuple(samples))
    return None


def _check_file(folder: Path, one: FileRecord) -> Damage | None:
    path = folder / one.path
    samples = (one.sample,) if one.sample else ()
    if not path.is_file():
        return Damage("file", one.path, "it is missing", samples)
    if path.stat().st_size == one.size and compute_sha256(path) == one.sha256:
        return None
    # Of a shard or a table, the samples are looked for inside.
    return Damage(
        "file", one.path, "it differs from what was pulled", samples or _inside(path, one)
    )


def _inside(path: Path, one: FileRecord) -> tuple[str, ...]:
    """Return the samples of a damaged table or shard, if a single line or member is to blame."""
    if not one.rows:
        return locate_line(path.read_bytes(), one.sha256, _metadata_sample)
    shard_format = WebDatasetFormat() if path.suffix == ".tar" else ParquetFormat()
    try:
        images = shard_format.read_images(path)
    except Exception:  # a damaged container may fail in any way
        images = {}
    found = {f"{sample}.{column}": data for (sample, column), data in images.items()}
    wrong = {
        name.partition(".")[0]
        for name, digest in one.digests.items()
        if hashlib.sha256(found.get(name, b"")).hexdigest() != digest
    }
    return tuple(sorted(wrong))


def _metadata_sample(line: bytes) -> str | None:
    try:
        row: Mapping[str, object] = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    return next((str(row[name]) for name in KEYS if row.get(name)), None)
