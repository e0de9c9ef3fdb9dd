"""What a round is worth: the same start, trained on by several recipes, and drawn again with the same noise.

For each seed a first checkpoint is trained, a round is drawn and decided by the rule reviewer. Each
arm then continues the first checkpoint: with the seeds alone, with the accepted samples at several
weights, with the decisions. All arms draw the same prompts from the same noise, so that their
differences are paired. Results are kept in --work, so that an interrupted run goes on and new arms
are added to it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from curation.datasets.decision_records import CountedReason, DecisionRecord
from curation.datasets.manifest import read_samples
from curation.datasets.samples import NewSample, StoredLayer
from curation.domain import (
    Checkpoint,
    GenerationRequest,
    Kind,
    LayerRole,
    Progress,
    Prompt,
    Sample,
    Split,
    TrainingRequest,
    Verdict,
    content_id,
)
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from curation.ports import RGBA
from curation.screening.review_features import embed_layer, prepare_layer
from curation.screening.rule_reviewer import RuleReviewer, fit_rule_reviewer
from curation.statistics.intervals import wilson
from curation.synthetic.dataset import check_prompt, draw_seed_set, sample_prompts
from tests.benchmarks.offset_ablation import freeze_folder
from tests.support.snapshots import make_snapshot
from training.generate import load_generator
from training.train import train

EVALUATION_SEED = 1_000_000


@dataclass(frozen=True)
class Arm:
    """One way to go on from the first checkpoint.

    Attributes:
        recipe: Recipe of the training; "" draws with the first checkpoint.
        accepts: Sampling weight of an accepted sample, relative to a seed's; None leaves accepted
            samples out.
        after: The arm whose checkpoint is trained further; "" is the first checkpoint.
        decisions: How many candidates of the round are used; 0 uses all.
        changes: Overrides of preset columns.
        guidance: Guidance of the drawing, or the preset's.
    """

    recipe: str = "base"
    accepts: float | None = None
    after: str = ""
    decisions: int = 0
    changes: Mapping[str, str] = field(default_factory=dict)
    guidance: float | None = None


AUTOMATIC = {"automatic_decisions": "true"}
"""The rule reviewer stands for the people here."""

ARMS: Mapping[str, Arm] = {
    "start": Arm(""),
    "seeds": Arm(),
    "seeds, longer": Arm(changes={"base_images": "32000"}),
    "seeds, cool": Arm(changes={"base_lr": "5e-4"}),
    "accepts x2": Arm(accepts=2.0),
    "accepts x2 of 96": Arm(accepts=2.0, decisions=96),
    "accepts x8": Arm(accepts=8.0),
    "missed words": Arm(changes=AUTOMATIC),
    "missed words x12": Arm(changes={**AUTOMATIC, "reject_emphasis": "12"}),
    "missed words, accepts x2": Arm(accepts=2.0, changes=AUTOMATIC),
    "kto": Arm("kto", changes=AUTOMATIC),
    "seeds, kto": Arm("kto", after="seeds", changes=AUTOMATIC),
    "accepts x2, kto": Arm("kto", after="accepts x2", changes=AUTOMATIC),
    "accepts x2, kto, lr x3": Arm(
        "kto", after="accepts x2", changes={**AUTOMATIC, "preference_lr": "1e-3"}
    ),
    "accepts x2, kto, beta / 4": Arm(
        "kto", after="accepts x2", changes={**AUTOMATIC, "preference_beta": "250"}
    ),
    "accepts x2, kto of all reasons": Arm(
        "kto",
        after="accepts x2",
        changes={
            **AUTOMATIC,
            "base_reasons": "holes,opaque,cropped,malformed,prompt_miss,other,residue,halo",
        },
    ),
    "accepts x2, dpo": Arm("dpo", after="accepts x2", changes=AUTOMATIC),
}


@dataclass(frozen=True)
class Candidate:
    """A drawn and decided candidate."""

    prompt: str
    seed: int
    layer: StoredLayer
    accepted: bool
    reasons: tuple[str, ...]
    color: bool
    shape: bool


class Trial:
    """One seed: its store, its first checkpoint and its round."""

    def __init__(self, work: Path, seed: int, options: argparse.Namespace) -> None:
        """Open or begin a trial in a folder."""
        self.folder, self.seed, self.options = work / f"seed-{seed}", seed, options
        self.store = FolderStore(self.folder / "objects")
        if options.images is None:
            draw_seed_set(self.folder / "seeds", options.seeds_count, seed)
        source = options.images or self.folder / "seeds"
        self.seeds = freeze_folder(self.store, source)
        self.reviewer: RuleReviewer = fit_rule_reviewer(self.store, self.seeds)
        self.captions = [
            sample.caption
            for sample in read_samples(self.store, self.seeds)
            if sample.split is Split.train and sample.caption
        ]

    def first(self) -> Checkpoint:
        """Return the first checkpoint, trained from the seeds."""
        request = TrainingRequest(
            "whole", self.options.preset, self.seeds, None, None, self.seed, 0, self._changes({})
        )
        return self._train("first", request)

    def round(self) -> list[Candidate]:
        """Return the round that the first checkpoint drew."""
        return self._draw("round", self.first(), self.options.decisions, self.seed)

    def arm(self, name: str, arm: Arm) -> dict[str, Any]:
        """Train and draw an arm; return its figures."""
        kept = self.folder / f"{name}.json"
        if kept.exists():
            found: dict[str, Any] = json.loads(kept.read_text())
            return found
        begun = time.perf_counter()
        checkpoint = self.first()
        if arm.recipe:
            if arm.after:
                self.arm(arm.after, ARMS[arm.after])
                checkpoint = self._train(arm.after, None)
            checkpoint = self._train(name, self._request(arm, checkpoint))
        seconds = time.perf_counter() - begun
        drawn = self._draw(
            f"{name} drawn", checkpoint, self.options.draws, EVALUATION_SEED, arm.guidance
        )
        figures = {
            "accepted": [one.accepted for one in drawn],
            "shown": [one.color and one.shape for one in drawn],
            "reasons": [one.reasons for one in drawn],
            "distance": self._mean_distance(drawn),
            "metrics": dict(checkpoint.evaluation),
            "seconds": seconds,
        }
        kept.write_text(json.dumps(figures))
        return figures

    def _request(self, arm: Arm, parent: Checkpoint) -> TrainingRequest:
        decided = self.round()[: arm.decisions or None]
        accepted = [self._sample(one) for one in decided if one.accepted]
        seeds = list(read_samples(self.store, self.seeds))
        if arm.accepts is None:
            accepted = []
        records = [self._record(one, parent) for one in decided]
        snapshot = make_snapshot(self.store, [*seeds, *accepted], decisions=records)
        changes = self._changes({"new_sample_weight": repr(arm.accepts or 1.0), **arm.changes})
        return TrainingRequest(
            arm.recipe, self.options.preset, snapshot, self.seeds, parent, self.seed + 1, 0, changes
        )

    def _changes(self, own: Mapping[str, str]) -> dict[str, str]:
        return dict(one.split("=", 1) for one in self.options.set) | dict(own)

    def _train(self, name: str, request: TrainingRequest | None) -> Checkpoint:
        kept = self.folder / f"{name}.checkpoint.json"
        if request is not None and not kept.exists():
            made = train(request, self.store, self.folder / "runs" / str(request.id), _ignore)
            kept.write_text(json.dumps(asdict(made)))
        return Checkpoint(**json.loads(kept.read_text()))

    def _draw(
        self,
        name: str,
        checkpoint: Checkpoint,
        count: int,
        seed: int,
        guidance: float | None = None,
    ) -> list[Candidate]:
        kept = self.folder / f"{name}.drawn.json"
        if not kept.exists():
            changes = dict(checkpoint.changes)
            if guidance is not None:
                changes["guidance"] = str(guidance)
            generator = load_generator(replace(checkpoint, changes=changes), self.store)
            prompts = self._prompts(count, seed)
            requests = [
                GenerationRequest(Prompt(text), seed + index) for index, text in enumerate(prompts)
            ]
            drawn: list[dict[str, Any]] = []
            for start in range(0, count, generator.batch_size):
                part = requests[start : start + generator.batch_size]
                for request, layers in zip(part, generator.generate(part), strict=True):
                    drawn.append(self._decide(request, layers[LayerRole.foreground]))
            kept.write_text(json.dumps(drawn))
        return [
            Candidate(**one | {"layer": StoredLayer(**one["layer"])})
            for one in json.loads(kept.read_text())
        ]

    def _prompts(self, count: int, seed: int) -> Sequence[str]:
        if self.options.images is None:
            return sample_prompts(count, seed)
        rng = np.random.default_rng(seed)
        return [self.captions[index] for index in rng.integers(0, len(self.captions), count)]

    def _decide(self, request: GenerationRequest, rgba: RGBA) -> dict[str, Any]:
        verdict = self.reviewer.decide(rgba, request.prompt.text)
        shown = check_prompt(prepare_layer(rgba), request.prompt.text)
        data = encode_layer(rgba)
        height, width = rgba.shape[:2]
        layer = StoredLayer(self.store.put(data), width, height, len(data), pixel_hash(rgba))
        return {
            "prompt": request.prompt.text,
            "seed": request.seed,
            "layer": asdict(layer),
            "accepted": verdict.verdict is Verdict.accept,
            "reasons": list(verdict.reasons),
            "color": shown is None or shown.color,
            "shape": shown is None or shown.shape,
        }

    def _sample(self, one: Candidate) -> Sample:
        return NewSample(
            kind=Kind.single,
            caption=one.prompt,
            licence="generated",
            source=f"candidate {one.seed}",
            round=1,
            layers={LayerRole.foreground: one.layer},
            split=Split.train,
        ).to_sample()

    def _record(self, one: Candidate, checkpoint: Checkpoint) -> DecisionRecord:
        return DecisionRecord(
            candidate=content_id("candidate", self.seed, one.seed).hex,
            kind=Kind.single,
            prompt=one.prompt,
            round=1,
            seed=one.seed,
            checkpoint=checkpoint.id,
            layers={LayerRole.foreground: one.layer.sha256},
            verdict=Verdict.accept if one.accepted else Verdict.reject,
            automatic=True,
            accepts=0,
            rejects=0,
            posterior=None,
            propensity=None,
            reasons=tuple(CountedReason(reason, None, 1) for reason in one.reasons),
        )

    def _mean_distance(self, drawn: Sequence[Candidate]) -> float:
        """Return the mean pairwise distance of the drawn layers in the embedder's space."""
        from curation.images.codec import decode_layer

        vectors = np.stack(
            [
                embed_layer(prepare_layer(decode_layer(self.store.get(one.layer.sha256))))
                for one in drawn
            ]
        )
        squares = (vectors**2).sum(1)
        squared = squares[:, None] + squares[None] - 2 * vectors @ vectors.T
        above = np.triu_indices(len(drawn), 1)
        return float(np.sqrt(squared[above].clip(min=0)).mean())


def main() -> None:
    """Run the arms of all seeds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a folder that keeps the results")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seeds-count", type=int, default=1_500, help="drawn seeds")
    parser.add_argument("--images", type=Path, help="a folder of RGBA files in place of drawn ones")
    parser.add_argument("--decisions", type=int, default=400)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--set", action="append", default=[], metavar="COLUMN=VALUE")
    options = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        trial = Trial(options.work, seed, options)
        for name in dict.fromkeys(["start", *options.arms]):
            results.setdefault(name, []).append(trial.arm(name, ARMS[name]))
            print(f"seed {seed}:", *_row(name, results), flush=True)
    print("\n| arm | defects per 100 | shown | mean distance | noise_mse | p against start |")
    print("|---|---|---|---|---|---|")
    for name in results:
        print("|", " | ".join(_total(name, results)), "|")


def _row(name: str, results: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    last = results[name][-1]
    yield f"{name}: {100 - 100 * np.mean(last['accepted']):.1f} defects per 100,"
    yield f"{100 * np.mean(last['shown']):.0f} % shown, distance {last['distance']:.3f},"
    yield f"{last['seconds']:.0f} s"


def _total(name: str, results: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    rows = results[name]
    accepted = np.concatenate([row["accepted"] for row in rows])
    before = np.concatenate([row["accepted"] for row in results["start"][: len(rows)]])
    low, high = wilson(1 - accepted.mean(), len(accepted))
    gained, lost = int((accepted & ~before).sum()), int((before & ~accepted).sum())
    p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    errors = [row["metrics"]["noise_mse"] for row in rows if "noise_mse" in row["metrics"]]
    by_seed = ", ".join(f"{100 - 100 * np.mean(row['accepted']):.0f}" for row in rows)
    return [
        name,
        f"{100 - 100 * accepted.mean():.1f} ({100 * low:.1f} to {100 * high:.1f}; {by_seed})",
        f"{100 * np.mean([np.mean(row['shown']) for row in rows]):.0f} %",
        f"{np.mean([row['distance'] for row in rows]):.3f}",
        f"{np.mean(errors):.4f}" if errors else "-",
        f"{p_value:.3g}",
    ]


def _ignore(_: Progress) -> None:
    pass


if __name__ == "__main__":
    main()
