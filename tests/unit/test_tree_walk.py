"""Our walker against XGBoost's own, row by row, and files that are not forests."""

import numpy as np
import orjson
import pytest

from cift_models.errors import ReleaseError
from cift_models.models.boosting import Rows, boost
from cift_models.models.tree_walk import Forest


def data(n: int, seed: int = 0, k: int = 8):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, k))
    x[:, 3] = np.round(x[:, 3], 1)
    x[rng.uniform(size=x.shape) < 0.1] = np.nan
    y = np.where(np.isnan(x[:, 0]), 1.5, x[:, 0] * np.nan_to_num(x[:, 1])) + rng.normal(size=n)
    return x, y


@pytest.mark.parametrize("base_score", [0.0, 0.73, None])
def test_the_walk_equals_xgboost(base_score):
    import xgboost

    x, y = data(5_000)
    parameters = {"max_depth": 4, "eta": 0.2, "nthread": 1} | ({} if base_score is None else {"base_score": base_score})
    booster = xgboost.train(parameters, xgboost.DMatrix(x, y), 60)
    forest = Forest.from_json(bytes(booster.save_raw("json")))
    unseen, _ = data(4_000, seed=1)
    unseen[:50] = np.float32(forest.value[forest.left >= 0][:50, None])  # values that lie on thresholds
    margin = np.random.default_rng(2).normal(size=len(unseen))
    np.testing.assert_allclose(forest.predict(unseen), booster.predict(xgboost.DMatrix(unseen)), rtol=0, atol=1e-6)
    told = booster.predict(xgboost.DMatrix(unseen, base_margin=margin))
    np.testing.assert_allclose(forest.predict(unseen, margin), told, rtol=0, atol=1e-6)
    assert np.std(told - margin) > 0.3 and np.isnan(unseen).any()


def test_one_row_is_the_row_of_the_batch():
    x, y = data(600)
    forest = Forest.from_json(boost({"max_depth": 3}, Rows(x, y), None, 30, 10, 0, 1).model)
    batch = forest.predict(x)
    assert all(forest.predict(x[i : i + 1])[0] == batch[i] for i in range(len(x)))


def test_early_stopping_keeps_the_best_rounds_and_none_where_none_helps():
    x, y = data(1_500)
    other, truth = data(1_500, seed=3)
    kept = boost({"max_depth": 3, "eta": 0.3}, Rows(x, y), Rows(other, truth), 400, 20, 0, 1)
    assert 0 < kept.rounds == len(Forest.from_json(kept.model).roots) == int(np.argmin(kept.curve)) + 1 < 400
    noise = np.random.default_rng(5).normal(size=1_500)
    none = boost({"max_depth": 3, "eta": 0.3}, Rows(x, y), Rows(other, -truth + noise), 400, 20, 0, 1)
    assert none.rounds == 0 and not Forest.from_json(none.model).predict(x).any()


def test_the_same_seed_gives_the_same_bytes():
    x, y = data(800)
    fits = [boost({"max_depth": 3}, Rows(x, y), Rows(x[:100], y[:100]), 20, 5, 7, 1).model for _ in range(2)]
    assert fits[0] == fits[1]


def damaged(model: dict, what: str) -> None:
    tree = model["learner"]["gradient_booster"]["model"]["trees"][2]
    match what:
        case "loop":
            tree["left_children"][1] = 0
        case "outside":
            tree["right_children"][0] = 10_000
        case "feature":
            tree["split_indices"][0] = 99
        case "short":
            tree["split_conditions"].pop()
        case "number":
            tree["split_conditions"][0] = 1e300
        case "objective":
            model["learner"]["objective"]["name"] = "binary:logistic"
        case "categorical":
            tree["split_type"][0] = 1
        case "no trees":
            del model["learner"]["gradient_booster"]


@pytest.mark.parametrize("what", ["loop", "outside", "feature", "short", "number", "objective", "categorical", "no trees"])
@pytest.mark.filterwarnings("ignore:overflow")
def test_damaged_forests_are_refused(what):
    x, y = data(500)
    model = orjson.loads(boost({"max_depth": 3}, Rows(x, y), None, 5, 5, 0, 1).model)
    damaged(model, what)
    with pytest.raises(ReleaseError):
        Forest.from_json(orjson.dumps(model))
    with pytest.raises(ReleaseError):
        Forest.from_json(b"{")
