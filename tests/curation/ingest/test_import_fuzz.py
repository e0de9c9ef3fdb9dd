"""Several hundred mutations of the fuzzer: each file has an outcome, and good files are imported."""

from __future__ import annotations

from tests.benchmarks.import_fuzz import Fuzz


def test_mutated_files_are_refused_or_accepted_and_nothing_is_raised(database, store, tmp_path):
    fuzz = Fuzz(database, store, tmp_path, seed=20_261_130)
    fuzz.run(240, 120)
    assert fuzz.failures == []
    assert sum(fuzz.kinds.values()) == 240
    assert sum(fuzz.outcomes.values()) >= 240
