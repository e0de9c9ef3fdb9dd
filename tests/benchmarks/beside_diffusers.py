"""Measure steps per second of our base recipe beside diffusers' SDXL example script, with one tiny model.

The script is diffusers' own: --script names its examples/text_to_image/train_text_to_image_sdxl.py (or its _lora
variant, with --rank). It needs the library `datasets`, and torchvision: if that is missing, a replacement with six
transforms is put on the path. Both sides cache or encode in their own way; only training steps after the warm-up are
timed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from curation.datasets.manifest import Manifest, Part
from curation.domain import Kind, LayerRole, Sample, Split, TrainingRequest
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from curation.synthetic.dataset import draw_seed_set
from tests.training.pretrained import write_sdxl
from training.denoiser.train import train_base
from training.presets.presets import find_preset
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.networks import Transparency

IMAGE_COUNT = 64
TEXTS = (768, 1280)  # the widths of SDXL's text encoders

TRANSFORMS = """
import random
from enum import Enum
import numpy as np
import torch
class InterpolationMode(Enum):
    BILINEAR = "bilinear"; BICUBIC = "bicubic"; NEAREST = "nearest"; LANCZOS = "lanczos"; BOX = "box"; HAMMING = "hamming"
class Compose:
    def __init__(self, steps): self.steps = steps
    def __call__(self, image):
        for step in self.steps: image = step(image)
        return image
class Resize:
    def __init__(self, size, interpolation=None): self.size = size
    def __call__(self, image):
        ratio = self.size / min(image.size)
        return image.resize((round(image.width * ratio), round(image.height * ratio)), 2)
class CenterCrop:
    def __init__(self, size): self.size = size
    def __call__(self, image):
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        return image.crop((left, top, left + self.size, top + self.size))
class RandomCrop(CenterCrop):
    @staticmethod
    def get_params(image, size):
        height, width = size
        return random.randint(0, image.height - height), random.randint(0, image.width - width), height, width
class RandomHorizontalFlip:
    def __init__(self, p=0.5): self.p = p
    def __call__(self, image): return image.transpose(0) if random.random() < self.p else image
class ToTensor:
    def __call__(self, image): return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
class Normalize:
    def __init__(self, mean, std): self.mean, self.std = torch.tensor(mean), torch.tensor(std)
    def __call__(self, tensor): return (tensor - self.mean[:, None, None]) / self.std[:, None, None]
"""
# transformers must have looked for the real torchvision before the replacement is on the path.
START = """
import runpy, sys
from transformers.utils import is_torchvision_available
real = is_torchvision_available()
import diffusers.image_processor, transformers.image_utils
path, script, clock, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
import json, time, torch.utils.tensorboard
times, write = [], torch.utils.tensorboard.SummaryWriter.add_scalar
def add_scalar(self, name, *given, **more):
    if name == "train_loss":
        times.append((time.time(), time.process_time()))
        open(clock, "w").write(json.dumps(times))
    return write(self, name, *given, **more)
torch.utils.tensorboard.SummaryWriter.add_scalar = add_scalar
if not real:
    sys.path.insert(0, path)
runpy.run_path(script, run_name="__main__")
"""
CROP = "def crop(image, top, left, height, width): return image.crop((left, top, left + width, top + height))\n"


Rates = tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """The settings of one comparison."""

    folder: Path
    side: int
    batch: int
    steps: int
    warm: int
    rank: int
    threads: int
    precision: str
    changes: tuple[str, ...]


def main() -> None:
    """Print steps per second of both sides, alternately, and the ratio of their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--script", type=Path, help="diffusers' train_text_to_image_sdxl.py, or _lora_sdxl.py"
    )
    parser.add_argument(
        "--rank",
        type=int,
        default=0,
        help="rank of a LoRA, for the script's LoRA variant; 0 trains all weights",
    )
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--channels", default="32,64,128")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument(
        "--warm", type=int, default=4, help="warm-up steps; on a GPU a multiple of ten"
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--set", action="append", default=[], help="an override of our preset, name=value"
    )
    parser.add_argument(
        "--ours", type=Path, help=argparse.SUPPRESS
    )  # this file's own child process
    options = parser.parse_args()
    if options.ours:
        _train_ours(Plan(**{**json.loads(options.ours.read_text()), "folder": options.ours.parent}))
        return
    if options.script is None or not options.script.is_file():
        parser.error(
            "--script PATH: a checkout of diffusers' examples/text_to_image/train_text_to_image_sdxl.py"
        )
    with tempfile.TemporaryDirectory(prefix="layerloop-beside-") as name:
        folder = Path(name)
        sizes = (
            options.side,
            options.batch,
            options.steps,
            options.warm,
            options.rank,
            options.threads,
            options.precision,
        )
        plan = Plan(folder, *sizes, changes=tuple(options.set))
        _prepare(plan, tuple(int(width) for width in options.channels.split(",")))
        rates: dict[str, list[Rates]] = {"ours": [], "diffusers": []}
        for turn in range(options.turns):
            rates["diffusers"].append(_run_script(plan, options.script.resolve(), turn))
            rates["ours"].append(_run_ours(plan, turn))
            print(
                "  ".join(f"{side} {_format_rates(*found[-1])}" for side, found in rates.items()),
                flush=True,
            )
        for index, unit in enumerate(("second", "CPU-second")):
            ours, expected = (
                statistics.median(rate[index] for rate in found) for found in rates.values()
            )
            print(
                f"steps a {unit}: ours {ours:.3f}, diffusers {expected:.3f}, ratio {ours / expected:.2f}",
                flush=True,
            )


def _format_rates(wall: float, processor: float) -> str:
    return f"{wall:.3f} steps/s, {processor:.3f} steps/CPU-s"


def _prepare(plan: Plan, channels: tuple[int, ...]) -> None:
    """Write a tiny SDXL model, a folder of captioned images, and a snapshot of the same images."""
    layers = (
        (0, *(1,) * (len(channels) - 1)) if len(channels) < 3 else (1, *(2,) * (len(channels) - 1))
    )
    unet = {"layers_per_block": 2, "transformer_layers_per_block": layers}
    model = write_sdxl(plan.folder / "model", channels, texts=TEXTS, **unet)
    weights = torch.nn.Module.parameters(_unet(model))
    print(
        f"UNet of {sum(p.numel() for p in weights) / 1e6:.1f} M weights, batch {plan.batch}, {plan.side} px",
        flush=True,
    )
    draw_seed_set(plan.folder / "seeds", IMAGE_COUNT)
    images = plan.folder / "images"
    images.mkdir()
    store, samples, lines = FolderStore(plan.folder / "objects"), [], []
    for row in map(json.loads, (plan.folder / "seeds" / "metadata.jsonl").read_text().splitlines()):
        image = (
            Image.open(plan.folder / "seeds" / row["file_name"])
            .convert("RGBA")
            .resize((plan.side, plan.side))
        )
        rgba = np.asarray(image)
        layer = {LayerRole.foreground: store.put(encode_layer(rgba))}
        fields = (row["text"], row["licence"], row["source"], Split.train)
        samples.append(
            Sample(pixel_hash(rgba)[:32], Kind.single, *fields, 0, pixel_hash(rgba), layer)
        )
        name = Path(row["file_name"]).stem + ".png"
        image.convert("RGB").save(images / name)
        lines.append(json.dumps({"file_name": name, "text": row["text"]}))
    (images / "metadata.jsonl").write_text("\n".join(lines))
    text = "".join(sample.line() + "\n" for sample in sorted(samples, key=lambda sample: sample.id))
    snapshot = store.put(Manifest((Part("", store.put(text.encode()), len(samples)),), {}).bytes())
    (plan.folder / "snapshot").write_text(snapshot)
    stand_in = plan.folder / "path" / "torchvision" / "transforms"
    stand_in.mkdir(parents=True)
    (stand_in.parent / "__init__.py").write_text("__version__ = '0'\n")
    (stand_in / "__init__.py").write_text(TRANSFORMS)
    (stand_in / "functional.py").write_text(CROP)


def _unet(model: Path) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(model, subfolder="unet")


def _run_script(plan: Plan, script: Path, turn: int) -> Rates:
    """Run diffusers' training, timed whenever it logs a step's loss."""
    out = plan.folder / f"theirs-{turn}"
    arguments = {
        "pretrained_model_name_or_path": plan.folder / "model", "train_data_dir": plan.folder / "images",
        "caption_column": "text", "resolution": plan.side, "train_batch_size": plan.batch, "learning_rate": 1e-5,
        "max_train_steps": plan.steps, "lr_scheduler": "constant", "lr_warmup_steps": 0, "seed": 0,
        "output_dir": out, "report_to": "tensorboard", "cache_dir": plan.folder / "cache",
        "checkpointing_steps": 10**9, "mixed_precision": "no" if plan.precision == "fp32" else plan.precision,
    }  # fmt: skip
    arguments |= {"rank": plan.rank} if plan.rank else {}
    options = [*(f"--{name}={value}" for name, value in arguments.items()), "--center_crop"]
    clock = plan.folder / "theirs.json"
    command = [
        sys.executable,
        "-c",
        START,
        str(plan.folder / "path"),
        str(script),
        str(clock),
        *options,
    ]
    _run(command, _environment(plan) | {"HF_HUB_OFFLINE": "1"}, plan.folder / f"theirs-{turn}.log")
    return _rates(plan, clock)


def _run_ours(plan: Plan, turn: int) -> Rates:
    output = plan.folder / "plan.json"
    output.write_text(json.dumps({**plan.__dict__, "folder": "", "warm": plan.warm}))
    _run(
        [sys.executable, "-m", __spec__.name, "--ours", str(output)],
        _environment(plan),
        plan.folder / f"ours-{turn}.log",
    )
    return _rates(plan, plan.folder / "ours.json")


def _rates(plan: Plan, clock: Path) -> Rates:
    """Return the median steps per second of wall time and of CPU time after the warm-up.

    The clock file has both times at the end of each step. The median is robust to other load; on a GPU it is the mean,
    since our steps are reported in groups of ten there.
    """
    times = json.loads(clock.read_text())
    if torch.cuda.is_available():
        (started, used), (ended, spent) = times[plan.warm - 1], times[-1]
        return (len(times) - plan.warm) / (ended - started), (len(times) - plan.warm) / (
            spent - used
        )
    wall, processor = (
        statistics.median(
            after[index] - before[index] for before, after in itertools.pairwise(times[plan.warm :])
        )
        for index in (0, 1)
    )
    return 1 / wall, 1 / processor


def _train_ours(plan: Plan) -> None:
    """Train the base stage on the same model and images without features that the script lacks; store step times."""
    changes = {
        "model": str(plan.folder / "model"), "image_size": plan.side, "base_batch": plan.batch, "ema_decay": 0.0,
        "adapter_rank": plan.rank, "precision": plan.precision, "gradient_checkpointing": False, "buckets": False,
        "checkpoint_every_images": 10**9, "sample_every_images": 10**9, "warmup_images": 1, "cooldown": 0.0, "caption_dropout": 0.0,
        "draw_steps": 1, "posterior_noise": False, "threads": plan.threads,
    }  # fmt: skip
    overrides = {name: str(value) for name, value in changes.items()} | dict(
        override.split("=") for override in plan.changes
    )
    preset = find_preset("sdxl", overrides)
    torch.set_num_threads(plan.threads)
    torch.manual_seed(0)
    autoencoder = fit_autoencoder(preset, torch.empty(0))
    times: list[tuple[float, float]] = []
    snapshot = (plan.folder / "snapshot").read_text()
    request = TrainingRequest("base", "sdxl", snapshot, None, None, 0, plan.steps * plan.batch)

    def record(progress: object) -> None:
        if getattr(progress, "stage", "") == "base" and getattr(progress, "done", 0):
            times.append((time.time(), time.process_time()))
        if len(times) == plan.steps:
            (plan.folder / "ours.json").write_text(json.dumps(times))

    store = FolderStore(plan.folder / "objects")
    with tempfile.TemporaryDirectory(dir=plan.folder) as run:
        train_base(
            request,
            preset,
            store,
            Path(run) / "run",
            record,
            autoencoder,
            Transparency(preset).eval(),
            None,
        )


def _environment(plan: Plan) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(plan.threads)}


def _run(command: list[str], environment: dict[str, str], log: Path) -> None:
    with log.open("w") as out:
        done = subprocess.run(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise SystemExit(f"{log.stem} failed:\n" + "\n".join(_tail(log)))


def _tail(log: Path) -> Iterator[str]:
    yield from log.read_text().splitlines()[-30:]


if __name__ == "__main__":
    main()
