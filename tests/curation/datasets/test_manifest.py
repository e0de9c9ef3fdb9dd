"""Snapshots as objects: read in order, one part at a time; anything invalid is an error."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.datasets.manifest import (
    FORMAT,
    Manifest,
    Part,
    find_sample,
    prefix_length,
    read_manifest,
    read_samples,
)
from curation.domain import Kind, LayerRole, Sample, Split, canonical_json
from curation.errors import Corrupt, NotFound
from curation.object_store import FolderStore


def sample(number: int, prefix: str = "") -> Sample:
    sha = hashlib.sha256(f"{number}".encode()).hexdigest()
    return Sample(
        id=(prefix + sha)[:32],
        kind=Kind.single,
        caption=f"caption {number} – “with” \u2028 odd signs",
        licence="CC0-1.0",
        source="a test",
        split=Split.train,
        round=0,
        visible=sha,
        layers={LayerRole.foreground: sha},
    )


def freeze(store: FolderStore, *parts: tuple[str, list[Sample]]) -> str:
    """Return a snapshot of parts written by hand."""
    listed = []
    for prefix, samples in parts:
        text = "".join(one.line() + "\n" for one in sorted(samples, key=lambda one: one.id))
        listed.append(Part(prefix, store.put(text.encode()), len(samples)))
    return store.put(
        Manifest(tuple(listed), {"kind": {"single": sum(len(s) for _, s in parts)}}).bytes()
    )


def test_a_snapshot_is_read_back_in_the_order_of_its_ids(store):
    samples = [sample(number) for number in range(50)]
    snapshot = freeze(store, ("", samples))
    assert list(read_samples(store, snapshot)) == sorted(samples, key=lambda one: one.id)
    root = read_manifest(store, snapshot)
    assert (root.id, root.samples, root.counts) == (snapshot, 50, {"kind": {"single": 50}})


def test_reading_goes_on_after_a_sample_and_leaves_earlier_parts_alone(store):
    early, late = [sample(n, "0") for n in range(5)], [sample(n, "f") for n in range(5)]
    snapshot = freeze(store, ("0", early), ("f", late))
    in_order = sorted([*early, *late], key=lambda one: one.id)
    for at in range(10):
        assert list(read_samples(store, snapshot, after=in_order[at].id)) == in_order[at + 1 :]
    part = read_manifest(store, snapshot).parts[0].sha256
    (store.folder / part[:2] / part[2:]).unlink()
    assert list(read_samples(store, snapshot, after=in_order[5].id)) == in_order[6:]


def test_one_sample_is_found_by_its_id_or_not(store):
    samples = [sample(n, "0") for n in range(5)] + [sample(9, "f")]
    snapshot = freeze(store, ("0", samples[:5]), ("f", samples[5:]))
    assert find_sample(store, snapshot, samples[3].id) == samples[3]
    assert find_sample(store, snapshot, samples[5].id) == samples[5]
    assert find_sample(store, snapshot, "0" * 32) is None
    assert find_sample(store, snapshot, "a" * 32) is None


def test_the_bytes_of_a_root_are_the_format_that_others_read():
    root = Manifest((Part("", "ab" * 32, 2),), {"split": {"train": 2}})
    assert root.bytes() == (
        b'{"counts":{"split":{"train":2}},"format":"layerloop snapshot 1","parts":[{"prefix":"","samples":2,'
        b'"sha256":"abababababababababababababababababababababababababababababababab"}]}\n'
    )


def test_the_line_of_a_sample_is_the_format_that_others_read():
    assert json.loads(sample(1).line()) == {
        "id": sample(1).id, "kind": "single", "caption": "caption 1 – “with” \u2028 odd signs", "licence": "CC0-1.0",
        "source": "a test", "split": "train", "round": 0, "visible": sample(1).visible,
        "layers": {"foreground": sample(1).visible},
    }  # fmt: skip


@given(caption=st.text(), licence=st.text(), source=st.text(), round_=st.integers(0, 10**6))
def test_any_text_survives_a_line(caption, licence, source, round_):
    one = Sample(
        "a" * 32,
        Kind.pair,
        caption,
        licence,
        source,
        Split.heldout,
        round_,
        "b" * 64,
        {LayerRole.blended: "c" * 64},
    )
    try:
        line = one.line().encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no text; no file and no page can bring one in
    assert b"\n" not in line
    assert Sample.read(line.decode()) == one


@pytest.mark.parametrize(
    "root", [b"", b"{}", b"[]", b"\xff\xfe", b'{"format":"layerloop snapshot 2","parts":[]}']
)
def test_an_object_that_is_no_snapshot_is_corrupt(store, root):
    name = store.put(root)
    with pytest.raises(Corrupt, match=name[:12]):
        read_manifest(store, name)


def test_a_snapshot_that_is_not_there_is_not_found(store):
    with pytest.raises(NotFound):
        list(read_samples(store, "0" * 64))


@pytest.mark.parametrize("text", ["no json\n", "{}\n", "[]\n", "null\n", '{"id": 1}\n', ""])
def test_an_invalid_part_is_corrupt(store, text):
    part = {"prefix": "", "sha256": store.put(text.encode()), "samples": 1}
    root = canonical_json({"format": FORMAT, "parts": [part], "counts": {}})
    with pytest.raises(Corrupt):
        list(read_samples(store, store.put(root.encode())))


def test_parts_stay_of_a_size_that_can_be_read_and_rewritten():
    for samples in (4_096, 65_535, 65_536, 1_000_000, 1_048_576, 10_000_000):
        assert 250 <= samples / 16 ** prefix_length(samples) <= 4_096
    assert prefix_length(0) == prefix_length(4_095) == 0
