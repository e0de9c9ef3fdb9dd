"""Measure the reviews per thousand accepts, at random and by a mixed policy, and check the bound of the gates.

    python -m tests.benchmarks.selection_views [--candidates 10000 40000] [--replay 10000] [--seed-folder DIR] [--gates 100]

The table of docs/benchmarks/selection.md, views and then diversity where caps bind, on real images too; about an hour of two cores:

    python -m tests.benchmarks.selection_views --share 0.9
    python -m tests.benchmarks.selection_views --candidates --gates 0 --replay 10000 --share 0.2 --caps 3 1.5 1.2
    python -m tests.benchmarks.selection_views --candidates --gates 0 --replay 0 --share 0.2 --caps 3 1.5 1.2 \
        --seed-folder ../shared/seed_rgba --folder-candidates 10000

Everything is the built-in code on a real PostgreSQL: candidates are screened rows, policies choose by SQL, heads are
fitted as decisions come. Only the reviewer is simulated.

Views are counted until so many accepts (--wanted), or until the policy has shown its --share. At random people see
candidates in any order, so their views are exact: the expected position of the k-th accept, k (n + 1) / (accepts + 1).
Diversity is the effective number of prompts and of clusters among the accepts (the exponential of their entropy), the
mean distance of their embeddings, each as a share of that of as many accepts at random (the mean of 20 draws), and the
share of the commonest prompt beside that of the random ones. Quality is what is accepted by the same reviewer, and so
equal. A share of 0.9 leaves nearly all to be shown, so that a thousand accepts are found among few candidates, and
caps cannot bind; at 0.2, as rounds have it, they do.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from curation.db.engine import Database
from curation.db.schema import migrate
from curation.db.tables import candidates
from curation.domain import Kind, Verdict, canonical_json
from curation.selection import acceptance_model, gates, thresholds
from curation.selection.acceptance_model_store import fit_and_store, needs_fit
from curation.selection.select import select_candidates
from curation.statistics import bounds
from tests.benchmarks.selection_pools import (
    Pool,
    auc_of,
    blind,
    replay_figures,
    replay_folder,
    simulate,
)
from tests.support.candidate_streams import SOURCE, arrive_measured, judge_waiting, open_stream
from tests.support.factories import OpenTransaction, fresh_database, with_database
from tests.support.servers import postgres


def main() -> None:
    """Print one line for each pool and policy, then how often the bound held."""
    options = _options()
    policies = [
        {"kind": "mixed", "share": options.share}
        | ({} if cap is None else {"per_prompt": cap, "per_cluster": cap})
        for cap in options.caps or [None]
    ]

    def tell(what: str, pool: Pool) -> None:
        for policy in policies:
            _tell(server, what, pool, policy, options.wanted)

    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with postgres(options.database) as server:
        for count in options.candidates:
            # Of few candidates more must be good, or there are no thousand to be found.
            share = 0.10 if count >= 20_000 else 0.20
            for auc in (0.85, 0.90, 0.95):
                pool = simulate(count, share, auc, seed=count + round(100 * auc))
                tell(f"simulated, seed {count + round(100 * auc)}", pool)
        if options.replay:
            pool = replay_figures(options.replay)
            tell("rule reviewer, synthetic shapes with added defects", pool)
            tell("the same, whether they show their prompt unknown", blind(pool))
        if options.seed_folder:
            pool = replay_folder(options.seed_folder, options.folder_candidates)
            tell("rule reviewer, real images with added defects", pool)
    if options.gates:
        _tell_gates(options.gates)


def views_needed(
    server: str, pool: Pool, policy: Mapping[str, object], wanted: int
) -> dict[str, Any]:
    """Run a mixed round over a pool until there are so many accepts, or no more is shown; what it took."""
    began, fits = time.monotonic(), 0
    with fresh_database(server) as name:
        database = Database(with_database(server, name))
        migrate(database)
        with database.transaction() as tx:
            round_id = open_stream(tx, policy, len(pool.accepted))
            ids = arrive_measured(tx, round_id, 1, pool.signals, pool.vectors, pool.texts)
        good = dict(zip(ids, pool.accepted.tolist(), strict=True))
        views = accepts = 0
        while accepts < wanted:
            with database.transaction() as tx:
                select_candidates(tx, round_id, SOURCE)
                before = _decided(tx, round_id)
                accepts += judge_waiting(tx, round_id, good, most=64)
                seen = _decided(tx, round_id) - before
                views += seen
                if needs_fit(tx, Kind.single, SOURCE):
                    kept, fits = fit_and_store(OpenTransaction(tx), Kind.single, SOURCE), fits + 1
            if not seen:
                break
        with database.transaction() as tx:
            rows = tx.execute(
                sa.select(candidates.c.id, candidates.c.state, candidates.c.slice).where(
                    candidates.c.round_id == round_id
                )
            ).all()
        database.close()
    place = {id_: index for index, id_ in enumerate(ids)}
    chosen = np.array([place[row.id] for row in rows if row.state == "accepted"])
    random = [
        good[row.id]
        for row in rows
        if row.slice == "random" and row.state in {"accepted", "rejected"}
    ]
    slices = Counter(
        f"{row.slice} {row.state}" for row in rows if row.state in {"accepted", "rejected"}
    )
    return {
        "views": views, "accepts": accepts, "fits": fits, "seconds": time.monotonic() - began,
        "auc": auc_of(kept.head.predict(pool.signals, pool.vectors), pool.accepted),
        "clusters": kept.head.cluster(pool.vectors), "chosen": chosen, "slices": dict(slices),
        "random": bounds.exact_bounds(sum(random), len(random)),
    }  # fmt: skip


def hold_gates(repetitions: int, budget: float = 0.02, share: float = 0.3) -> dict[str, Any]:
    """Return whether gates keep to 2 %, with a model of 600 decisions and looks at up to 6,000."""
    held, useful, looks, rejected = 0, 0, 0, []
    for seed in range(repetitions):
        pool = simulate(10_000, share, 0.92, seed=10_000 + seed)
        conditions = acceptance_model.TrainingRows(
            pool.signals[:600], pool.vectors[:600], pool.accepted[:600], pool.texts[:600], [1] * 600
        )
        fitted, _ = acceptance_model.fit_acceptance_model(conditions)
        probabilities = fitted.predict(pool.signals, pool.vectors)
        grid = np.quantile(probabilities, gates.THRESHOLD_SHARES).tolist()
        threshold, last, look = None, 0, 0
        for judged in range(700, 6_601, 100):
            some = slice(600, judged)
            n, level = int(pool.accepted[some].sum()), bounds.interim_level(look + 1)
            if n < max(bounds.min_sample_size(budget, level), gates.LOOK_GROWTH * last):
                continue
            found = thresholds.evaluate_thresholds(
                probabilities[some], pool.accepted[some], grid, Verdict.reject, budget, level
            )
            last, look = n, look + 1
            if found.proven:  # the worst that was ever in force is what counts
                threshold = max(grid[found.proven - 1], threshold or 0.0)
        looks += look
        below = (
            probabilities < threshold
            if threshold is not None
            else np.zeros(len(probabilities), bool)
        )
        lost = float(pool.truth[below].sum() / pool.truth.sum())
        held += lost <= budget
        useful += threshold is not None
        rejected.append(float(below.mean()))
    return {
        "held": held,
        "of": repetitions,
        "passed": useful,
        "looks": looks / repetitions,
        "rejected": np.mean(rejected),
    }


def _tell(server: str, what: str, pool: Pool, policy: Mapping[str, object], wanted: int) -> None:
    found = views_needed(server, pool, policy, wanted)
    n, good, chosen = len(pool.accepted), int(pool.accepted.sum()), found["chosen"]
    at_random = len(chosen) * (n + 1) / (good + 1)
    rng = np.random.default_rng(3)
    drawn = [rng.permutation(np.flatnonzero(pool.accepted))[: len(chosen)] for _ in range(20)]

    def beside(measure: Callable[[np.ndarray], float]) -> float:
        return measure(chosen) / float(np.mean([measure(some) for some in drawn]))

    prompts = beside(lambda some: _effective([pool.texts[one] for one in some]))
    clusters = beside(lambda some: _effective(found["clusters"][some].tolist()))
    apart = beside(lambda some: _apart(pool.vectors[some]))
    top, usual = _largest(pool, chosen), float(np.mean([_largest(pool, some) for some in drawn]))
    random = found["random"]
    best = f", the truth's own AUC {pool.best:.2f}" if pool.best else ""
    print(
        f"{what}: {n} candidates, {pool.share:.1%} acceptable{best}; {canonical_json(dict(policy))}",
        flush=True,
    )
    print(
        f"  views for {found['accepts']} accepts: {at_random:.0f} at random, {found['views']} by the policy: "
        f"{at_random / found['views']:.1f} times fewer; the head's AUC {found['auc']:.3f} "
        f"({found['fits']} fits, {found['seconds']:.0f} s in all)"
    )
    print(
        f"  looked at, by slice: {canonical_json(found['slices'])}; diversity: prompts {prompts:.2f}, "
        f"clusters {clusters:.2f}, distance {apart:.2f}; the commonest prompt has {top:.1%}, at random {usual:.1%}"
    )
    print(
        f"  the random slice says {random.k} of {random.n} are acceptable, {random.low:.1%} to {random.high:.1%}",
        flush=True,
    )


def _tell_gates(repetitions: int) -> None:
    found = hold_gates(repetitions)
    print(
        f"gates: at most 2 % of the acceptable lost in {found['held']} of {found['of']} repetitions; a gate was proven in "
        f"{found['passed']}, after {found['looks']:.1f} looks, and the machine rejects {found['rejected']:.0%} of all"
    )


def _decided(tx: Any, round_id: int) -> int:
    done = candidates.c.state.in_(("accepted", "rejected"))
    return int(tx.scalar(sa.select(sa.func.count()).where(candidates.c.round_id == round_id, done)))


def _effective(groups: Sequence[object]) -> float:
    shares = np.array(list(Counter(groups).values())) / len(groups)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _largest(pool: Pool, chosen: np.ndarray) -> float:
    return Counter(pool.texts[index] for index in chosen).most_common(1)[0][1] / len(chosen)


def _apart(vectors: np.ndarray) -> float:
    half = len(vectors) // 2
    return float(
        np.linalg.norm(vectors[:half][:500, None] - vectors[None, half:][:, :500], axis=2).mean()
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--candidates", type=int, nargs="*", default=[10_000, 40_000])
    parser.add_argument(
        "--replay",
        type=int,
        default=10_000,
        help="candidates with verdicts of the rule reviewer; 0 for none",
    )
    parser.add_argument("--seed-folder", type=Path, help="real images, with a metadata.jsonl")
    parser.add_argument(
        "--folder-candidates",
        type=int,
        default=10_000,
        help="how many are made of that folder's images",
    )
    parser.add_argument(
        "--share", type=float, default=0.9, help="the share of candidates that the policy shows"
    )
    parser.add_argument(
        "--caps", type=float, nargs="*", help="per_prompt and per_cluster; several run one by one"
    )
    parser.add_argument("--wanted", type=int, default=1_000, help="accepts at which a run ends")
    parser.add_argument(
        "--gates", type=int, default=100, help="repetitions of the gate's bound; 0 for none"
    )
    parser.add_argument("--database", help="a PostgreSQL to use in place of an embedded one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
