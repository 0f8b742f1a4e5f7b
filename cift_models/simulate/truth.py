"""The manifest of a simulated market: every planted quantity, and what was realised, as JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.simulate.book import FLOW_WINDOW_S
from cift_models.simulate.calibration import Calibration, noise_bps
from cift_models.simulate.config import SimulateConfig
from cift_models.simulate.draws import news_hz
from cift_models.simulate.regimes import BAR_S, REGIMES, transition

COMPONENTS = ("linear", "interaction", "edge", "impact", "autoregressive")
"""Paths of the planted components, bps of the next second's move."""


def r2(y: NDArray[np.float64], forecast: NDArray[np.float64]) -> float | None:
    """1 - sum (y - f)^2 / sum y^2, against zero; None where y is all zero."""
    total = float(np.sum(y**2))
    return 1.0 - float(np.sum((y - forecast) ** 2)) / total if total > 0 else None


def realised(moves_bps: list[NDArray], paths: list[dict[str, NDArray]], s: int | None) -> dict[str, Any]:
    """What came out, of one symbol or of all (s None): R2 of each component and of their sum on whole seconds, shares, volatility.

    moves_bps[k] is float64[T, S], the move over (j s, j + 1 s] from the open; a path's row i is the forecast of moves_bps[k][i + 1].
    """
    part = slice(None) if s is None else s
    y = np.concatenate([m[1:, part].ravel() for m in moves_bps])
    columns = {name: np.concatenate([p[name][:-1, part].ravel() for p in paths]) for name in COMPONENTS}
    regime = np.concatenate([p["regime"][:-1, part].ravel() for p in paths])
    total = np.sum(list(columns.values()), axis=0)
    strongest = np.abs(total) >= np.quantile(np.abs(total), 0.9)
    return {
        "seconds": len(y),
        "r2": {name: r2(y, f) for name, f in columns.items()} | {"all": r2(y, total)},
        "volatility_bps": float(np.sqrt(np.mean(y**2))),
        "zero_share": float(np.mean(y == 0)),
        "regime_share": [float(np.mean(regime == k)) for k in range(3)],
        "regime_bps": [float(np.sqrt(np.mean(y[regime == k] ** 2))) if (regime == k).any() else None for k in range(3)],
        "strongest_decile_bps": float(np.mean(np.abs(total[strongest]))),
    }


def manifest(
    config: SimulateConfig,
    found: Calibration,
    moves_bps: list[NDArray],
    paths: list[dict[str, NDArray]],
    counts: list[dict[str, dict[str, Any]]],
) -> dict[str, Any]:
    """Every planted quantity with its unit in its name, and what was realised by symbol and pooled. JSON values only."""
    edge = None
    if config.edge is not None:
        edge = {
            "leader": config.edge[0],
            "follower": config.edge[1],
            "lag_ms": config.edge_lag_ms,
            "share": found.edge_share,
            "r2": config.edge_r2,
        }
    follower = config.edge[1] if config.edge is not None else None
    half_spreads = [c["half_spread_bps"] for session in counts for c in session.values()]
    return {
        "config": config.model_dump(mode="json"),
        "calibration": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(found).items()},
        "linear": {"column": "queue_imbalance", "bps_per_unit": found.linear_bps, "r2": config.linear_r2},
        "interaction": {
            "product_of_signs": ["queue_imbalance", f"signed_volume_{1000 * FLOW_WINDOW_S}ms"],
            "bps_per_unit": found.interaction_bps,
            "less_mean": found.product_mean,
            "r2": config.interaction_r2,
        },
        "edge": edge,
        "impact": {
            "bps_per_trade": found.impact_bps,
            "r2": (found.impact_bps * found.forecast_sd / config.volatility_bps) ** 2,
            "r2_of_the_trades_themselves": (found.impact_bps * found.signed_count_sd / config.volatility_bps) ** 2,
        },
        "order_flow": {
            "branching": [[config.branching_60s, 0.0], [0.0, config.branching_60s]],
            "branching_total": config.branching_total,
            "kernel": "n (theta / tau0) (1 + t / tau0)^(-1 - theta)",
            "theta": config.kernel_exponent,
            "tau0_s": config.kernel_scale_s,
            "immigrants_hz": config.trades_hz / 2 * (1.0 - config.branching_total),
            "baseline": "1 + depth ((2 x - 1)^2 - 1/3), x the share of the session",
            "depth": config.baseline_depth,
        },
        "regimes": {
            "names": list(REGIMES),
            "bar_s": BAR_S,
            "transition": transition(config.regime_minutes).tolist(),
            "mean_dwell_bars": 60 * config.regime_minutes / BAR_S,
            "ar": list(config.ar),
            "volatility_bps": list(found.regime_bps),
            "news_hz": news_hz(config).tolist(),
            "news_bps": {s: noise_bps(config, found, s == follower).tolist() for s in config.symbols},
        },
        "half_spread_bps": float(np.mean(half_spreads)),
        "counts": counts,
        "realised": {name: realised(moves_bps, paths, s) for s, name in enumerate(config.symbols)}
        | {"all": realised(moves_bps, paths, None)},
    }
