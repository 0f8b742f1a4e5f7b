"""The recorded day of LOBSTER: figures that were measured once with other code, by symbol."""

from dataclasses import replace

import numpy as np
import pytest

from cift_models.models import model_class
from cift_models.models.head import Head, has_own_probabilities
from cift_models.models.protocol import FitContext, Panel
from cift_models.splits import PURGE_NS, TEST, block_calendar, level0_folds, training_rows
from tests.appendix_a import SESSION, real_day

pytestmark = pytest.mark.real_data
CALENDAR = block_calendar([SESSION])
SYMBOLS = ("AAPL", "AMZN", "GOOG")


def marked(panel: Panel, blocks, purge_ns=PURGE_NS) -> Panel:
    return replace(panel, rows=training_rows(CALENDAR, panel.session, panel.as_of, panel.label_end, blocks, purge_ns))


def fit(kind: str, panel: Panel, blocks):
    return model_class(kind).fit(
        model_class(kind).Config(), [marked(panel, blocks, None if kind == "ridge_reference" else PURGE_NS)], [], FitContext()
    )[0]


def judged(kind: str, symbol: str) -> dict[str, float]:
    """R2, hit rate, total and direction log-loss on b7-b9 of a fit on b0-b5, its head on out-of-fold rows of b3-b5."""
    panel = real_day(symbol)
    test = CALENDAR.mask(panel.session, panel.as_of, TEST)
    assert test.sum() == 6_660
    model = fit(kind, panel, range(6))
    out = model.predict(panel)
    y, forecast = panel.y[test, 0], out.values[test, 0, 0]
    if has_own_probabilities(model.outputs):
        p = out.values[test, 0, 1:]
    else:
        told, has = np.zeros(panel.y.shape), np.zeros(len(panel), bool)
        for fold in level0_folds()[2:-1]:
            own = CALENDAR.mask(panel.session, panel.as_of, fold.predict)
            told[own] = fit(kind, panel, fold.train).predict(panel).values[own, :, 0]
            has |= own
        head, _ = Head.fit([(marked(panel, (3, 4, 5)), told, panel.valid & has[:, None])])
        p = head.predict(out.values[test, :, 0], panel.x[test], panel.valid[test])[:, 0]
    classes, moved = np.sign(y).astype(int) + 1, y != 0
    own = np.where(classes == 2, p[:, 2], p[:, 0])[moved]
    return {
        "r2": 1 - ((y - forecast) ** 2).sum() / (y**2).sum(),
        "hits": float((np.sign(forecast[moved]) == np.sign(y[moved])).mean()),
        "total": -float(np.log(p[np.arange(len(p)), classes]).mean()),
        "direction": -float(np.log(own / (p[moved, 0] + p[moved, 2])).mean()),
    }


@pytest.mark.parametrize(
    ("symbol", "r2", "hits", "total", "direction"),
    [("AAPL", 0.0141, 0.570, 0.9956, 0.6800), ("AMZN", 0.0285, 0.602, 0.7603, 0.6637), ("GOOG", 0.0146, 0.582, 0.7399, 0.6767)],
)
def test_ridge_reference(symbol, r2, hits, total, direction):
    """methods.md has .997/.762/.740 and .6825/.6735/.6732, of a head that is one logit of three classes."""
    found = judged("ridge_reference", symbol)
    assert found["r2"] == pytest.approx(r2, abs=0.0005) and found["hits"] == pytest.approx(hits, abs=0.001)
    assert found["total"] == pytest.approx(total, abs=0.0005) and found["direction"] == pytest.approx(direction, abs=0.0005)


@pytest.mark.parametrize(("symbol", "r2"), [("AAPL", 0.027), ("AMZN", 0.035), ("GOOG", 0.016)])
def test_linear(symbol, r2):
    assert judged("linear", symbol)["r2"] == pytest.approx(r2, abs=0.001)


@pytest.mark.parametrize(("symbol", "prior", "activity"), [("AAPL", 1.029, 1.010), ("AMZN", 0.793, 0.775), ("GOOG", 0.755, 0.751)])
def test_prior_and_activity(symbol, prior, activity):
    assert judged("prior", symbol)["total"] == pytest.approx(prior, abs=0.001)
    found = judged("activity", symbol)
    assert found["total"] == pytest.approx(activity, abs=0.001) and found["direction"] == pytest.approx(np.log(2))


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_trees_on_raw_columns_say_something(symbol):
    assert 0.005 < judged("trees", symbol)["r2"] < 0.04
