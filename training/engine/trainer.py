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
from curation.ports import Report
from training.data.buckets import Order
from training.engine.batch import Laid, Prefetcher, Rows, cut, pin, send
from training.engine.distributed import DistributedContext, explain_memory, is_out_of_memory
from training.engine.loggers import MetricLogger, open_tracker
from training.engine.metrics_buffer import MetricsBuffer, StepMetrics
from training.engine.resume import Part, TrainingStateStore, generator_at, pack, unpack
from training.engine.schedule import EMA, LRSchedule, rate_at
from training.presets.preset import Preset

STRIDE = 10  # steps between two readings of a GPU


class TrainingStage(nn.Module):
    """A procedure of training: networks, what a step looks at, and the losses that it goes down on.

    Its parameters that require gradients learn and are averaged. What is random in a step comes from the count of
    images alone and is drawn for the whole step at once, so that neither accumulation nor processes change it.
    """

    stage: str
    pace: LRSchedule

    @abstractmethod
    def build_optimisers(self) -> dict[str, Optimizer]:
        """The optimisers by name, the main one first, whose rate alone rises and falls.

        Asked for when the parameters are where they will stay.
        """

    @abstractmethod
    def lay_out(self, places: Sequence[int], mine: Sequence[int], rng: torch.Generator) -> Rows:
        """The rows `mine` of the step of these pictures, on the CPU; may run in a thread, ahead of the loop."""

    @abstractmethod
    def forward(self, rows: Rows, seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of some rows of a step after `seen` images, and figures by name to be told of."""

    @abstractmethod
    def draw_sheet(self, rows: Rows) -> bytes:
        """A sample sheet as PNG, with the weights that are in the networks now."""

    @abstractmethod
    def cores(self) -> Sequence[nn.Module]:
        """The networks that do most of the work: what is compiled, checkpointed, and sharded by its blocks."""

    def validate(self) -> dict[str, float]:
        """Measure held-out images with the weights that are in the networks now, by the metric's name; {} if none."""
        return {}

    def averaged(self) -> nn.Module:
        """The networks whose average is the outcome."""
        return self

    def frozen(self) -> Sequence[nn.Module]:
        """Networks that are used and never learn: they are moved to the device, and neither saved nor shared out."""
        return ()


@dataclass(frozen=True)
class TrainerContext:
    """What a recipe is run with: the machine, the order in which pictures are drawn, where to save, whom to tell."""

    order: TrainingRequest
    preset: Preset
    machine: DistributedContext
    samples: Sequence[Sample]  # by place, as `draws` counts them
    draws: Order
    folder: Path
    report: Report


def fit(recipe: TrainingStage, course: TrainerContext) -> None:
    """Train to the end, from the last saved state if there is one; the averaged weights are in the networks then.

    Run again after any interruption it ends with the bits of a straight run, on the CPU and with one count of threads.
    Whatever `report` raises stops it; what was saved stays. Raises Diverged at the first loss or gradient that is not
    finite, before anything of it is saved, and Refused with what to change where memory ends.
    """
    try:
        _run(recipe, course)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise explain_memory(error, course.preset, recipe.stage) from error
        raise


def _run(recipe: TrainingStage, course: TrainerContext) -> None:
    preset, machine, pace = course.preset, course.machine, recipe.pace
    placed = machine.place(recipe, recipe.cores(), recipe.frozen())
    optimisers = recipe.build_optimisers()
    main = next(iter(optimisers.values()))
    average = EMA(recipe.averaged(), pace.decay, apart=preset.average_apart)
    parts: dict[str, Part] = {
        "recipe": recipe,
        "averaged": average.tensors,
        **optimisers,
        "scaler": machine.scaler,
    }
    run = TrainingStateStore(course.folder, recipe.stage, preset.keep_states)
    total, step = course.order.images or pace.images, machine.step_images(pace.batch)
    seen = 0
    if state := run.load():
        unpack(parts, state)
        seen = state.images
    machine.wait()
    course.report(Progress(recipe.stage, seen, total))

    watch = _watch(recipe, course)
    threaded = (
        machine.device.type != "cpu"
    )  # whose own sums a thread would only quarrel with (LOG.md)
    with (
        closing(
            Prefetcher(lambda seen: _lay_out(recipe, course, seen, total), total, threaded=threaded)
        ) as ahead,
        closing(_open_log(run, course, seen, done=seen >= total)) as log,
    ):
        while seen < total:
            laid = ahead.take(seen)
            rate = rate_at(seen, total, step, preset)
            for group in main.param_groups:
                group["lr"] = group["initial_lr"] * rate

            figures: dict[str, Tensor] = {}
            for number, (laid_rows, share) in enumerate(laid.batches, start=1):
                rows = send(laid_rows, machine.device)
                with machine.gathering(placed, last=number == len(laid.batches)):
                    with machine.autocast():
                        loss, told = placed(rows, seen)
                    machine.descend(loss, share)
                for name, value in told.items():
                    part = value.detach() * share
                    figures[name] = figures[name] + part if name in figures else part
            figures["gradient"] = machine.step(optimisers) / machine.processes
            average.move(seen, step)

            before, seen = seen, seen + len(laid.places)
            sheet = seen >= total or before // preset.sheet_images != seen // preset.sheet_images
            save = seen >= total or before // preset.save_images != seen // preset.save_images
            if watch.note(StepMetrics(seen, laid.places, figures)) or sheet or save:
                for images, numbers in watch.read():
                    log.write(images, {**numbers, "rate": rate})
                    course.report(Progress(recipe.stage, images, total, numbers))
            if sheet:
                _write_sheet(recipe, placed, rows, average, course, run, log, seen)
            if save:
                if (
                    machine.first or preset.sharded
                ):  # shards are gathered by all, copies are kept by one
                    packed = pack(parts)
                    if machine.first:
                        run.save(seen, *packed)
                    del packed
                machine.wait()
    average.swap()


def _lay_out(recipe: TrainingStage, course: TrainerContext, seen: int, total: int) -> Laid:
    """The step after `seen` images: all its places, and this process's batches."""
    machine, batch = course.machine, recipe.pace.batch
    places = course.draws.places(seen, min(machine.step_images(batch), total - seen))
    shares = machine.shares(len(places), batch)
    mine = [row for part, _ in shares for row in part]
    rng = generator_at(course.order.seed, recipe.stage, seen)
    rows = pin(recipe.lay_out(places, mine, rng), machine.device)
    batches, start = [], 0
    for part, share in shares:
        batches.append((cut(rows, slice(start, start + len(part))), share))
        start += len(part)
    return Laid(places, batches)


def _watch(recipe: TrainingStage, course: TrainerContext) -> MetricsBuffer:
    machine, samples = course.machine, course.samples
    stride = STRIDE if machine.device.type == "cuda" else 1
    scaled = machine.scaler.is_enabled()
    return MetricsBuffer(
        recipe.stage, stride, machine.add_up, lambda place: samples[place].id, scaled=scaled
    )


def _write_sheet(
    recipe: TrainingStage,
    placed: nn.Module,
    rows: Rows,
    average: EMA,
    course: TrainerContext,
    run: TrainingStateStore,
    log: MetricLogger,
    seen: int,
) -> None:
    """Write a sample sheet and the validation of held-out images, in full precision, with the averaged weights.

    Every process computes them, since sharded networks compute together; the first one writes.
    """
    if (
        course.preset.sharded
    ):  # together means equally often, and a last step's rows are not dealt out evenly
        rows = cut(rows, slice(0, 1))
    recipe.eval()
    with average.applied(), course.machine.together(placed), torch.no_grad():
        png = recipe.draw_sheet(rows)
        heldout = recipe.validate()
    recipe.train()
    if course.machine.first:
        run.write_sheet(seen, png)
        log.write_sheet(seen, png, heldout)


def _open_log(
    run: TrainingStateStore, course: TrainerContext, seen: int, *, done: bool
) -> MetricLogger:
    """Kept by the first process alone, and while there is something to come."""
    if done or not course.machine.first:
        return MetricLogger()
    return MetricLogger(
        run.log(seen), open_tracker(course.preset, course.order, run.stage, course.folder)
    )
