"""The laws of a model. Each holds for every kind in REGISTRY; a law that a model cannot keep is a wrong law or a wrong model."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cift_models.errors import DataError
from cift_models.models import model_class
from cift_models.models.protocol import Model, Output, Outputs, Panel, State, fold
from tests.contract.law_market import Case, LawMarket, panel_digest


def same(one: Outputs, two: Outputs) -> None:
    """Equal to the bit, signs of zero included."""
    np.testing.assert_array_equal(one.ready, two.ready)
    assert one.values.dtype == two.values.dtype == np.float64
    differs = one.values.view(np.int64) != two.values.view(np.int64)
    where = tuple(int(i[0]) for i in np.nonzero(differs)) if differs.any() else ()
    assert not differs.any(), f"{differs.sum()} values differ, first {where}: {one.values[where]!r} and {two.values[where]!r}"


def saved(model: Model) -> dict[str, bytes]:
    """The files that `save` writes, by name."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def loaded(case: Case, files: dict[str, bytes]) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return model_class(case.kind).load(Path(folder))


def advance(model: Model, state: State, panel: Panel, begin: int, end: int) -> tuple[State, list[Output]]:
    outputs = []
    for t in range(begin, end):
        state, output = model.update(state, panel.step(t))
        outputs.append(output)
    return state, outputs


def stacked(outputs: list[Output]) -> Outputs:
    return Outputs(np.stack([o.values for o in outputs]), np.stack([o.ready for o in outputs]))


def part(outputs: Outputs, begin: int, end: int) -> Outputs:
    return Outputs(outputs.values[begin:end], outputs.ready[begin:end])


def a_cut(case: Case) -> int:
    """Some instant in mid-session, another for each kind."""
    return int(np.random.default_rng(sum(map(ord, case.kind))).integers(len(case.test) // 4, 3 * len(case.test) // 4))


def stream_equals_batch(case: Case) -> None:
    """The fold of `update` over a session equals `predict`, to the bit."""
    batch = case.model.predict(case.test)
    assert batch.ready.any(), "a model that is never ready keeps every law"
    same(fold(case.model, case.test), batch)


def outputs_have_their_names_and_shapes(case: Case) -> None:
    """Values are float64[T, S, C] with one column a name, finite; ready is bool[T, S]; needs, kind and status are what they claim."""
    values, ready = case.model.predict(case.test)
    assert values.shape == (*case.test.valid.shape, len(case.model.outputs)) and values.dtype == np.float64
    assert ready.shape == case.test.valid.shape and ready.dtype == np.bool_ and np.isfinite(values).all()
    assert case.model.kind == case.kind and case.report.status in ("converged", "max_iter", "diverged") and case.report.n_rows > 0


def report_is_json(case: Case) -> None:
    """Facts and curves of a fit are plain JSON values without NaN; a max_train_t1 among them is not after the last training label."""
    report = case.report
    assert json.loads(json.dumps([report.facts, report.curves], allow_nan=False)) is not None
    assert report.facts.get("max_train_t1", 0) <= case.train.label_end[case.train.rows].max()


def silent_where_not_valid(case: Case) -> None:
    """Where a row is not valid the output is not ready, and zero wherever it is not ready; what its features hold is not read."""
    values, ready = case.model.predict(case.test)
    assert np.isnan(case.test.x[~case.test.valid]).all() and (~case.test.valid).sum() > 40
    assert not (ready & ~case.test.valid).any() and not values[~ready].any()
    other = replace(case.test, x=np.where(case.test.valid[..., None], case.test.x, 7.0))
    same(case.model.predict(other), Outputs(values, ready))


def saved_model_predicts_the_same_bytes(case: Case) -> None:
    """save and load keep every bit of a prediction, and saving again writes the same bytes."""
    files = saved(case.model)
    model = loaded(case, files)
    assert "config.json" in files and "manifest.json" not in files
    assert not any(name.endswith((".pkl", ".pickle", ".pt", ".joblib")) for name in files)
    assert saved(model) == files and model.outputs == case.model.outputs
    same(model.predict(case.test), case.model.predict(case.test))


def same_rows_and_seed_same_fit(case: Case) -> None:
    """The same rows and seed give the same files, whatever stands in labels that are not rows."""
    unmarked = ~case.train.rows[:, None] | ~case.train.valid
    spoilt = replace(case.train, y=np.where(unmarked, 1e4, case.train.y))
    assert saved(case.refit(spoilt)) == saved(case.model)


def future_changes_no_past(case: Case) -> None:
    """A session cut off after n steps, or going on otherwise, gives the same first n predictions."""
    whole = case.model.predict(case.test)
    cut = a_cut(case)
    same(case.model.predict(case.test.until(cut)), part(whole, 0, cut))
    rng = np.random.default_rng(0)
    x, events = (
        case.test.x.copy(),
        case.test.events[:].__class__(*(getattr(case.test.events, f).copy() for f in case.test.events.__dataclass_fields__)),
    )
    x[cut:] *= rng.uniform(0.5, 2.0, x[cut:].shape)
    after = slice(int(case.test.offsets[cut]), None)
    events.side[after] *= -1
    events.bid_sz[after] += 100
    base = {name: np.concatenate([values[:cut], 0.5 * values[cut:]]) for name, values in case.test.base.items()}
    other = replace(case.test, x=x, events=events, base=base)
    same(part(case.model.predict(other), 0, cut), part(whole, 0, cut))


def refuses_nan(case: Case) -> None:
    """A value that is not finite in a valid row is a DataError, in `predict` and in `update`."""
    t = int(np.flatnonzero(case.test.valid.all(axis=1))[-1])
    for bad in (np.nan, np.inf):
        x = case.test.x.copy()
        x[t, 0, case.test.features.index(["queue_imbalance"])] = bad
        panel = replace(case.test, x=x)
        with pytest.raises(DataError):
            case.model.predict(panel)
        with pytest.raises(DataError):
            case.model.update(case.model.start(), panel.step(t))


def state_survives_bytes(case: Case) -> None:
    """A state that went through to_bytes and from_bytes in mid-session goes on to the bit; it is named arrays and nothing else."""
    cut = a_cut(case)
    state, _ = advance(case.model, case.model.start(), case.test, 0, cut)
    assert all(isinstance(name, str) and isinstance(array, np.ndarray) and array.dtype != object for name, array in state.items())
    model = loaded(case, saved(case.model))
    _, rest = advance(model, State.from_bytes(state.to_bytes()), case.test, cut, len(case.test))
    same(stacked(rest), part(case.model.predict(case.test), cut, len(case.test)))


def a_copy_is_a_fork(case: Case) -> None:
    """What a copy of a state lives through does not touch the state, and no memory hides in the model."""
    cut = a_cut(case)
    state, _ = advance(case.model, case.model.start(), case.test, 0, cut)
    advance(case.model, state.copy(), case.test, cut + 7, min(cut + 60, len(case.test)))
    advance(case.model, case.model.start(), case.test, 0, 50)
    _, rest = advance(case.model, state, case.test, cut, len(case.test))
    same(stacked(rest), part(case.model.predict(case.test), cut, len(case.test)))


def inputs_are_left_alone(case: Case) -> None:
    """Neither `fit`, `predict` nor `update` writes into what it is given, or hands it out."""
    panel = case.test
    values, ready = case.model.predict(panel)
    _, (first, _) = case.model.update(case.model.start(), panel.step(0))
    assert panel_digest(case.train, panel) == case.untouched
    given = [panel.x, panel.valid, *panel.base.values(), *panel.base_ready.values()]
    assert not any(np.shares_memory(out, array) for out in (values, ready, first) for array in given)


def one_symbol_and_few_rows_are_enough(case: Case) -> None:
    """A universe of one symbol and 200 seconds of it can be fitted, says something finite, and streams as in batch."""
    tiny = TINY.case(case.kind)
    assert len(tiny.test.universe) == 1 and tiny.report.status in ("converged", "max_iter", "diverged")
    batch = tiny.model.predict(tiny.test)
    assert np.isfinite(batch.values).all()
    same(fold(tiny.model, tiny.test), batch)
    same(loaded(tiny, saved(tiny.model)).predict(tiny.test), batch)


TINY = LawMarket(symbols=1, seconds=260)

LAWS = [
    stream_equals_batch,
    outputs_have_their_names_and_shapes,
    report_is_json,
    silent_where_not_valid,
    saved_model_predicts_the_same_bytes,
    same_rows_and_seed_same_fit,
    future_changes_no_past,
    refuses_nan,
    state_survives_bytes,
    a_copy_is_a_fork,
    inputs_are_left_alone,
    one_symbol_and_few_rows_are_enough,
]
