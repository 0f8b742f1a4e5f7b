"""What n(60 s) depends on besides the data: baseline, longest decay, merging. The spread is the uncertainty, not the Hessian."""

from __future__ import annotations

from typing import Any

from cift_models.models.hawkes.arrivals import Arrivals
from cift_models.models.hawkes.baseline import baseline_for, decay_grid
from cift_models.models.hawkes.config import HawkesConfig
from cift_models.models.hawkes.likelihood import fit_hawkes
from cift_models.models.hawkes.residual_check import check_residuals


def sensitivity_table(arrivals: Arrivals, config: HawkesConfig | None = None) -> list[dict[str, Any]]:
    """12 fits: {steps, spline} x longest decay {60, 1000 s} x merge {0, 1, 10 ms}, one row each.

    Columns: baseline, max_decay_s (asked for), longest_decay_s (used), merge_ms, n_events, n_60s and n_total (spectral radii),
    nats_per_event (comparable at equal merge_ms only: merging changes the sample), ks_distance, status.
    """
    config = config or HawkesConfig()
    rows = []
    for merge_ms in (0, 1, 10):
        sample = arrivals.merged(merge_ms * 1_000_000)
        for kind in ("steps", "spline"):
            baseline = baseline_for(sample, config.knot_s, config.min_intervals, kind)
            for max_decay_s in (60.0, 1000.0):
                decays = decay_grid(sample, baseline, config.min_decay_s, max_decay_s, config.decay_ratio)
                fit = fit_hawkes(sample, baseline, decays, tolerance=config.tolerance, max_passes=config.max_passes)
                rows.append(
                    {
                        "baseline": kind,
                        "max_decay_s": max_decay_s,
                        "longest_decay_s": float(1 / decays[-1]),
                        "merge_ms": merge_ms,
                        "n_events": len(sample),
                        "n_60s": fit.parameters.branching_ratio(60.0),
                        "n_total": fit.parameters.branching_ratio(),
                        "nats_per_event": fit.log_likelihood / max(len(sample), 1),
                        "ks_distance": check_residuals(sample, fit.parameters).ks_distance,
                        "status": fit.status,
                    }
                )
    return rows
