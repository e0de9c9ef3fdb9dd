"""Apply seeded mutations of valid files to the import, the scene reader and the reader of weight headers.

A run fails where anything is raised but the errors meant for people, where a file has no account, where a good file beside
the mutated ones is not taken, or where an item takes longer than the sandbox allows. Every process keeps its limits of
memory; the peak of this process and of its workers is printed.

    python -m tests.benchmarks.import_fuzz --seed 1 --mutations 20000
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import struct
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from curation.adapters import embedded_postgres
from curation.db import schema
from curation.db.engine import Database
from curation.errors import LayerloopError
from curation.ingest.inspection_result import InspectionOutcome
from curation.ingest.seed_import import import_seeds
from curation.object_store import FolderStore
from curation.ports import ObjectStore
from curation.scenes.scene import load_scene
from tests.support.factories import image
from tests.support.image_files import (
    P3,
    chromaticities,
    coded,
    gamma,
    make_ios_png,
    make_png,
    profile,
    profile_chunk,
    saved,
)
from training.external_weights import read_header as read_weights_header

TAKEN = {
    InspectionOutcome.accept,
    InspectionOutcome.accept_strip,
    InspectionOutcome.accept_warn,
    InspectionOutcome.review,
    InspectionOutcome.duplicate,
}
GOOD = 4
"""Good files beside the mutated ones of each batch."""
SCENE = b"""
whole = "two things"
size = "64x64"
[background]
colour = "skyblue"
[[layers]]
file = "good-0.png"
position = [3, 4]
scale = 0.5
opacity = 0.5
[[layers]]
prompt = "a fox"
seed = 7
"""


def valid_files() -> dict[str, list[tuple[str, bytes]]]:
    """Return valid files by the name of their kind: (suffix, bytes)."""
    rgba, other = image(1, 28, 24), image(2, 28, 24)
    exif = Image.Exif()
    exif[0x0112] = 6
    icc = profile(P3)
    rng = np.random.default_rng(3)
    deep = rng.integers(0, 65_536, (20, 20, 3))
    pngs = [
        saved(rgba, "PNG", exif=exif, icc_profile=icc),
        make_png(rgba, 6, 8, [coded(12, 13), (b"tEXt", b"a\0b")], interlaced=True),
        make_png(
            deep,
            2,
            16,
            [(b"tRNS", struct.pack(">3H", *deep[0, 0])), gamma(50_000), chromaticities(P3)],
        ),
        make_png(
            rng.integers(0, 16, (20, 20, 1)),
            3,
            4,
            [(b"PLTE", bytes(range(48))), (b"tRNS", bytes(range(16)))],
        ),
        make_png(rng.integers(0, 4, (20, 20, 1)), 0, 2, [(b"tRNS", b"\0\1"), profile_chunk(icc)]),
        make_ios_png(rgba),
        saved(Image.fromarray(rgba), "PNG", save_all=True, append_images=[Image.fromarray(other)]),
    ]
    tiffs = [
        saved(rgba, "TIFF", compression=kind, icc_profile=icc)
        for kind in (None, "tiff_lzw", "tiff_deflate")
    ]
    wide = io.BytesIO()
    tifffile.imwrite(
        wide, rgba.astype(np.uint16) * 257, photometric="rgb", extrasamples=["assocalpha"]
    )
    kinds: dict[str, list[tuple[str, bytes]]] = {
        "PNG": [("png", data) for data in pngs],
        "WebP": [
            ("webp", saved(rgba, "WEBP", lossless=True, exact=True, exif=exif, icc_profile=icc)),
            ("webp", saved(rgba, "WEBP", quality=60)),
            (
                "webp",
                saved(
                    Image.fromarray(rgba),
                    "WEBP",
                    save_all=True,
                    append_images=[Image.fromarray(other)],
                ),
            ),
        ],
        "JPEG": [
            ("jpg", saved(rgba[..., :3], "JPEG", exif=exif)),
            ("jpg", saved(Image.new("CMYK", (20, 20)), "JPEG")),
        ],
        "GIF": [
            ("gif", saved(rgba, "GIF")),
            ("gif", saved(rgba, "GIF", transparency=0, comment=b"hello")),
        ],
        "TIFF": [*(("tif", data) for data in tiffs), ("tif", wide.getvalue())],
        "AVIF": [("avif", saved(rgba, "AVIF", icc_profile=icc, exif=exif))],
        "PSD": [("psd", _photoshop(rgba))],
        "zip": [("zip", _zip(rgba, other))],
        "tar": [
            ("tar", _tar(rgba, other, form=form))
            for form in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT)
        ],
        "jsonl": [("jsonl", _manifest())],
        "TOML": [("toml", SCENE)],
        "safetensors": [("safetensors", _weights())],
    }
    return kinds


def _photoshop(rgba: np.ndarray) -> bytes:
    planes = np.ascontiguousarray(np.moveaxis(rgba, -1, 0)).tobytes()
    header = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 4, rgba.shape[0], rgba.shape[1], 8, 3)
    layers = struct.pack(">IIh", 6, 2, -1)
    return header + bytes(8) + layers + b"\0\0" + planes


def _zip(*images: np.ndarray) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, rgba in enumerate(images):
            archive.writestr(f"in/{number}.png", saved(rgba, "PNG"))
        archive.writestr("metadata.jsonl", _manifest())
    return out.getvalue()


def _tar(*images: np.ndarray, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for number, rgba in enumerate(images[:2]):
            for suffix, data in (
                ("png", saved(rgba, "PNG")),
                ("txt", f"a caption {number} é".encode()),
            ):
                info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _manifest() -> bytes:
    rows = [
        {"file_name": "good-0.png", "text": "a thing, 名前", "licence": "CC0-1.0", "source": "me", "split": "train"},
        {"foreground": "good-1.png", "background": "good-2.png", "text": "a", "text_foreground": "b",
         "text_background": "c", "license": "MIT"},
        {"file_name": "in/0.png", "caption": "x" * 200},
    ]  # fmt: skip
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _weights() -> bytes:
    head = {
        "a.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]},
        "__metadata__": {"layerloop": "{}"},
    }
    packed = json.dumps(head).encode()
    return struct.pack("<Q", len(packed)) + packed + bytes(64)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a valid file in one to four ways, and often make its checksums right again, so that more is reached."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            break
        rng.choice(WAYS)(changed, rng)
    if changed.startswith(b"\x89PNG") and rng.random() < 0.7:
        _repair_png(changed)
    return bytes(changed)


def _flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _replace(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    odd = rng.choice(
        [
            b"\0",
            b"\xff",
            b"\xff\xff\xff\xff",
            b"\x7f\xff\xff\xff",
            b"\0\0\0\0",
            b"\x80\0\0\0",
            b"[" * 9,
        ]
    )
    data[at : at + len(odd)] = odd


def _number(data: bytearray, rng: random.Random) -> None:
    """Put a large or small number where the headers are."""
    at = rng.randrange(min(len(data), 200))
    value = rng.choice([0, 1, 2, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1])
    data[at : at + 4] = struct.pack(rng.choice("<>") + "I", value)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 64)]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.randint(1, 200)] * rng.choice([1, 2, 50])


def _insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randint(1, 16))


WAYS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _flip, _replace, _number, _number, _cut, _remove, _repeat, _insert
)  # fmt: skip


def _repair_png(data: bytearray) -> None:
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if end > len(data):
            return
        data[end - 4 : end] = struct.pack(">I", zlib.crc32(data[at + 4 : end - 4]))
        at = end


class Fuzz:
    """Counts of what became of mutated files; `failures` holds what must not happen."""

    def __init__(self, database: Database, store: ObjectStore, home: Path, seed: int) -> None:
        self.database, self.store, self.home, self.seed = database, store, home, seed
        self.outcomes: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest = 0.0

    def run(
        self, mutations: int, batch: int, report: Callable[[str], None] = lambda _: None
    ) -> None:
        """Mutate, import and check, `batch` files at a time."""
        files = self._mutations(mutations)
        started, done = time.monotonic(), 0
        for number in range(-(-mutations // batch)):
            some = [file for _, file in zip(range(batch), files, strict=False)]
            self._import(number, some)
            done += len(some)
            report(
                f"{done} of {mutations} in {time.monotonic() - started:.0f} s, {len(self.failures)} failures"
            )

    def _mutations(self, count: int) -> Iterator[tuple[str, str, bytes]]:
        """Yield kind, suffix and bytes; every mutation depends on the seed and its own number alone."""
        kinds = valid_files()
        names = list(kinds)
        for number in range(count):
            rng = random.Random(self.seed * 1_000_003 + number)
            kind = names[number % len(names)]
            suffix, data = rng.choice(kinds[kind])
            yield kind, suffix, mutate(data, rng)

    def _import(self, number: int, some: list[tuple[str, str, bytes]]) -> None:
        with tempfile.TemporaryDirectory(dir=self.home, prefix=f"batch-{number}-") as name:
            folder = Path(name)
            good = [f"good-{index}.png" for index in range(GOOD)]
            for index, one in enumerate(good):
                (folder / one).write_bytes(saved(image(10_000 + number * GOOD + index), "PNG"))
            for index, (kind, suffix, data) in enumerate(some):
                self.kinds[kind] += 1
                path = folder / f"mutated-{index}.{suffix}"
                path.write_bytes(data)
                self._read(kind, path)
            begun = time.monotonic()
            try:
                output = import_seeds(self.database, self.store, folder)
            except Exception as error:
                self.failures.append(
                    f"batch {number}: the import ended with {type(error).__name__}: {error}"
                )
                return
            self.slowest = max(self.slowest, time.monotonic() - begun)
        self.outcomes.update({str(outcome): count for outcome, count in output.outcomes.items()})
        self.codes.update(output.codes)
        refused = {one.name: one for one in output.named if one.outcome not in TAKEN}
        for one in good:
            if one in refused and refused[one].codes[0] not in SPOKEN_FOR:
                self.failures.append(f"batch {number}: {one} was not taken: {refused[one]}")

    def _read(self, kind: str, path: Path) -> None:
        """Read scenes and headers of weights, which are no part of an import."""
        reader: Callable[[Path], object] | None = {
            "TOML": load_scene,
            "safetensors": read_weights_header,
        }.get(kind)
        if reader is None:
            return
        try:
            reader(path)
        except LayerloopError:
            self.outcomes[f"{kind} refused"] += 1
        except Exception as error:
            self.failures.append(f"{kind} {path.name}: {type(error).__name__}: {error}")
        else:
            self.outcomes[f"{kind} read"] += 1


SPOKEN_FOR = {
    "pair_incomplete", "sizes_differ", "background_not_opaque", "does_not_blend", "subject_left", "held_back"
}  # fmt: skip
"""A mutated manifest may name two good files as a pair, which they are not.

Where one of its lines can no longer be read, files that no other line describes wait until it is mended: the line may have
put them into the test split.
"""


def main() -> None:
    """Print the seed, the counts of outcomes and codes, and every failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=1_000)
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="layerloop-fuzz-") as home:
        database = Database(embedded_postgres.start_server(Path(home) / "postgres"))
        try:
            schema.migrate(database)
            fuzz = Fuzz(database, FolderStore(Path(home) / "objects"), Path(home), given.seed)
            fuzz.run(given.mutations, given.batch, lambda line: print(line, flush=True))
        finally:
            database.close()
            embedded_postgres.stop_server(Path(home) / "postgres")
    own, workers = (
        resource.getrusage(who).ru_maxrss >> 10
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"seed {given.seed}: {dict(fuzz.kinds)}")
    print(f"outcomes: {dict(fuzz.outcomes.most_common())}")
    print(f"codes: {dict(fuzz.codes.most_common())}")
    print(
        f"{time.monotonic() - started:.0f} s; slowest batch {fuzz.slowest:.0f} s; peak {own} MiB, workers {workers} MiB"
    )
    print(f"{len(fuzz.failures)} failures")
    for failure in fuzz.failures[:50]:
        print(failure)
    raise SystemExit(1 if fuzz.failures else 0)


if __name__ == "__main__":
    main()
