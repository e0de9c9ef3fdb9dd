"""How many looks of people a thousand accepts cost, at random and by a mixed policy; and whether the gate's bound holds.

    python -m tests.benchmarks.selection_views [--candidates 10000 40000] [--replay 10000] [--seed-folder DIR] [--gates 100]

Everything is the house's own code on a real PostgreSQL: candidates are screened rows, policies choose by SQL, heads are
fitted as decisions come. Only the reviewer is simulated.

The acceptance model. A candidate has five signals and sixteen numbers of an embedding, standard normal; it belongs to
one of 400 prompts with a difficulty of its own (normal, 0.5) and to one of eight styles that its embedding shows. Its
log odds are 1.2 (s1 - s2^2 + 0.5 s3) + 0.6 (e1 - e2) + style + prompt + bias, with a steepness that sets how well the
best of all heads could tell (AUC), and a bias that sets the share that people accept. Signals 4 and 5 and the other
numbers tell nothing. People say accept with that probability, each candidate once and for all. Seeds are printed.

The replay takes the verdicts of the oracle: candidates are drawn figures, or a folder's images, with planted defects
(tests/planted.py), measured by the house's signals and embedder; the oracle is fitted to sound ones. It is told twice:
as the house measures, and without what the signals say of the prompt's colour and shape, since part of the oracle's own
rule is made of the same.

Views are counted until 1,000 accepts. At random people see candidates in any order, so their views are exact: the
expected position of the 1,000th accept, 1,000 (n + 1) / (accepts + 1). Diversity is the effective number of prompts
among the accepts (the exponential of their entropy) and the mean distance of their embeddings, each as a share of that
of 1,000 accepts at random. Quality is what is accepted by the same reviewer, and so equal.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from curation.adapters import embedded_postgres
from curation.database import Database
from curation.domain import Kind, LayerRole, Prompt, Verdict, canonical_json
from curation.intake.figures import choose_subject, draw
from curation.intake.procedural import shows_prompt
from curation.layers import decode_layer
from curation.ports import RGBA
from curation.schema import migrate
from curation.screening.embedding import OWN
from curation.screening.measured import shrink
from curation.screening.oracle import Oracle
from curation.screening.refusals import judge
from curation.screening.signals import measure
from curation.selection import bounds, gates, head
from curation.selection.choosing import select_candidates
from curation.selection.heads import fit_head, wants_fit
from curation.tables import candidates
from tests.making import fresh_database, named
from tests.planted import draw_candidate, plant_some
from tests.streams import SOURCE, arrive_measured, judge_waiting, open_stream

WANTED = 1_000
POLICY = {"kind": "mixed", "share": 0.9}
STYLES, PROMPTS = 8, 400


@dataclass(frozen=True)
class Pool:
    """N candidates as they were measured, and what the reviewer would say of each."""

    signals: Sequence[Mapping[str, float | None]]
    vectors: np.ndarray
    texts: Sequence[str]
    accepted: np.ndarray
    best: float | None = None  # AUC of the truth itself
    truth: np.ndarray | None = None  # the probability of each to be accepted

    @property
    def share(self) -> float:
        return float(self.accepted.mean())


def main() -> None:
    """Print one line for each pool and policy, then how often the bound held."""
    options = _options()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with _server(options.database) as server:
        for count in options.candidates:
            # Of few candidates more must be good, or there are no thousand to be found.
            share = 0.10 if count >= 20_000 else 0.20
            for auc in (0.85, 0.90, 0.95):
                pool = simulate(count, share, auc, seed=count + round(100 * auc))
                _tell(server, f"simulated, seed {count + round(100 * auc)}", pool)
        if options.replay:
            pool = replay_figures(options.replay)
            _tell(server, "oracle, drawn figures with planted defects", pool)
            _tell(server, "the same, whether they show their prompt unknown", blind(pool))
        if options.seed_folder:
            _tell(
                server,
                "oracle, real images with planted defects",
                replay_folder(options.seed_folder, options.folder_candidates),
            )
    if options.gates:
        _tell_gates(options.gates)


def simulate(count: int, share: float, auc: float, seed: int) -> Pool:
    """The acceptance model above, with steepness and bias found by bisection."""
    rng = np.random.default_rng(seed)
    signals = rng.standard_normal((count, 5))
    style = rng.integers(STYLES, size=count)
    prompt = rng.integers(PROMPTS, size=count)
    places, effects = 1.5 * rng.standard_normal((STYLES, 16)), 0.8 * rng.standard_normal(STYLES)
    noise = rng.standard_normal((count, 16))
    known = 1.2 * (signals[:, 0] - signals[:, 1] ** 2 + 0.5 * signals[:, 2]) + 0.6 * (noise[:, 0] - noise[:, 1])
    odds = known + effects[style] + 0.5 * rng.standard_normal(PROMPTS)[prompt]
    odds = (odds - odds.mean()) / odds.std()
    coin = rng.random(count)

    def chance(steep: float) -> np.ndarray:
        bias = _bisect(lambda one: float((1 / (1 + np.exp(-(steep * odds + one)))).mean()), share, -40, 10)
        return 1 / (1 + np.exp(-(steep * odds + bias)))

    truth = chance(_bisect(lambda one: _auc(odds, coin < chance(one)), auc, 0.1, 20))
    accepted = coin < truth
    return Pool(
        signals=[{f"s{i + 1}": float(value) for i, value in enumerate(row)} for row in signals],
        vectors=(noise + places[style]).astype(np.float32),
        texts=[f"prompt {one}" for one in prompt],
        accepted=accepted,
        best=_auc(odds, accepted),
        truth=truth,
    )


def replay_figures(count: int) -> Pool:
    """Drawn figures at 64 pixels, nearly all with planted defects, as the oracle judges them."""
    sound = (_subject(np.random.default_rng([1, index])) for index in range(400))
    return _judge(Oracle.fit(sound), (draw_candidate(7, index, 0.02) for index in range(count)))


def blind(pool: Pool) -> Pool:
    """The same pool without the signals of agreement with the prompt."""
    kept = [{name: value for name, value in one.items() if not name.startswith("shows_")} for one in pool.signals]
    return replace(pool, signals=kept)


def replay_folder(folder: Path, count: int) -> Pool:
    """The images of a seed folder, at most 96 pixels long, each several times with other defects."""
    import json

    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    images = [
        (shrink(np.asarray(decode_layer((folder / row["file_name"]).read_bytes())), 96), row["text"]) for row in lines
    ]
    rng = np.random.default_rng(11)

    def drawn() -> Iterator[tuple[RGBA, str]]:
        for _ in range(count):
            rgba, text = images[rng.integers(len(images))]
            yield (rgba if rng.random() < 0.08 else plant_some(rgba, rng)), text

    return _judge(Oracle.fit(images), drawn())


def views_needed(server: str, pool: Pool) -> dict[str, Any]:
    """Run a mixed round over a pool until there are WANTED accepts; what it took."""
    began, fits = time.monotonic(), 0
    with fresh_database(server) as name:
        database = Database(named(server, name))
        migrate(database)
        with database.transaction() as tx:
            number = open_stream(tx, POLICY, len(pool.accepted))
            ids = arrive_measured(tx, number, 1, pool.signals, pool.vectors, pool.texts)
        good = dict(zip(ids, pool.accepted.tolist(), strict=True))
        views = accepts = 0
        while accepts < WANTED:
            with database.transaction() as tx:
                select_candidates(tx, number, SOURCE)
                before = _decided(tx, number)
                accepts += judge_waiting(tx, number, good, most=64)
                seen = _decided(tx, number) - before
                views += seen
                if wants_fit(tx, Kind.single, SOURCE):
                    kept, fits = fit_head(tx, Kind.single, SOURCE), fits + 1
            if not seen:
                break
        with database.transaction() as tx:
            rows = tx.execute(
                sa.select(candidates.c.id, candidates.c.state, candidates.c.slice).where(
                    candidates.c.round_id == number
                )
            ).all()
        database.close()
    place = {id_: index for index, id_ in enumerate(ids)}
    chosen = np.array([place[row.id] for row in rows if row.state == "accepted"])
    random = [good[row.id] for row in rows if row.slice == "random" and row.state in {"accepted", "rejected"}]
    slices = Counter(f"{row.slice} {row.state}" for row in rows if row.state in {"accepted", "rejected"})
    return {
        "views": views, "accepts": accepts, "fits": fits, "seconds": time.monotonic() - began,
        "auc": _auc(kept.head.predict(pool.signals, pool.vectors), pool.accepted), "chosen": chosen, "slices": dict(slices),
        "random": bounds.count(sum(random), len(random)),
    }  # fmt: skip


def hold_gates(repetitions: int, budget: float = 0.02, share: float = 0.3) -> dict[str, Any]:
    """A head taught by 600 decisions, looks at 600 to 6,000 judged ones as the house takes them; was 2 % kept to?"""
    held, useful, looks, rejected = 0, 0, 0, []
    for seed in range(repetitions):
        pool = simulate(10_000, share, 0.92, seed=10_000 + seed)
        told = head.Lesson(pool.signals[:600], pool.vectors[:600], pool.accepted[:600], pool.texts[:600], [1] * 600)
        fitted, _ = head.fit(told)
        chances = fitted.predict(pool.signals, pool.vectors)
        grid = np.quantile(chances, gates.GRID).tolist()
        threshold, last, look = None, 0, 0
        for judged in range(700, 6_601, 100):
            some = slice(600, judged)
            n, level = int(pool.accepted[some].sum()), bounds.spend(look + 1)
            if n < max(bounds.enough(budget, level), gates.MORE * last):
                continue
            found = gates.look_at(chances[some], pool.accepted[some], grid, Verdict.reject, budget, level)
            last, look = n, look + 1
            if found.proven:  # the worst that was ever in force is what counts
                threshold = max(grid[found.proven - 1], threshold or 0.0)
        looks += look
        below = chances < threshold if threshold is not None else np.zeros(len(chances), bool)
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


def _tell(server: str, what: str, pool: Pool) -> None:
    found = views_needed(server, pool)
    n, good = len(pool.accepted), int(pool.accepted.sum())
    at_random = WANTED * (n + 1) / (good + 1)
    drawn = np.random.default_rng(3).permutation(np.flatnonzero(pool.accepted))[:WANTED]
    prompts = _effective(pool, found["chosen"]) / _effective(pool, drawn)
    apart = _apart(pool, found["chosen"]) / _apart(pool, drawn)
    random = found["random"]
    best = f", the truth's own AUC {pool.best:.2f}" if pool.best else ""
    print(f"{what}: {n} candidates, {pool.share:.1%} acceptable{best}", flush=True)
    print(
        f"  views for {found['accepts']} accepts: {at_random:.0f} at random, {found['views']} by the policy: "
        f"{at_random * found['accepts'] / WANTED / found['views']:.1f} times fewer; the head's AUC {found['auc']:.3f} "
        f"({found['fits']} fits, {found['seconds']:.0f} s in all)"
    )
    print(
        f"  looked at, by slice: {canonical_json(found['slices'])}; diversity: prompts {prompts:.2f}, distance {apart:.2f}"
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


def _judge(oracle: Oracle, drawn: Iterator[tuple[RGBA, str]]) -> Pool:
    kept = []
    for rgba, text in drawn:
        signals = measure(rgba)
        if judge(signals) is None:
            shown = shows_prompt(rgba, text)
            if shown is not None:
                signals |= {"shows_colour": float(shown.colour), "shows_shape": float(shown.shape)}
            seen = OWN.see([{LayerRole.foreground: rgba}], [Prompt(text)])[0].vector
            kept.append((signals, seen, text, oracle.decide(rgba, text).verdict is Verdict.accept))
    signals, vectors, texts, accepted = zip(*kept, strict=True)
    return Pool(signals, np.stack(vectors), texts, np.array(accepted))


def _subject(rng: np.random.Generator) -> tuple[RGBA, str]:
    subject = choose_subject(rng)
    return draw(subject, rng, 64), subject.text


def _decided(tx: Any, number: int) -> int:
    done = candidates.c.state.in_(("accepted", "rejected"))
    return int(tx.scalar(sa.select(sa.func.count()).where(candidates.c.round_id == number, done)))


def _effective(pool: Pool, chosen: np.ndarray) -> float:
    shares = np.array(list(Counter(pool.texts[index] for index in chosen).values())) / len(chosen)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _apart(pool: Pool, chosen: np.ndarray) -> float:
    some = pool.vectors[chosen[:WANTED]]
    return float(np.linalg.norm(some[:500, None] - some[None, 500:WANTED], axis=2).mean())


def _auc(scores: np.ndarray, accepted: np.ndarray) -> float:
    ranks = np.argsort(np.argsort(scores)) + 1.0
    good = int(accepted.sum())
    return float((ranks[accepted].sum() - good * (good + 1) / 2) / (good * (len(scores) - good)))


def _bisect(rising: Any, wanted: float, low: float, high: float) -> float:
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return (low + high) / 2


@contextmanager
def _server(given: str | None) -> Iterator[str]:
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as folder:
        try:
            yield embedded_postgres.start(Path(folder))
        finally:
            embedded_postgres.stop(Path(folder))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--candidates", type=int, nargs="*", default=[10_000, 40_000])
    parser.add_argument(
        "--replay", type=int, default=10_000, help="candidates whose verdicts are the oracle's; 0 for none"
    )
    parser.add_argument("--seed-folder", type=Path, help="real images, with a metadata.jsonl")
    parser.add_argument(
        "--folder-candidates", type=int, default=10_000, help="how many are made of that folder's images"
    )
    parser.add_argument("--gates", type=int, default=100, help="repetitions of the gate's bound; 0 for none")
    parser.add_argument("--database", help="a PostgreSQL to use in place of an embedded one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
