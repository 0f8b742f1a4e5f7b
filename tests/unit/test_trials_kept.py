"""The table of trials between runs: written once, read back, and never silently forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from cift_models.errors import StoreError
from cift_models.evaluation.trials import Trial
from tasks.trials import keep_trials, known_trials


def trial(name: str, seed: int = 0) -> Trial:
    net = np.random.default_rng(seed).normal(size=30)
    return Trial(name, "S0", "c", "k", "d", np.arange(30), net, np.full(30, np.nan), 40)


def test_runs_add_up_and_a_run_that_is_judged_again_adds_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("CIFT_HOME", str(tmp_path))
    assert len(known_trials()) == 0
    keep_trials([trial("a"), trial("b", 1)])
    keep_trials([trial("a"), trial("b", 1)])
    keep_trials([trial("c", 2)])
    found = known_trials()
    assert sorted(t.model for t in found.table) == ["a", "b", "c"] and len(list((tmp_path / "trials").iterdir())) == 2
    assert np.array_equal(next(t for t in found.table if t.model == "b").net_bps, trial("b", 1).net_bps)


def test_a_damaged_table_is_an_error_and_not_an_empty_one(monkeypatch, tmp_path):
    monkeypatch.setenv("CIFT_HOME", str(tmp_path))
    keep_trials([trial("a")])
    path = next((tmp_path / "trials").iterdir())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StoreError, match=path.name):
        known_trials()
