"""The training loop of all stages."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from curation.domain import Progress, Sample, TrainingRequest
from curation.ports import ProgressCallback
from training.data.buckets import Sampler
from training.engine.batch import Batch, Prefetcher, StepBatches, pin_memory, slice_batch, to_device
from training.engine.distributed import DistributedContext, is_out_of_memory, oom_hint
from training.engine.loggers import MetricLogger, open_tracker
from training.engine.metrics_buffer import MetricsBuffer, StepMetrics
from training.engine.resume import (
    StatePart,
    TrainingStateStore,
    load_state_dict,
    seeded_generator,
    state_dict,
)
from training.engine.schedule import EMA, StageSchedule, lr_multiplier
from training.presets.preset import Preset

logger = logging.getLogger("layerloop.training")

FLUSH_STEPS = 10  # steps between reads of metrics from a GPU


class TrainingStage(nn.Module):
    """A training stage: its networks, batches and losses.

    Parameters with `requires_grad` are trained and averaged. The randomness of a step derives from
    the number of images seen, and is drawn for the global batch at once, so that it depends on
    neither gradient accumulation nor the number of processes.
    """

    name: str
    schedule: StageSchedule

    @abstractmethod
    def build_optimizers(self) -> dict[str, Optimizer]:
        """Build the optimizers by name, the main one first; only its rate follows the schedule.

        Called after the parameters are on their device and sharded.
        """

    @abstractmethod
    def make_batch(
        self, indices: Sequence[int], local: Sequence[int], rng: torch.Generator
    ) -> Batch:
        """Make the micro-batches of this process, on the CPU; may run in a prefetch thread.

        Args:
            indices: Sample indices of the global batch.
            local: Positions in `indices` that this process trains on.
            rng: The step's random number generator, equal in all processes.

        Returns:
            The batch, with one row for each position in `local`.
        """

    @abstractmethod
    def forward(self, batch: Batch, images_seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean loss of a micro-batch, and metrics by name.

        Args:
            batch: The micro-batch, on the device.
            images_seen: Images seen before the step.
        """

    @abstractmethod
    def render_sample_grid(self, batch: Batch) -> bytes:
        """Generate a sample grid as PNG with the current weights."""

    @abstractmethod
    def core_modules(self) -> Sequence[nn.Module]:
        """Return the largest networks, which are compiled, checkpointed and sharded by block."""

    def end_step(
        self, metrics: Mapping[str, Tensor], all_reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """Update the stage's own buffers after an optimizer step; collective.

        Args:
            metrics: This process's share of the step's metrics.
            all_reduce: Sums a tensor over all processes, in place.
        """

    def validate(self) -> dict[str, float]:
        """Compute metrics on held-out images with the current weights; {} if there are none."""
        return {}

    def ema_module(self) -> nn.Module:
        """Return the networks whose EMA is the result of the training."""
        return self

    def frozen_modules(self) -> Sequence[nn.Module]:
        """Return networks that are not trained: on the device, but neither saved nor sharded."""
        return ()


@dataclass(frozen=True)
class TrainerContext:
    """The environment of a training: request, devices, sampler, folder and progress callback."""

    request: TrainingRequest
    preset: Preset
    distributed: DistributedContext
    samples: Sequence[Sample]  # by index, as in `sampler`
    sampler: Sampler
    folder: Path
    on_progress: ProgressCallback


def fit(stage: TrainingStage, context: TrainerContext) -> None:
    """Train a stage to its end, from the last saved state if there is one.

    The networks hold the EMA weights at the end. A training that is run again after an interruption
    is bit-identical to an uninterrupted one, on the CPU and with the same number of threads. An
    exception of `context.on_progress` stops the training; saved states remain.

    Args:
        stage: The stage to train.
        context: Its environment.

    Raises:
        Diverged: A loss or gradient is NaN or infinite; nothing of that step is saved.
        Refused: Memory ran out; the hint lists settings to change.
    """
    try:
        _run(stage, context)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise oom_hint(error, context.preset, stage.name) from error
        raise


def _run(stage: TrainingStage, context: TrainerContext) -> None:
    # Networks first: optimizers and EMA must refer to the sharded parameters on the device.
    preset, distributed, schedule = context.preset, context.distributed, stage.schedule
    model = distributed.wrap(stage, stage.core_modules(), stage.frozen_modules())
    optimizers = stage.build_optimizers()
    main = next(iter(optimizers.values()))
    average = EMA(stage.ema_module(), schedule.ema_decay, on_cpu=preset.ema_on_cpu)
    parts: dict[str, StatePart] = {
        "recipe": stage,
        "averaged": average.tensors,
        **optimizers,
        "scaler": distributed.scaler,
    }
    # Resume from the last saved state.
    run = TrainingStateStore(context.folder, stage.name, preset.keep_states)
    total, step = (
        context.request.images or schedule.images,
        distributed.global_batch_size(schedule.batch_size),
    )
    seen = 0
    if state := run.load_in_all(distributed):
        load_state_dict(parts, state)
        seen = state.images
        logger.info("stage %s continues after %s images", stage.name, f"{seen:,}")
    del state
    distributed.barrier()
    context.on_progress(Progress(stage.name, seen, total))

    buffer = _metrics_buffer(stage, context)
    # On the CPU a prefetch thread would compete for cores (docs/benchmarks/training.md).
    threaded = distributed.device.type != "cpu"
    with (
        closing(
            Prefetcher(
                lambda seen: _make_step(stage, context, seen, total), total, threaded=threaded
            )
        ) as prefetcher,
        closing(_open_log(run, context, seen, done=seen >= total)) as log,
    ):
        while seen < total:
            step_batches = prefetcher.get(seen)
            # The schedule applies to the main optimizer only.
            rate = lr_multiplier(seen, total, step, preset)
            for group in main.param_groups:
                group["lr"] = group["initial_lr"] * rate

            # Accumulate the gradients and metrics of all micro-batches, weighted by their share.
            metrics: dict[str, Tensor] = {}
            for number, (cpu_batch, share) in enumerate(step_batches.batches, start=1):
                batch = to_device(cpu_batch, distributed.device)
                with distributed.grad_sync(model, last=number == len(step_batches.batches)):
                    with distributed.autocast():
                        loss, batch_metrics = model(batch, seen)
                    distributed.backward(loss, share)
                for name, value in batch_metrics.items():
                    part = value.detach() * share
                    metrics[name] = metrics[name] + part if name in metrics else part
            metrics["gradient"] = distributed.optimizer_step(optimizers) / distributed.world_size
            average.update(seen, step)
            stage.end_step(metrics, distributed.all_reduce)

            # Grids and states are due whenever the image count passes a multiple of their interval.
            before, seen = seen, seen + len(step_batches.indices)
            grid_due = (
                seen >= total
                or before // preset.sample_every_images != seen // preset.sample_every_images
            )
            save_due = (
                seen >= total
                or before // preset.checkpoint_every_images
                != seen // preset.checkpoint_every_images
            )
            # Metrics are flushed before a save, so that no diverged state is ever saved.
            if (
                buffer.append(StepMetrics(seen, step_batches.indices, metrics))
                or grid_due
                or save_due
            ):
                for images, numbers in buffer.flush():
                    log.log(images, {**numbers, "rate": rate})
                    context.on_progress(Progress(stage.name, images, total, numbers))
            if grid_due:
                _write_sample_grid(stage, model, batch, average, context, run, log, seen)
            if save_due:
                # Gathering shards is collective; of replicas only the first process packs one.
                if distributed.is_main_process or preset.fsdp:
                    packed = state_dict(parts)
                    if distributed.is_main_process:
                        run.save(seen, *packed)
                    del packed
                distributed.barrier()
    average.swap()


def _make_step(stage: TrainingStage, context: TrainerContext, seen: int, total: int) -> StepBatches:
    """Make the step after `seen` images: its sample indices and this process's micro-batches."""
    distributed, batch = context.distributed, stage.schedule.batch_size
    # Divide the global batch among processes and micro-batches.
    indices = context.sampler.indices(seen, min(distributed.global_batch_size(batch), total - seen))
    shares = distributed.local_shards(len(indices), batch)
    local = [row for part, _ in shares for row in part]
    # Make all local rows at once, then slice them into micro-batches.
    rng = seeded_generator(context.request.seed, stage.name, seen)
    rows = pin_memory(stage.make_batch(indices, local, rng), distributed.device)
    batches, start = [], 0
    for part, share in shares:
        batches.append((slice_batch(rows, slice(start, start + len(part))), share))
        start += len(part)
    return StepBatches(indices, batches)


def _metrics_buffer(stage: TrainingStage, context: TrainerContext) -> MetricsBuffer:
    distributed, samples = context.distributed, context.samples
    stride = FLUSH_STEPS if distributed.device.type == "cuda" else 1
    scaled = distributed.scaler.is_enabled()
    return MetricsBuffer(
        stage.name,
        stride,
        distributed.all_reduce,
        lambda index: samples[index].id,
        grad_scaling=scaled,
    )


def _write_sample_grid(
    stage: TrainingStage,
    model: nn.Module,
    batch: Batch,
    average: EMA,
    context: TrainerContext,
    run: TrainingStateStore,
    log: MetricLogger,
    seen: int,
) -> None:
    """Write a sample grid and held-out metrics, in full precision, with the EMA weights.

    All processes compute them, since sharded networks compute collectively; the first one writes.
    """
    # Collective calls must match, but the last step's batches differ in size between processes.
    if context.preset.fsdp:
        batch = slice_batch(batch, slice(0, 1))
    stage.eval()
    with average.applied(), context.distributed.unsharded(model), torch.no_grad():
        png = stage.render_sample_grid(batch)
        heldout = stage.validate()
    stage.train()
    if context.distributed.is_main_process:
        run.write_sample_grid(seen, png)
        log.log_sample_grid(seen, png, heldout)


def _open_log(
    run: TrainingStateStore, context: TrainerContext, seen: int, *, done: bool
) -> MetricLogger:
    """Open the log in the first process, unless the training is already complete."""
    if done or not context.distributed.is_main_process:
        return MetricLogger()
    return MetricLogger(
        run.open_log(seen), open_tracker(context.preset, context.request, run.stage, context.folder)
    )
