"""Eight ways to fool a judge, planted one at a time in the code of a run: the ledger, the audit or the gate goes red, and says why.

Every run here is the one that `cift train` makes, step by step, over a small stored market. The run as it is passes the same guards.
Where two guards stand behind each other, the second is shown with the first taken away.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

import tasks.dataset
import tasks.judge
from cift_models import labels as labelling
from cift_models import stacking
from cift_models.errors import LeakError
from cift_models.evaluation import rows as judging
from cift_models.evaluation.card import Card
from cift_models.events import Events
from cift_models.features import stream
from cift_models.models.hmm import RegimeHMM
from cift_models.models.linear import Linear
from cift_models.models.linear.kernel import moments
from cift_models.models.protocol import Outputs, Panel
from cift_models.splits import STOP, TEST, BlockCalendar, Fold, level0_folds, training_rows
from cift_models.stacking import HEAD_BLOCKS, folds
from tasks.dataset import Dataset, build_session, select_data
from tasks.fit import Assignment, Fits, fit_step, spoken
from tasks.gate import gate, read_card
from tasks.judge import assemble, fit_heads, judge
from tasks.offsets import judge_offsets
from tasks.release import write_release
from tasks.step import StepRef
from tests.market import small_market, store_small_market

pytestmark = pytest.mark.slow

KINDS = ["linear", "hmm", "hawkes"]
READERS = [*KINDS, "meta_learner"]
CONFIGS: dict[str, dict[str, Any]] = {"hmm": {"restarts": 2, "bar_s": 10}}

TOO_EARLY = r"Prediction [\d,]+ \(\w+ \w+\) knew too early"

FITS, HEADS, PLAN = "models/checkpoints", "steps/heads", "steps/assemble"
AFTER = ("steps/judge", "steps/audit_release", "steps/gate", "trials")


@dataclass(frozen=True)
class Run:
    """What the steps of a run have left."""

    dataset: Dataset
    built: dict[int, StepRef]
    fits: Fits
    ledger: pl.DataFrame
    metrics: dict[str, Any]
    plan: dict[str, Any]
    card: Card


def fitted(data: Dataset, built: dict[int, StepRef]) -> Fits:
    fits: Fits = {}
    for kind in KINDS:
        fits[kind] = {}
        for fold in folds(kind, READERS):
            given = Assignment(kind, fold, data, built, {}, CONFIGS.get(kind, {}), 0)
            fits[kind][fold.name] = fit_step(given)
    return fits


def selected() -> Dataset:
    market = small_market()
    first, last = (date.fromisoformat(str(s.day)) for s in market.sessions)
    return select_data.fn(list(market.universe.symbols), first, last, None, 0)


def run_all() -> Run:
    """Features and labels, fits, heads, thresholds, judge, release, gate: in the home of the settings, what is done there is found."""
    data = selected()
    built = {day: build_session.fn(data, day) for day in data.days}
    fits = fitted(data, built)
    heads = fit_heads.fn(KINDS, data, built, fits)
    plan = assemble.fn(KINDS, data, built, fits, heads)
    judged = judge.fn(data, built, fits, heads, plan, None)
    card = read_card(gate.fn(data, built, judged, write_release.fn(data, fits, heads, plan, judged)))
    ledger = pl.read_parquet(judged.directory / "ledger.parquet")
    metrics, planned = (orjson.loads(path.read_bytes()) for path in (judged.directory / "metrics.json", plan.directory / "plan.json"))
    return Run(data, built, fits, ledger, metrics, planned, card)


@pytest.fixture(scope="module")
def sound_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_small_market(tmp_path_factory.mktemp("mutations") / "home")


@pytest.fixture(scope="module")
def sound(sound_home: Path) -> Run:
    """The run without a mutation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFT_HOME", str(sound_home))
        return run_all()


@pytest.fixture
def forget(sound: Run, sound_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A home in which the sound run was made and some of its steps were not: they run again, mutated (a step's key knows no plants)."""
    home = tmp_path / "home"
    shutil.copytree(sound_home, home)
    monkeypatch.setenv("CIFT_HOME", str(home))
    tasks.dataset._open_panel.cache_clear()

    def forget(*steps: str) -> None:
        for name in (*steps, *AFTER):
            shutil.rmtree(home / name)

    yield forget
    tasks.dataset._open_panel.cache_clear()


def plant(monkeypatch: pytest.MonkeyPatch, old: Callable, new: Callable) -> None:
    """Put a function in the place of another, under every name by which CIFT's modules know it."""
    found = 0
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("cift_models", "tasks"):
            for attribute, value in list(vars(module).items()):
                if value is old:
                    monkeypatch.setattr(module, attribute, new)
                    found += 1
    assert found, f"nobody calls {old}"


def test_the_run_as_it_is_passes_every_guard(sound: Run) -> None:
    card = sound.card
    assert {"rows", "audit", "alarms", "code"}.isdisjoint(card.failed) and card.audited == 6
    assert len(sound.ledger) > 1000 and (sound.ledger["max_train_t1"] < sound.ledger["as_of"]).all()
    calendar = sound.dataset.get_calendar()
    first = calendar.first(TEST[0])
    # All of them learn until b6 is over: its last row is a second before the first that is judged, its last label purged.
    assert all(t1 == first - 10**9 for kind, t1 in sound.plan["max_train_t1"].items() if kind != "rule")
    assert calendar.first(STOP) < sound.plan["max_train_t1"]["rule"] < first - 10 * 10**9
    for by_fold in sound.fits.values():
        for name, ref in by_fold.items():
            assert ref.facts["free_from"] <= calendar.first(STOP if name == "final" else int(name[1:]))


def test_a_head_learns_the_activity_of_sessions_in_which_its_model_never_spoke(sound: Run, forget) -> None:
    """The ensemble of several sessions: its one out-of-fold block may lie in the last of those that teach heads."""
    forget("steps/heads")
    calendar = sound.dataset.get_calendar()
    late = {"linear": {name: sound.fits["linear"][name] for name in ("k5", "final")}}
    silent = [day for day in calendar.sessions(HEAD_BLOCKS) if not spoken(late["linear"], day)]
    assert silent, "every session has a row of b5 or later"
    heads = fit_heads.fn(["linear"], sound.dataset, sound.built, late)
    facts = orjson.loads((heads.directory / "heads.json").read_bytes())["linear"]["facts"]
    assert all(0 < facts["rows"][symbol] < facts["rows_of_activity"][symbol] for symbol in facts["rows"])


def test_all_that_forecast_are_judged_at_other_moments_where_that_is_asked(sound: Run, forget) -> None:
    forget()
    few, every = (
        orjson.loads((judge_offsets.fn(sound.dataset, sound.built, sound.fits, every).directory / "offsets.json").read_bytes())
        for every in (False, True)
    )
    symbol = next(iter(every))
    assert list(few[symbol]) == ["linear"] and set(every[symbol]) == {"linear", "hawkes"}
    assert every[symbol]["linear"]["offsets"] == few[symbol]["linear"]["offsets"]


# 1. A shuffled split.


def dealt(seed: int = 0) -> tuple[Fold, ...]:
    """Blocks dealt at random, as by KFold(shuffle=True): what is predicted is held out, and lies among what is learned."""
    rng = np.random.default_rng(seed)
    out = []
    for fold in level0_folds():
        others = [b for b in range(10) if b != STOP and (b not in fold.predict or b in TEST)]
        out.append(replace(fold, train=tuple(sorted(rng.permutation(others)[: len(fold.train)].tolist()))))
    return tuple(out)


def test_blocks_dealt_at_random_are_refused_where_they_would_be_stacked(forget, monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled = (*dealt()[:-1], level0_folds()[-1])
    plant(monkeypatch, level0_folds, lambda: shuffled)
    forget(FITS, HEADS, PLAN)
    with pytest.raises(LeakError, match=r"linear k\d speaks of \d+ in session .* out of fold from"):
        run_all()


def test_a_released_fit_on_blocks_dealt_at_random_is_refused_by_the_ledger(forget, monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled = (*level0_folds()[:-1], dealt()[-1])
    assert set(shuffled[-1].train) & set(TEST)
    plant(monkeypatch, level0_folds, lambda: shuffled)
    forget(FITS, HEADS, PLAN)
    with pytest.raises(LeakError, match="linear final speaks of"):
        run_all()
    monkeypatch.setattr(stacking, "_refuse_in_sample", lambda *arguments: None)  # and behind that wall stands the other
    with pytest.raises(LeakError, match=TOO_EARLY):
        run_all()


def test_rows_dealt_at_random_are_refused_for_want_of_a_purge(forget, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_random(calendar: BlockCalendar, session: int, as_of, label_end, blocks, purge_ns=None):
        return calendar.mask(session, as_of, range(10)) & (np.random.default_rng(session).uniform(size=len(as_of)) < 0.6)

    monkeypatch.setattr(stacking, "training_rows", at_random)
    forget(FITS, HEADS, PLAN)
    with pytest.raises(LeakError, match="out of fold from"):
        run_all()


# 2. An in-sample stack.


def in_sample() -> tuple[Fold, ...]:
    """Every block predicted by a fit on all of them: what a stack is made of that forgot to leave anything out."""
    return tuple(replace(fold, train=tuple(range(6))) for fold in level0_folds())


def test_a_stack_is_out_of_fold_and_refused_in_sample(sound: Run, forget) -> None:
    final = folds("meta_learner", READERS)[-1]
    assert final.train == (3, 4, 5)

    def stacked(linear: dict[str, StepRef]) -> StepRef:
        """linear stands in for the two that need torch."""
        below = {**sound.fits, "linear": linear, "gnn": linear, "transformer": linear}
        return fit_step(Assignment("meta_learner", final, sound.dataset, sound.built, below, {}, 0))

    made = stacked(sound.fits["linear"])
    assert made.facts["n_rows"] > 1000 and made.facts["own_t1"] < sound.dataset.get_calendar().first(TEST[0])
    knew = {fold.name: fit_step(Assignment("linear", fold, sound.dataset, sound.built, {}, {}, 0)) for fold in in_sample()}
    with pytest.raises(LeakError, match=r"linear k\d speaks of"):
        stacked(knew)


def test_a_head_on_in_sample_outputs_is_refused(forget, monkeypatch: pytest.MonkeyPatch) -> None:
    knew = in_sample()
    plant(monkeypatch, level0_folds, lambda: knew)
    forget(FITS, HEADS, PLAN)
    with pytest.raises(LeakError, match=r"linear k\d speaks of"):
        run_all()


# 3. A smoothed regime.


def smoothed(model: RegimeHMM, panel: Panel) -> Outputs:
    """p(s_t | all of the session) for p(s_{t+1} | F_t): Kim's backward pass over the bars, out of the filter's own words."""
    values, ready = filtered(model, panel)
    values = values.copy()
    transition = model.parameters.transition
    at = np.flatnonzero(np.any(np.diff(values, axis=0, prepend=np.nan) != 0, axis=(1, 2)) & ready.all(axis=1))
    for s in range(values.shape[1]):
        ahead = values[at, s]
        now = np.clip(np.linalg.solve(transition.T, ahead.T).T, 1e-12, None)
        now /= now.sum(axis=1, keepdims=True)
        behind = now.copy()
        for b in reversed(range(len(at) - 1)):
            behind[b] = now[b] * (transition @ (behind[b + 1] / np.maximum(ahead[b], 1e-12)))
            behind[b] /= behind[b].sum()
        for b, t in enumerate(at):
            values[t : at[b + 1] if b + 1 < len(at) else None, s] = behind[b]
    return Outputs(values, ready)


filtered = RegimeHMM.predict


def test_a_smoothed_regime_is_found_by_the_audit_and_held(forget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegimeHMM, "predict", smoothed)
    forget(f"{FITS}/hmm")
    card = run_all().card
    assert card.clauses["audit"] is False and card.verdict == "held"
    assert any("models of" in reason and "know their future: hmm.regime_" in reason for reason in card.reasons)


# 4. A label against a past mean.


def against_a_past_mean(events: Events, universe, session, as_of, horizon_ns: int, latency_ns: int = 0):
    """The move from the mean of the last ten seconds, not from the price that stands."""
    y, known, end = labels_as_they_are(events, universe, session, as_of, horizon_ns, latency_ns)
    inside = (events.ts >= session.open) & (events.ts <= session.close)
    for s in range(len(universe)):
        ts, twice = labelling.mid_path(events, inside & (events.symbol == s))
        if not known[:, s].any():
            continue
        grid = as_of[:, None] + latency_ns - 10**9 * np.arange(10)
        at = np.searchsorted(ts, grid, "right") - 1
        mids = np.where((at >= 0) & (twice[np.maximum(at, 0)] > 0), twice[np.maximum(at, 0)], 0)
        mean = np.divide(mids.sum(axis=1), (mids > 0).sum(axis=1), where=(mids > 0).any(axis=1), out=np.ones(len(as_of)))
        last = twice[np.maximum(np.searchsorted(ts, end, "right") - 1, 0)]
        y[:, s] = np.where(known[:, s], 1e4 * (last - mean) / mean, 0.0)
    return y, known, end


labels_as_they_are = labelling.labels


def r2_of_linear(run: Run, symbol: str) -> float:
    return run.metrics["symbols"][symbol]["linear"]["r2"]["value"]


def test_a_label_against_a_past_mean_is_found_by_the_audit_and_held(forget, monkeypatch: pytest.MonkeyPatch, sound: Run) -> None:
    plant(monkeypatch, labels_as_they_are, against_a_past_mean)
    forget("steps/features")
    mutated = run_all()
    card = mutated.card
    # It is the trap: ridge on past moves forecasts this label far better than any true move.
    for symbol in card.symbols:
        assert r2_of_linear(mutated, symbol) > r2_of_linear(sound, symbol) + 0.1
    assert card.clauses["audit"] is False
    assert any("labels of" in reason and "not anchored at the price that stands: y" in reason for reason in card.reasons)


# 5. A centred filter.


def centred(universe, features, session, events, threads=1):
    """Every queue imbalance is the mean of five rows, two of them to come."""
    as_of, offsets, x, valid, why = build_as_it_is(universe, features, session, events, threads)
    x = x.copy()
    column = features.names.index("queue_imbalance")
    for s in range(x.shape[1]):
        x[:, s, column] = np.convolve(x[:, s, column], np.ones(5) / 5, "same")
    return as_of, offsets, x, valid, why


build_as_it_is = stream.build


def test_a_centred_filter_is_found_by_the_audit_and_held(forget, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, build_as_it_is, centred)
    forget("steps/features")
    card = run_all().card
    assert card.clauses["audit"] is False
    assert any("features of" in reason and "know their future: queue_imbalance" in reason for reason in card.reasons)


# 6. A normaliser fitted on all.


def test_a_panel_that_was_normalised_on_its_way_is_not_that_of_its_events(forget, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tasks.dataset.stored_panel

    def normalised(*arguments, **more) -> Panel:
        panel = stored(*arguments, **more)
        column = panel.features.names.index("queue_imbalance")
        x = panel.x.copy()
        x[:, :, column] = (x[:, :, column] - x[:, :, column].mean(axis=0)) / x[:, :, column].std(axis=0)
        return replace(panel, x=x)

    monkeypatch.setattr(tasks.dataset, "stored_panel", normalised)
    forget(FITS, HEADS, PLAN)
    card = run_all().card
    assert card.clauses["audit"] is False
    assert any("given features of" in reason and "not those of its events: queue_imbalance" in reason for reason in card.reasons)


def with_moments_of_all(cls, config, train, valid, ctx):
    """Ridge as it is, but mean and deviation are those of every row that it can reach, marked or not."""
    model, report = fit_as_it_is(config, train, valid, ctx)
    for s in range(len(model.symbols)):
        x = np.concatenate([panel.x[panel.valid[:, s], s][:, model.columns.places] for panel in train])
        model.weights["mean"][s], model.weights["sd"][s] = moments(x)
    return model, report


fit_as_it_is = Linear.fit


@pytest.mark.parametrize("cut", [True, False], ids=["the past", "all"])
def test_a_normaliser_reaches_the_past_alone_or_the_ledger_says_so(forget, monkeypatch: pytest.MonkeyPatch, cut: bool) -> None:
    """What a fit is shown ends with its training rows; whoever shows it more has shown it, and must say so."""
    monkeypatch.setattr(Linear, "fit", classmethod(with_moments_of_all))
    forget(f"{FITS}/linear", HEADS, PLAN)
    if cut:
        assert {"rows", "audit", "alarms"}.isdisjoint(run_all().card.failed)
        return
    monkeypatch.setattr(Panel, "until", lambda self, n: self)
    with pytest.raises(LeakError, match=r"linear k\d speaks of"):
        run_all()
    # And of the one that is released, whose words are stacked nowhere.
    monkeypatch.setattr(stacking, "_refuse_in_sample", lambda *arguments: None)
    with pytest.raises(LeakError, match=TOO_EARLY):
        run_all()


# 7. A threshold tuned on the test blocks.


def test_a_threshold_tuned_on_test_rows_is_refused_by_the_ledger(forget, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_test_too(calendar: BlockCalendar, session: int, as_of, label_end, blocks, purge_ns=None):
        return calendar.mask(session, as_of, (*blocks, *TEST))

    monkeypatch.setattr(judging, "training_rows", of_test_too)
    forget(PLAN)
    with pytest.raises(LeakError, match=TOO_EARLY):
        run_all()


# 8. A head fitted on test rows.


def test_a_head_fitted_on_test_rows_is_refused_by_the_ledger(forget, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = tasks.judge.head_blocks
    monkeypatch.setattr(tasks.judge, "head_blocks", lambda names: (*blocks(names), TEST[0]))
    forget(HEADS, PLAN)
    with pytest.raises(LeakError, match=TOO_EARLY):
        run_all()


def test_a_head_counts_the_rows_that_it_was_given_not_those_it_was_meant_to_have(forget, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_test_too(calendar: BlockCalendar, session: int, as_of, label_end, blocks, purge_ns=None):
        return training_rows(calendar, session, as_of, label_end, blocks) | calendar.mask(session, as_of, (TEST[1],))

    monkeypatch.setattr(tasks.judge, "training_rows", of_test_too)
    forget(HEADS, PLAN)
    with pytest.raises(LeakError, match=TOO_EARLY):
        run_all()
