"""metrics.json: every model by every metric, with intervals, on the test rows (docs/metrics.md has the schema, `validate` checks it)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from cift_models import scores
from cift_models.errors import DataError, SchemaMismatch
from cift_models.evaluation import backtest, calibration
from cift_models.evaluation.card import Switch
from cift_models.evaluation.deflated_sharpe import deflated_sharpe
from cift_models.evaluation.durability import concentration, half_life_ms
from cift_models.evaluation.evaluated import Evaluated, Forecast
from cift_models.evaluation.leak_alarms import leak_alarms
from cift_models.evaluation.marginal import NESTED, NOTHING, Stack, marginal, switches
from cift_models.evaluation.significance import (
    BLOCK_NS,
    DRAWS,
    LONG_BLOCK_NS,
    Blocks,
    Estimate,
    Test,
    clark_west,
    diebold_mariano,
    holm,
    standard_error,
)
from cift_models.evaluation.trials import Trial, Trials, trials_of
from cift_models.models import REGISTRY
from cift_models.scores import Terms

SCHEMA = 1

MODELS = tuple(REGISTRY)
"""Every model stands in every table; one that a run lacks is null with that reason."""

METRICS = (
    "r2",
    "hit_rate",
    "log_loss",
    "log_loss_activity",
    "log_loss_direction",
    "brier",
    "accuracy",
    "mcc",
    "calibration_slope",
    "ece",
    "timing_value_bps",
    "net_per_trade_bps",
    "n_trades",
    "sharpe_net",
)

ECE_SIZE = 0.01

_NO_MEAN = "makes no forecast of the move"
_NO_CHANCES = "gives no chances of down, flat, up"
_COUNT = "a count has no interval"


def figures(data: Evaluated, model: str, blocks: Blocks) -> dict[str, Estimate]:
    """Every metric of METRICS for one model on one symbol, on the rows where it is ready."""
    forecast = data.forecasts.get(model)
    if forecast is None:
        return dict.fromkeys(METRICS, Estimate.absent("not part of this run"))
    if not forecast.ready.any():
        return dict.fromkeys(METRICS, Estimate.absent("ready on no test row"))
    out = {**_of_mean(data, forecast, blocks), **_of_chances(data, forecast, blocks), **_of_money(data, forecast, blocks)}
    return {name: out[name] for name in METRICS}


def _of_mean(data: Evaluated, forecast: Forecast, blocks: Blocks) -> dict[str, Estimate]:
    if forecast.mean_bps is None:
        return dict.fromkeys(("r2", "hit_rate"), Estimate.absent(_NO_MEAN))
    rows = forecast.ready
    y, mean, as_of = data.y[rows], forecast.mean_bps[rows], data.as_of[rows]
    hits = scores.hit_rate_terms(y, mean)
    hit_rate = blocks.ratio(as_of, hits) if hits.denominator.any() else Estimate.absent("no move that a forecast other than 0 was made for")
    return {"r2": r2(as_of, y, mean, blocks), "hit_rate": hit_rate}


def r2(as_of: NDArray[np.int64], y: NDArray[np.float64], mean_bps: NDArray[np.float64], blocks: Blocks) -> Estimate:
    """R2 against zero with its interval from (SSE, SST) pairs; absent where no row moved."""
    if not y.any():
        return Estimate.absent("no row moved")
    sums = blocks.sums(as_of, np.column_stack(scores.r2_terms(y, mean_bps)))
    return blocks.interval(sums, lambda s: 1.0 - s[..., 0] / np.where(s[..., 1] > 0, s[..., 1], np.nan))


def _of_chances(data: Evaluated, forecast: Forecast, blocks: Blocks) -> dict[str, Estimate]:
    names = METRICS[2:10]
    if forecast.p is None:
        return dict.fromkeys(names, Estimate.absent(_NO_CHANCES))
    rows = forecast.ready
    y, p, as_of = data.y[rows], forecast.p[rows], data.as_of[rows]
    out = {
        "log_loss": blocks.ratio(as_of, scores.log_loss_terms(y, p)),
        "log_loss_activity": blocks.ratio(as_of, scores.log_loss_activity_terms(y, p)),
        "brier": blocks.ratio(as_of, scores.brier_terms(y, p)),
        "accuracy": blocks.ratio(as_of, scores.accuracy_terms(y, p)),
        "mcc": blocks.interval(blocks.sums(as_of, scores.confusion_terms(y, p)), scores.mcc_of_counts),
    }
    if not y.any():
        return out | dict.fromkeys(("log_loss_direction", "calibration_slope", "ece"), Estimate.absent("no row moved"))
    return out | {
        "log_loss_direction": blocks.ratio(as_of, scores.log_loss_direction_terms(y, p)),
        "calibration_slope": calibration.slope(as_of, y, p, blocks),
        "ece": Estimate(
            scores.ece(y, p), reason="biased upwards by noise: judged against perfect models under `calibration`, not by an interval"
        ),
    }


def _of_money(data: Evaluated, forecast: Forecast, blocks: Blocks) -> dict[str, Estimate]:
    names = METRICS[10:]
    mean = forecast.mean_bps
    if mean is None:
        return dict.fromkeys(names, Estimate.absent(_NO_MEAN))
    out = {"timing_value_bps": backtest.timing_value(data, mean, forecast.ready, blocks)}
    if forecast.rule is None:
        return out | dict.fromkeys(names[1:], Estimate.absent("no threshold was chosen for it"))
    trades = backtest.trade(data, mean, forecast.ready, forecast.rule)
    return out | {
        "net_per_trade_bps": backtest.net_per_trade(data, trades, blocks),
        "n_trades": Estimate(float(len(trades)), reason=_COUNT),
        "sharpe_net": backtest.sharpe_net(data, trades, blocks),
    }


def paired(data: Evaluated, model: str, blocks: Blocks, reference: str = "linear") -> dict[str, Any]:
    """One model against `reference` on the rows where both speak: gains with intervals, Diebold-Mariano at 60 and 300 s, Clark-West.

    Gains are positive where the model is better: of R2 (squared error over the same squared moves), of direction log-loss (nats a move),
    and of total log-loss against `activity` (nats a row), never against the prior.
    """
    ours, theirs = data.forecasts.get(model), data.forecasts.get(reference)
    out: dict[str, Any] = {"against": reference}
    if ours is None or theirs is None:
        missing = f"{model if ours is None else reference} is not part of this run"
        return out | _unpaired(missing) | {"log_loss_gain_over_activity": Estimate.absent(missing).as_json(), "text": missing}
    rows = ours.ready & theirs.ready
    out |= _unpaired("no row where both are ready" if not rows.any() else "one of the two makes no such forecast")
    out["rows"] = int(rows.sum())
    as_of, y = data.as_of[rows], data.y[rows]
    if rows.any() and y.any() and ours.mean_bps is not None and theirs.mean_bps is not None:
        m, b = ours.mean_bps[rows], theirs.mean_bps[rows]
        rival, loss = scores.r2_terms(y, b), scores.r2_terms(y, m)
        ones = np.ones(len(y))
        out["r2_gain"] = blocks.ratio(as_of, Terms(rival.numerator - loss.numerator, loss.denominator)).as_json()
        out["dm_60s"] = diebold_mariano(as_of, Terms(rival.numerator, ones), Terms(loss.numerator, ones)).as_json()
        out["dm_300s"] = diebold_mariano(as_of, Terms(rival.numerator, ones), Terms(loss.numerator, ones), LONG_BLOCK_NS).as_json()
        if model in NESTED:
            out["clark_west_60s"] = clark_west(as_of, y, b, m).as_json()
    if rows.any() and y.any() and ours.p is not None and theirs.p is not None:
        rival, loss = scores.log_loss_direction_terms(y, theirs.p[rows]), scores.log_loss_direction_terms(y, ours.p[rows])
        out["direction_gain"] = blocks.ratio(as_of, Terms(rival.numerator - loss.numerator, loss.denominator)).as_json()
        out["direction_dm_60s"] = diebold_mariano(as_of, rival, loss).as_json()
        out["direction_dm_300s"] = diebold_mariano(as_of, rival, loss, LONG_BLOCK_NS).as_json()
    out["log_loss_gain_over_activity"] = _over_activity(data, model, blocks).as_json()
    out["text"] = _gain_text(out["r2_gain"], reference)
    return out


def _unpaired(reason: str) -> dict[str, Any]:
    absent, untested = Estimate.absent(reason).as_json(), Test(None, None, 0, reason).as_json()
    tests = ("dm_60s", "dm_300s", "direction_dm_60s", "direction_dm_300s")
    nested = Test(None, None, 0, f"only for models that nest the base ({', '.join(NESTED)})").as_json()
    return {"rows": 0, "r2_gain": absent, "direction_gain": absent, **dict.fromkeys(tests, untested), "clark_west_60s": nested}


def _over_activity(data: Evaluated, model: str, blocks: Blocks) -> Estimate:
    ours, rival = data.forecasts[model], data.forecasts.get("activity")
    if rival is None or rival.p is None:
        return Estimate.absent("activity is not part of this run")
    if ours.p is None:
        return Estimate.absent(_NO_CHANCES)
    rows = ours.ready & rival.ready
    if not rows.any():
        return Estimate.absent("no row where both are ready")
    loss, base = scores.log_loss_terms(data.y[rows], ours.p[rows]), scores.log_loss_terms(data.y[rows], rival.p[rows])
    return blocks.ratio(data.as_of[rows], Terms(base.numerator - loss.numerator, loss.denominator))


def _gain_text(gain: dict[str, Any], reference: str) -> str:
    if gain["value"] is None:
        return gain["reason"]
    if gain["lo"] is None:
        return f"R2 gain over {reference} {gain['value']:+.4f}; {gain['reason']}"
    verdict = "better than" if gain["lo"] > 0 else "worse than" if gain["hi"] < 0 else "not told apart from"
    return f"{verdict} {reference}: R2 gain in [{gain['lo']:+.4f}, {gain['hi']:+.4f}]"


def by_delay(data: Evaluated, model: str, blocks: Blocks) -> list[dict[str, Any]]:
    """R2 of the same forecasts against the move that starts 0, 1, 10, ... ms later: [{delay_ms, value, lo, hi}], by delay."""
    forecast = data.forecasts[model]
    if forecast.mean_bps is None or not forecast.ready.any():
        return []
    rows, mean = forecast.ready, forecast.mean_bps[forecast.ready]
    labels = {0: data.y, **dict(sorted(data.y_delay.items()))}
    return [{"delay_ms": delay / 1e6, **r2(data.as_of[rows], y[rows], mean, blocks).as_json()} for delay, y in labels.items()]


def by_half_hour(data: Evaluated, model: str, zone: str = "UTC") -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """R2 by half-hour of the day, sessions pooled: (labels "HH:MM" in `zone`, value[k], standard error[k] of 60-s blocks)."""
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    forecast = data.forecasts[model]
    if forecast.mean_bps is None:
        return [], np.zeros(0), np.zeros(0)
    offset_s = np.zeros(len(data), np.int64)
    for session in np.unique(data.sessions):
        rows = data.sessions == session
        first = datetime.fromtimestamp(int(data.as_of[rows][0]) // 10**9, UTC).astimezone(ZoneInfo(zone))
        offset_s[rows] = int(first.utcoffset().total_seconds())  # type: ignore[union-attr]
    slot = (data.as_of // 10**9 + offset_s) % 86_400 // 1800
    # In the order of the trading day, which may begin in the evening.
    since_open = data.as_of - data.as_of[np.unique(data.sessions, return_index=True)[1]][np.unique(data.sessions, return_inverse=True)[1]]
    order = sorted(np.unique(slot), key=lambda k: since_open[slot == k].min())
    labels, values, errors = [], [], []
    for k in order:
        rows = (slot == k) & forecast.ready
        if not data.y[rows].any():
            continue
        blocks = Blocks([data.as_of[rows]], draws=1)
        sums = blocks.sums(data.as_of[rows], np.column_stack(scores.r2_terms(data.y[rows], forecast.mean_bps[rows])))
        labels.append(f"{k // 2:02d}:{30 * (k % 2):02d}")
        values.append(scores.r2(data.y[rows], forecast.mean_bps[rows]))
        errors.append(standard_error(sums, lambda s: 1 - s[..., 0] / s[..., 1]))
    return labels, np.array(values), np.array(errors)


def told_apart(names: Sequence[str]) -> list[str]:
    """Names of regimes, numbered where two states have one name: ["quiet 1", "wild", "quiet 2"]."""
    names = list(names)
    return [f"{name} {names[: k + 1].count(name)}" if names.count(name) > 1 else name for k, name in enumerate(names)]


def by_regime(
    data: Evaluated, model: str, as_of: NDArray[np.int64], p: NDArray[np.float64], names: Sequence[str]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """R2 by the likeliest filtered regime, on the rows that have one: (labels "name, n rows", value[k], standard error[k] of 60-s blocks).

    as_of int64[m] rising and p float64[m, K] are what the HMM said at each instant, of its past only. Shown, never gated.
    """
    forecast = data.forecasts[model]
    if forecast.mean_bps is None or not len(as_of):
        return [], np.zeros(0), np.zeros(0)
    at = np.minimum(np.searchsorted(as_of, data.as_of), len(as_of) - 1)
    known = (as_of[at] == data.as_of) & (p[at].sum(axis=1) > 0) & forecast.ready
    state = p[at].argmax(axis=1)
    labels, values, errors = [], [], []
    for k, name in enumerate(told_apart(names)):
        rows = known & (state == k)
        if not data.y[rows].any():
            continue
        blocks = Blocks([data.as_of[rows]], draws=1)
        sums = blocks.sums(data.as_of[rows], np.column_stack(scores.r2_terms(data.y[rows], forecast.mean_bps[rows])))
        labels.append(f"{name}, {int(rows.sum()):,} rows")
        values.append(scores.r2(data.y[rows], forecast.mean_bps[rows]))
        errors.append(standard_error(sums, lambda s: 1 - s[..., 0] / s[..., 1]))
    return labels, np.array(values), np.array(errors)


def economics(data: Evaluated, model: str, blocks: Blocks) -> dict[str, Any]:
    """Timing value by delay and its shifted-signal null; sizes at the touch; net P&L by delay and without drift; the threshold."""
    forecast = data.forecasts[model]
    mean = forecast.mean_bps
    if mean is None or not forecast.ready.any():
        return {}
    delays = sorted(data.bid)
    null = backtest.shifted_null(data, mean, forecast.ready)
    out: dict[str, Any] = {
        "timing_by_delay": [
            {"delay_ms": d / 1e6, **backtest.timing_value(data, mean, forecast.ready, blocks, d).as_json()} for d in delays
        ],
        "timing_null": {"shifts": len(null), "mean": float(np.mean(null)) if null else None, "max": max(null, default=None)},
        "touch_size": backtest.touch_size(data, mean, forecast.ready, forecast.rule),
    }
    if forecast.rule is not None:
        out["rule"] = forecast.rule.model_dump(mode="json")
        out["net_by_delay"] = []
        for d in delays:
            trades = backtest.trade(data, mean, forecast.ready, forecast.rule, d)
            out["net_by_delay"].append({"delay_ms": d / 1e6, **backtest.net_per_trade(data, trades, blocks).as_json()})
            if d == 0:
                out["net_without_drift"] = backtest.net_per_trade(data, trades, blocks, without_drift=True).as_json()
    return out


def _calibration(data: Sequence[Evaluated], figures: dict[str, dict[str, dict[str, Any]]], seed: int) -> dict[str, Any]:
    """By symbol and model: slope, ECE against perfect models, Holm over symbols, and whether it passes (null where undecided)."""
    out: dict[str, Any] = {d.symbol: {} for d in data}
    for model in sorted({name for d in data for name in d.forecasts}):
        found = {}
        for d in data:
            forecast = d.forecasts.get(model)
            if forecast is None or forecast.p is None:
                continue
            rows = forecast.ready
            if (perfect := calibration.ece_against_perfect(d.y[rows], forecast.p[rows], seed=seed)) is not None:
                found[d.symbol] = perfect
        adjusted = dict(zip(found, holm([p.p_value for p in found.values()]), strict=True))
        for symbol, perfect in found.items():
            slope = figures[symbol][model]["calibration_slope"]
            passes = None if slope["lo"] is None else bool(slope["lo"] <= 1 <= slope["hi"] and adjusted[symbol] > ECE_SIZE)
            out[symbol][model] = {"slope": slope, **perfect.as_json(), "p_holm": adjusted[symbol], "passes": passes}
    return out


def build(
    data: Sequence[Evaluated],
    *,
    on_random_signs: Sequence[Evaluated] = (),
    stack: Stack = NOTHING,
    own: Sequence[Trial] = (),
    earlier: Trials = Trials(),
    reference: str = "linear",
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """metrics.json as a plain dict, valid by `validate`. One Evaluated a symbol; the same block draws for every model and symbol.

    on_random_signs   passed on to leak_alarms
    stack             what the table of marginal values is made of; without it that table is null
    own, earlier      the run's own trials (made here where none are given) and those whose test score was seen before

    Deterministic in (data, seed, draws). 13 models x 3 symbols x 6,660 rows: 15 s on one core.
    """
    symbols = [d.symbol for d in data]
    if len(set(symbols)) != len(symbols) or not data:
        raise DataError(f"Evaluation expected one part a symbol, at least one; was {symbols}.", hint="Give each symbol's test rows once.")
    blocks = Blocks([d.as_of for d in data], seed=seed, draws=draws)
    names = {d.symbol: [*MODELS, *(m for m in d.forecasts if m not in MODELS)] for d in data}

    def table(part: Evaluated) -> dict[str, dict[str, dict[str, Any]]]:
        return {model: {k: e.as_json() for k, e in figures(part, model, blocks).items()} for model in names[part.symbol]}

    speaking = {d.symbol: [m for m, f in d.forecasts.items() if f.ready.any() and not (f.mean_bps is None and f.p is None)] for d in data}
    common = {d.symbol: d.ready(speaking[d.symbol]) for d in data}
    by_symbol = {d.symbol: table(d) for d in data}
    own = own or trials_of(data)
    trials = earlier.add(*own)
    added = marginal(data, blocks, stack)
    deflated = {(t.symbol, t.model): deflated_sharpe(t, trials).as_json() for t in own}
    return {
        "schema": SCHEMA,
        "settings": {
            "reference": reference,
            "block_s": BLOCK_NS / 1e9,
            "blocks": len(blocks),
            "draws": draws,
            "seed": seed,
            "level": 0.95,
            "timing_delay_ms": backtest.DELAY_NS / 1e6,
        },
        "rows": {d.symbol: len(d) for d in data},
        "ready": {d.symbol: {m: int(f.ready.sum()) for m, f in d.forecasts.items()} for d in data},
        "common_rows": {symbol: int(rows.sum()) for symbol, rows in common.items()},
        "symbols": by_symbol,
        "common": {d.symbol: by_symbol[d.symbol] if common[d.symbol].all() else table(d.masked(common[d.symbol])) for d in data},
        "paired": {d.symbol: {m: paired(d, m, blocks, reference) for m in names[d.symbol] if m != reference} for d in data},
        "delays": {d.symbol: {m: by_delay(d, m, blocks) for m in d.forecasts} for d in data},
        "half_life_ms": {d.symbol: {m: half_life_ms(d, m, blocks).as_json() for m in d.forecasts} for d in data},
        "concentration": {
            d.symbol: {m: {k: e.as_json() for k, e in concentration(d, m, blocks).items()} for m in d.forecasts} for d in data
        },
        "marginal": added,
        "switches": {
            model: one.model_dump(mode="json") for model, one in switches(added, sorted({m for d in data for m in d.forecasts})).items()
        },
        "calibration": _calibration(data, by_symbol, seed),
        "economics": {
            d.symbol: {
                m: economics(d, m, blocks) | ({"deflated_sharpe": deflated[d.symbol, m]} if (d.symbol, m) in deflated else {})
                for m in d.forecasts
            }
            for d in data
        },
        "alarms": [alarm.as_json() for alarm in leak_alarms(data, on_random_signs=on_random_signs, reference=reference)],
    }


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Figure(_Strict):
    """{value, lo, hi} with a reason wherever one of them is null."""

    value: float | None
    lo: float | None
    hi: float | None
    reason: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Figure:
        if (self.lo is None) != (self.hi is None) or (self.lo is not None and self.hi is not None and self.lo > self.hi):
            raise ValueError(f"lo and hi must be both null or in order; were {self.lo} and {self.hi}")
        if self.value is None and self.lo is not None:
            raise ValueError("an interval without a value")
        if self.lo is None and not self.reason:
            raise ValueError("a null needs its reason")
        return self


class AtDelay(Figure):
    delay_ms: float


class Tested(_Strict):
    t: float | None
    p_value: float | None
    blocks: int
    reason: str | None = None


class Paired(_Strict):
    against: str
    rows: int
    r2_gain: Figure
    dm_60s: Tested
    dm_300s: Tested
    clark_west_60s: Tested
    direction_gain: Figure
    direction_dm_60s: Tested
    direction_dm_300s: Tested
    log_loss_gain_over_activity: Figure
    text: str


class Concentrated(_Strict):
    r2_without_best_five: Figure
    best_five_share: Figure


class Marginal(_Strict):
    over: list[str]
    rows: int
    r2_gain: Figure
    direction_gain: Figure
    dm_60s: Tested
    direction_dm_60s: Tested
    over_base: Figure
    over_strong: Figure
    dm_strong_60s: Tested
    live_ms: float | None
    fit_minutes: float | None
    cost_reason: str | None = None
    text: str

    @model_validator(mode="after")
    def _told(self) -> Marginal:
        if (self.live_ms is None or self.fit_minutes is None) and not self.cost_reason:
            raise ValueError("a cost that is null needs its reason")
        return self


class Calibrated(_Strict):
    slope: Figure
    ece: float
    point_99: float
    p_value: float
    p_holm: float
    passes: bool | None


class Ringing(_Strict):
    kind: str
    symbol: str
    model: str
    text: str


class Metrics(_Strict):
    """metrics.json, whole."""

    schema_: int
    settings: dict[str, str | int | float]
    rows: dict[str, int]
    ready: dict[str, dict[str, int]]
    common_rows: dict[str, int]
    symbols: dict[str, dict[str, dict[str, Figure]]]
    common: dict[str, dict[str, dict[str, Figure]]]
    paired: dict[str, dict[str, Paired]]
    delays: dict[str, dict[str, list[AtDelay]]]
    half_life_ms: dict[str, dict[str, Figure]]
    concentration: dict[str, dict[str, Concentrated]]
    marginal: dict[str, dict[str, Marginal]]
    switches: dict[str, Switch]
    calibration: dict[str, dict[str, Calibrated]]
    economics: dict[str, dict[str, dict[str, Any]]]
    alarms: list[Ringing]

    @model_validator(mode="after")
    def _same_shape(self) -> Metrics:
        if self.schema_ != SCHEMA:
            raise ValueError(f"schema {self.schema_}, expected {SCHEMA}")
        for name in (
            "rows", "common_rows", "common", "paired", "delays", "half_life_ms", "concentration", "marginal", "calibration", "economics",
            "ready",
        ):  # fmt: skip
            if set(getattr(self, name)) != set(self.symbols):
                raise ValueError(f"{name} has symbols {sorted(getattr(self, name))}, `symbols` has {sorted(self.symbols)}")
        for table in (self.symbols, self.common):
            for symbol, models in table.items():
                if missing := set(MODELS) - set(models):
                    raise ValueError(f"{symbol} lacks the models {sorted(missing)}")
                for model, metrics in models.items():
                    if set(metrics) != set(METRICS):
                        raise ValueError(f"{symbol}.{model} has the metrics {sorted(metrics)}, expected {sorted(METRICS)}")
        return self


def validate(metrics: dict[str, Any]) -> None:
    """Raise SchemaMismatch where `metrics` is no metrics.json of this version: names, nulls without a reason, nan, lo above hi."""
    try:
        Metrics.model_validate({"schema_" if key == "schema" else key: value for key, value in metrics.items()})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "metrics"
        raise SchemaMismatch(
            f"metrics.json: {where}: {first['msg']} ({error.error_count()} in all).",
            hint="docs/metrics.md has the schema; write the file again with this version of CIFT.",
        ) from error
