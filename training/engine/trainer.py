"""The training loop of all stages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
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
from training.engine.resume import StatePart, TrainingStateStore, load_state_dict, seeded_generator, state_dict
from training.engine.schedule import EMA, StageSchedule, lr_multiplier
from training.presets.preset import Preset

FLUSH_STEPS = 10  # steps between reads of metrics from a GPU


class TrainingStage(nn.Module):
    """A training stage: its networks, batches and losses.

    Parameters with `requires_grad` are trained and averaged. The randomness of a step derives from
    the number of images seen, and is drawn for the global batch at once, so that it depends on
    neither gradient accumulation nor the number of processes.
    """

    stage: str
    pace: StageSchedule

    @abstractmethod
    def build_optimisers(self) -> dict[str, Optimizer]:
        """Build the optimizers by name, the main one first; only its rate follows the schedule.

        Called after the parameters are on their device and sharded.
        """

    @abstractmethod
    def lay_out(self, places: Sequence[int], mine: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the micro-batches of this process, on the CPU; may run in a prefetch thread.

        Args:
            places: Sample indices of the global batch.
            mine: Positions in `places` that this process trains on.
            rng: The step's random number generator, equal in all processes.

        Returns:
            The batch, with one row for each position in `mine`.
        """

    @abstractmethod
    def forward(self, rows: Batch, seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean loss of a micro-batch, and metrics by name.

        Args:
            rows: The micro-batch, on the device.
            seen: Images seen before the step.
        """

    @abstractmethod
    def draw_sheet(self, rows: Batch) -> bytes:
        """Generate a sample grid as PNG with the current weights."""

    @abstractmethod
    def cores(self) -> Sequence[nn.Module]:
        """Return the largest networks, which are compiled, checkpointed and sharded by block."""

    def validate(self) -> dict[str, float]:
        """Compute metrics on held-out images with the current weights; {} if there are none."""
        return {}

    def averaged(self) -> nn.Module:
        """Return the networks whose EMA is the result of the training."""
        return self

    def frozen(self) -> Sequence[nn.Module]:
        """Return networks that are not trained: on the device, but neither saved nor sharded."""
        return ()


@dataclass(frozen=True)
class TrainerContext:
    """The environment of a training: request, devices, sampler, folder and progress callback."""

    order: TrainingRequest
    preset: Preset
    machine: DistributedContext
    samples: Sequence[Sample]  # by index, as in `draws`
    draws: Sampler
    folder: Path
    report: ProgressCallback


def fit(recipe: TrainingStage, course: TrainerContext) -> None:
    """Train a stage to its end, from the last saved state if there is one.

    The networks hold the EMA weights at the end. A training that is run again after an interruption
    is bit-identical to an uninterrupted one, on the CPU and with the same number of threads. An
    exception of `course.report` stops the training; saved states remain.

    Args:
        recipe: The stage to train.
        course: Its environment.

    Raises:
        Diverged: A loss or gradient is NaN or infinite; nothing of that step is saved.
        Refused: Memory ran out; the hint lists settings to change.
    """
    try:
        _run(recipe, course)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise oom_hint(error, course.preset, recipe.stage) from error
        raise


def _run(recipe: TrainingStage, course: TrainerContext) -> None:
    # Networks first: optimizers and EMA must refer to the sharded parameters on the device.
    preset, machine, pace = course.preset, course.machine, recipe.pace
    model = machine.place(recipe, recipe.cores(), recipe.frozen())
    optimisers = recipe.build_optimisers()
    main = next(iter(optimisers.values()))
    average = EMA(recipe.averaged(), pace.decay, apart=preset.average_apart)
    parts: dict[str, StatePart] = {
        "recipe": recipe,
        "averaged": average.tensors,
        **optimisers,
        "scaler": machine.scaler,
    }
    # Resume from the last saved state.
    run = TrainingStateStore(course.folder, recipe.stage, preset.keep_states)
    total, step = course.order.images or pace.images, machine.step_images(pace.batch)
    seen = 0
    if state := run.load():
        load_state_dict(parts, state)
        seen = state.images
    machine.wait()
    course.report(Progress(recipe.stage, seen, total))

    buffer = _metrics_buffer(recipe, course)
    # On the CPU a prefetch thread would compete with the training for cores (LOG.md).
    threaded = machine.device.type != "cpu"
    with (
        closing(
            Prefetcher(lambda seen: _make_step(recipe, course, seen, total), total, threaded=threaded)
        ) as prefetcher,
        closing(_open_log(run, course, seen, done=seen >= total)) as log,
    ):
        while seen < total:
            step_batches = prefetcher.take(seen)
            # The schedule applies to the main optimizer only.
            rate = lr_multiplier(seen, total, step, preset)
            for group in main.param_groups:
                group["lr"] = group["initial_lr"] * rate

            # Accumulate the gradients and metrics of all micro-batches, weighted by their share.
            metrics: dict[str, Tensor] = {}
            for number, (cpu_batch, share) in enumerate(step_batches.batches, start=1):
                batch = to_device(cpu_batch, machine.device)
                with machine.gathering(model, last=number == len(step_batches.batches)):
                    with machine.autocast():
                        loss, batch_metrics = model(batch, seen)
                    machine.descend(loss, share)
                for name, value in batch_metrics.items():
                    part = value.detach() * share
                    metrics[name] = metrics[name] + part if name in metrics else part
            metrics["gradient"] = machine.step(optimisers) / machine.processes
            average.move(seen, step)

            # Grids and states are due whenever the image count passes a multiple of their interval.
            before, seen = seen, seen + len(step_batches.places)
            grid_due = seen >= total or before // preset.sheet_images != seen // preset.sheet_images
            save_due = seen >= total or before // preset.save_images != seen // preset.save_images
            # Metrics are flushed before a save, so that no diverged state is ever saved.
            if buffer.note(StepMetrics(seen, step_batches.places, metrics)) or grid_due or save_due:
                for images, numbers in buffer.read():
                    log.write(images, {**numbers, "rate": rate})
                    course.report(Progress(recipe.stage, images, total, numbers))
            if grid_due:
                _write_sample_grid(recipe, model, batch, average, course, run, log, seen)
            if save_due:
                # Gathering shards is collective; of replicas only the first process packs one.
                if machine.first or preset.sharded:
                    packed = state_dict(parts)
                    if machine.first:
                        run.save(seen, *packed)
                    del packed
                machine.wait()
    average.swap()


def _make_step(recipe: TrainingStage, course: TrainerContext, seen: int, total: int) -> StepBatches:
    """Make the step after `seen` images: its sample indices and this process's micro-batches."""
    machine, batch = course.machine, recipe.pace.batch
    # Divide the global batch among processes and micro-batches.
    indices = course.draws.places(seen, min(machine.step_images(batch), total - seen))
    shares = machine.shares(len(indices), batch)
    local = [row for part, _ in shares for row in part]
    # Make all local rows at once, then slice them into micro-batches.
    rng = seeded_generator(course.order.seed, recipe.stage, seen)
    rows = pin_memory(recipe.lay_out(indices, local, rng), machine.device)
    batches, start = [], 0
    for part, share in shares:
        batches.append((slice_batch(rows, slice(start, start + len(part))), share))
        start += len(part)
    return StepBatches(indices, batches)


def _metrics_buffer(recipe: TrainingStage, course: TrainerContext) -> MetricsBuffer:
    machine, samples = course.machine, course.samples
    stride = FLUSH_STEPS if machine.device.type == "cuda" else 1
    scaled = machine.scaler.is_enabled()
    return MetricsBuffer(recipe.stage, stride, machine.add_up, lambda index: samples[index].id, scaled=scaled)


def _write_sample_grid(
    recipe: TrainingStage,
    model: nn.Module,
    batch: Batch,
    average: EMA,
    course: TrainerContext,
    run: TrainingStateStore,
    log: MetricLogger,
    seen: int,
) -> None:
    """Write a sample grid and held-out metrics, in full precision, with the EMA weights.

    All processes compute them, since sharded networks compute collectively; the first one writes.
    """
    # Collective calls must match, but the last step's batches differ in size between processes.
    if course.preset.sharded:
        batch = slice_batch(batch, slice(0, 1))
    recipe.eval()
    with average.applied(), course.machine.together(model), torch.no_grad():
        png = recipe.draw_sheet(batch)
        heldout = recipe.validate()
    recipe.train()
    if course.machine.first:
        run.write_sheet(seen, png)
        log.write_sheet(seen, png, heldout)


def _open_log(run: TrainingStateStore, course: TrainerContext, seen: int, *, done: bool) -> MetricLogger:
    """Open the log in the first process, unless the training is already complete."""
    if done or not course.machine.first:
        return MetricLogger()
    return MetricLogger(run.log(seen), open_tracker(course.preset, course.order, run.stage, course.folder))
