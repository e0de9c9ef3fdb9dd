"""The use of NVIDIA GPUs of this machine, and the memory that torch holds in this process."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

KEEP_SECONDS = 5.0
TIMEOUT_SECONDS = 5
MEBIBYTE = 1 << 20

# Field of nvidia-smi, name of the metric, its description, and the factor to its unit.
FIELDS: Sequence[tuple[str, str, str, float]] = (
    ("utilization.gpu", "layerloop_gpu_utilization_ratio", "Share of time that kernels ran.", 0.01),
    ("memory.used", "layerloop_gpu_memory_used_bytes", "Used GPU memory.", MEBIBYTE),
    ("memory.total", "layerloop_gpu_memory_total_bytes", "GPU memory.", MEBIBYTE),
    ("temperature.gpu", "layerloop_gpu_temperature_celsius", "Temperature of the GPU.", 1),
    ("power.draw", "layerloop_gpu_power_watts", "Power that the GPU draws.", 1),
)

_registered = threading.Event()


def register_gpu_metrics() -> None:
    """Add the GPUs to the metrics of this process; without GPUs there are no such metrics."""
    if not _registered.is_set():
        _registered.set()
        REGISTRY.register(GpuCollector())


class GpuCollector(Collector):
    """Asks nvidia-smi for all GPUs, and torch for the memory of this process."""

    def __init__(self) -> None:
        self._program = shutil.which("nvidia-smi")
        self._lock = threading.Lock()
        self._rows: list[list[str]] = []
        self._read_at = float("-inf")

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering queries no GPU."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield one metric by GPU for each field that it reports."""
        rows = self._query()
        for column, (_, name, documentation, factor) in enumerate(FIELDS, start=1):
            family = GaugeMetricFamily(name, documentation, labels=("gpu",))
            for row in rows:
                # A GPU answers "[N/A]" for what it does not measure.
                if (value := _number(row[column])) is not None:
                    family.add_metric((row[0],), value * factor)
            if family.samples:
                yield family
        yield from _torch_memory()

    def _query(self) -> list[list[str]]:
        """Return a row for each GPU: its index, then the fields."""
        with self._lock:
            if self._program and time.monotonic() - self._read_at >= KEEP_SECONDS:
                self._rows = read_gpus(self._program)
                self._read_at = time.monotonic()
            return self._rows


def read_gpus(program: str) -> list[list[str]]:
    """Return the output of nvidia-smi, one row for each GPU; none if it fails or hangs.

    Args:
        program: Path of nvidia-smi.
    """
    query = ",".join(("index", *(field for field, *_ in FIELDS)))
    command = [program, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [row for row in rows if len(row) == len(FIELDS) + 1]


def _torch_memory() -> Iterator[Metric]:
    """Yield the memory that torch holds, if a job of this process has loaded it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    family = GaugeMetricFamily(
        "layerloop_torch_memory_bytes",
        "GPU memory that torch has reserved in this process, and the allocated part of it.",
        labels=("gpu", "kind"),
    )
    for index in range(torch.cuda.device_count()):
        family.add_metric((str(index), "allocated"), torch.cuda.memory_allocated(index))
        family.add_metric((str(index), "reserved"), torch.cuda.memory_reserved(index))
    yield family


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
