"""Programs that read pulled snapshots, in an environment of their own, which is kept between runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.servers import missing

PACKAGES = ("datasets==5.2.0", "webdataset==1.0.2", "mlcroissant==1.1.1", "pillow==13.0.0")
CACHE = Path.home() / ".cache" / "layerloop" / "snapshot-readers"

READ = """
import glob, json, os, sys
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HOME"] = sys.argv[3]
program, folder = sys.argv[1:3]
found = {}
if program in ("imagefolder", "parquet", "webdataset", "card"):
    import datasets
    datasets.disable_progress_bars()
    read = datasets.load_dataset(folder) if program == "card" else datasets.load_dataset(program, data_dir=folder)
    for split, rows in read.items():
        found[split] = [
            {name: [value.mode, *value.size] if hasattr(value, "mode") else value for name, value in row.items()}
            for row in rows
        ]
elif program == "dpo":
    # What train_diffusion_dpo.py of diffusers does before its transforms.
    import datasets, io
    from PIL import Image
    datasets.disable_progress_bars()
    rows = datasets.load_dataset("parquet", data_dir=folder, split="train")
    for row in rows:
        images = [Image.open(io.BytesIO(row[name])).convert("RGB") for name in ("jpg_0", "jpg_1")]
        preferred, other = images[::-1] if row["label_0"] == 0 else images
        found[row["pair_id"]] = [row["caption"], list(preferred.getpixel((9, 9))), list(other.getpixel((9, 9)))]
elif program == "wds":
    import webdataset
    for split in ("train", "validation"):
        shards = sorted(glob.glob(f"{folder}/data/{split}-*.tar"))
        rows = webdataset.WebDataset(shards, shardshuffle=False).decode("pilrgba")
        found[split] = [{"sample_id": row["json"]["sample_id"], "text": row["txt"],
                         "image": [row["png"].mode, *row["png"].size]} for row in rows]
elif program == "packed":
    import webdataset
    split = json.load(open(f"{folder}/.nv-meta/split.yaml"))
    removed = {f"{folder}/{path}" for path in split["exclude"]}
    for part, shards in split["split_parts"].items():
        if not shards:
            continue
        every = webdataset.WebDataset([f"{folder}/{path}" for path in shards], shardshuffle=False)
        found["all " + part] = sum(1 for _ in every)
        rows = every.select(lambda row: f"{row['__url__']}/{row['__key__']}" not in removed).decode("pilrgba")
        found[part] = [[row["__key__"], row["txt"], row["json"]["id"], row["foreground.webp"].mode,
                        *row["foreground.webp"].size] for row in rows]
else:
    import mlcroissant
    read = mlcroissant.Dataset(jsonld=f"{folder}/croissant.json")
    found = {"errors": sorted(read.metadata.ctx.issues.errors),
             "version": str(read.metadata.ctx.conforms_to),
             "records": [str(one.uuid) for one in read.metadata.record_sets]}
    if program == "records":
        found["rows"] = [row["samples/sample_id"].decode() for row in read.records("samples")]
print(json.dumps(found))
"""


def readers_python() -> Path:
    """Return the interpreter of the environment, which is created if it does not exist."""
    python = CACHE / "bin" / "python"
    mark = CACHE / f"complete-{'-'.join(PACKAGES).replace('==', '-')}"
    if mark.exists():
        return python
    if os.environ.get("CI") != "true" and not python.exists():
        missing(
            "the readers of snapshots", f"python -m venv {CACHE}; pip install {' '.join(PACKAGES)}"
        )
    subprocess.run([sys.executable, "-m", "venv", str(CACHE)], check=True, timeout=120)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *PACKAGES], check=True, timeout=900)
    mark.touch()
    return python


def read_with(program: str, folder: Path, cache: Path) -> dict[str, Any]:
    """Read a pulled folder with a program, and return its rows by split."""
    done = subprocess.run(
        [str(readers_python()), "-W", "ignore", "-c", READ, program, str(folder), str(cache)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
