"""Verification of a snapshot in an object store, without an instance.

Every object is read and compared with the hash that names it, so that any flipped bit is found. A
damaged layer names its samples. In damaged manifests, parts and lists the flipped bit is looked for
(curation.exports.flipped_bits), and the samples of its line are named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from curation.datasets.decision_records import DecisionRecord
from curation.datasets.manifest import Manifest, Part, parse_manifest
from curation.domain import Progress, Sample, canonical_json, content_id
from curation.errors import Corrupt, LayerloopError, NotFound
from curation.exports.damage import Damage
from curation.exports.flipped_bits import Flip, find_flip, line_trials
from curation.exports.parallel import in_parallel
from curation.images.codec import decode_layer
from curation.object_store import ObjectReader, is_sha256
from curation.ports import ProgressCallback

MAX_SEARCHED_BYTES = 24_000
"""Length of a line of decisions up to which single bits are tried."""


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
    found: list[Damage] = []
    if damage is not None:
        flip = _find_in_manifest(store, snapshot, workers)
        if flip is None:
            return [damage]
        # The manifest as it was tells what the flipped bit concerns, and what else to check.
        data = flip.repaired
        known = parse_manifest(data, snapshot)
        found.append(manifest_damage(known, flip, lambda part: _ids_of(store, part)))
    manifest = parse_manifest(data, snapshot)
    layers: dict[str, list[str]] = {}
    decided: dict[str, list[str]] = {}
    ids = set[str]()

    def find(raw: bytes, part: Part) -> Flip | None:
        # Where layers are checked, a line is sound only if its layers are there.
        check = None if manifest_only else store
        trials = line_trials(raw, lambda line: _is_sound(line, manifest, part, check))
        return find_flip(raw, part.sha256, trials, workers)

    for part in manifest.parts:
        found += _check_part(store, part, find, layers, ids)
    for part in manifest.decisions.parts if manifest.decisions else ():
        found += _check_decisions(store, part, decided)
    if manifest.withheld:
        found += _check_withheld(store, manifest.withheld, ids, workers)
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


def manifest_damage(
    manifest: Manifest, flip: Flip, ids_of: Callable[[Part], Sequence[str]]
) -> Damage:
    """Return the damage of a manifest: the samples of the part in whose entry a bit is flipped.

    Args:
        manifest: The manifest as it was.
        flip: The bit.
        ids_of: Function that returns the ids in a part, as far as they can be read.
    """
    decisions = manifest.decisions.parts if manifest.decisions else ()
    text = flip.repaired.decode()
    for part in (*manifest.parts, *decisions):
        entry = canonical_json(part.__dict__)
        start = len(text[: text.index(entry)].encode())
        if start <= flip.place <= start + len(entry.encode()):
            problem = f"{flip}, in the entry of its part {part.sha256[:12]}"
            ids = tuple(ids_of(part))
            if part in decisions:
                return Damage("manifest", manifest.id, problem, candidates=ids)
            return Damage("manifest", manifest.id, problem, ids)
    problem = f"{flip}, in what it states of the whole snapshot, which concerns no single sample"
    return Damage("manifest", manifest.id, problem)


def manifest_trials(data: bytes, is_there: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """Yield likely trials for a damaged manifest: the names of parts that are not there.

    Args:
        data: The damaged manifest.
        is_there: Function that tells whether a store has an object.
    """
    for match in re.finditer(rb'"sha256":"(.{64})"', data, re.DOTALL):
        name = match.group(1).decode("ascii", errors="replace")
        if not is_there(name):
            yield from ((place, bit) for place in range(*match.span(1)) for bit in range(8))


def _find_in_manifest(store: ObjectReader, snapshot: str, workers: int) -> Flip | None:
    raw = _raw(store, snapshot)
    if raw is None:
        return None
    trials = manifest_trials(raw, lambda name: _is_there(store, name))
    return find_flip(raw, snapshot, trials, workers)


def _ids_of(store: ObjectReader, part: Part) -> list[str]:
    """Return the ids in a part, of samples or of decided candidates."""
    raw = _raw(store, part.sha256) or b""
    found = re.finditer(rb'"(?:id|candidate)":"([0-9a-f]{32})"', raw)
    return [match.group(1).decode() for match in found]


def _is_there(store: ObjectReader, name: str) -> bool:
    has: Callable[[str], bool] | None = getattr(store, "has", None)
    return is_sha256(name) and (has(name) if has else _raw(store, name) is not None)


def _check_part(
    store: ObjectReader,
    part: Part,
    find: Callable[[bytes, Part], Flip | None],
    layers: dict[str, list[str]],
    ids: set[str],
) -> Iterator[Damage]:
    """Check a part, and add its layers with their samples, and the ids of its samples."""
    data, damage = _read(store, part.sha256, "part")
    raw = _raw(store, part.sha256) if damage else None
    if damage and raw is not None:
        flip = find(raw, part)
        if flip is None:
            problem = f"{damage.problem}; one of {part.samples} samples from {part.prefix or '0'}"
            damage = replace(damage, problem=problem, samples=_damaged_lines(raw, part))
        else:
            data = flip.repaired
            samples = tuple(filter(None, map(_line_sample, flip.lines())))
            damage = replace(damage, problem=str(flip), samples=samples)
    yield from [damage] if damage else []
    for line in data.decode().split("\n"):
        if line:
            sample = Sample.read(line)
            ids.add(sample.id)
            for name in sample.layers.values():
                layers.setdefault(name, []).append(sample.id)


def _check_withheld(
    store: ObjectReader, name: str, ids: Collection[str], workers: int
) -> Iterator[Damage]:
    _, damage = _read(store, name, "withheld")
    raw = _raw(store, name) if damage else None
    if damage and raw is not None:
        trials = line_trials(raw, lambda line: line.decode("ascii", errors="replace") in ids)
        flip = find_flip(raw, name, trials, workers)
        if flip is not None:
            samples = tuple(line.decode() for line in flip.lines() if line)
            damage = replace(damage, problem=str(flip), samples=samples)
    yield from [damage] if damage else []


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


def _damaged_lines(data: bytes, part: Part) -> tuple[str, ...]:
    """Return the ids of lines that cannot be as they were frozen."""
    lines = data.split(b"\n")
    wrong = (line for line in lines[:-1] or lines if not _is_sound(line, None, part))
    return tuple(_line_sample(line) or "unreadable" for line in wrong)


def _is_sound(
    line: bytes, manifest: Manifest | None, part: Part, store: ObjectReader | None = None
) -> bool:
    """Return whether a line may have been frozen.

    Args:
        line: The line.
        manifest: The manifest, whose counts the line must be among.
        part: The part of the line.
        store: A store in which the layers of the line must be.
    """
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
    counts = manifest.counts if manifest else {}
    is_counted = all(
        str(value) in counts.get(name, {str(value): 1}) for name, value in counted.items()
    )
    if not (is_canonical and is_own_id and is_counted and sample.id.startswith(part.prefix)):
        return False
    return store is None or all(_is_there(store, name) for name in sample.layers.values())


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
