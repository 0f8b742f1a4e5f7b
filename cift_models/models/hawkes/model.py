"""Order arrivals as a forecast: expected buys and sells over the next second, and the move that their difference points to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cift_models.errors import FitError, ReleaseError, SchemaMismatch
from cift_models.events import Events
from cift_models.files import canonical_json, replacing, write_atomic
from cift_models.models.hawkes.arrivals import SIDES, Arrivals, join, session_arrivals
from cift_models.models.hawkes.baseline import Baseline, baseline_for, decay_grid
from cift_models.models.hawkes.config import HawkesConfig
from cift_models.models.hawkes.forecast import forecast_map
from cift_models.models.hawkes.kernel import forecast_steps
from cift_models.models.hawkes.likelihood import HawkesFit, Parameters, fit_hawkes, fit_poisson
from cift_models.models.hawkes.residual_check import check_residuals
from cift_models.models.protocol import FitContext, FitReport, Output, Outputs, Panel, State, Step, refuse_nan

SHARE = "session_share"
"""The one feature that is read: where in the session the instant lies, for the baseline."""
STATUSES = ("converged", "max_iter", "poisson")


@dataclass(frozen=True, slots=True)
class Weights:
    """What `weights.npz` holds, S symbols in the order of the universe.

    decays_hz[M], nu_hz[S, D, K], alpha[S, D, D, M]: `Parameters` of each symbol; last_share[1] of their common baseline
    map_sums[S, D, D, M], map_now[S, D, D], map_next[S, D, D]: `ForecastMap` of each
    slope[S]  bps per arrival of imbalance over the horizon; 0 where nothing was learnt
    session_s[1]  length of the last session of training: what the horizon is as a share of it
    window_ns, session_ns int64[n] of the training sessions; log_likelihood[S], gap[S], n_events int64[S, D], status int64[S] in STATUSES
    """

    decays_hz: NDArray[np.float64]
    nu_hz: NDArray[np.float64]
    alpha: NDArray[np.float64]
    last_share: NDArray[np.float64]
    map_sums: NDArray[np.float64]
    map_now: NDArray[np.float64]
    map_next: NDArray[np.float64]
    slope: NDArray[np.float64]
    session_s: NDArray[np.float64]
    window_ns: NDArray[np.int64]
    session_ns: NDArray[np.int64]
    log_likelihood: NDArray[np.float64]
    gap: NDArray[np.float64]
    n_events: NDArray[np.int64]
    status: NDArray[np.int64]


class HawkesOrderFlowModel:
    """Market buys and sells of each symbol as a two-sided Hawkes process with power-law-like memory and a time-of-day baseline.

    Outputs: mean_bps = slope (E[buys] - E[sells]), n_buy, n_sell = expected arrivals over the next `horizon_s`. An arrival is a visible
    trade; trades of one nanosecond and side are one. State: sums float64[S, D, M], last_ns int64[S], seen bool[S, D]; O(1) per event.
    """

    kind: ClassVar[str] = "hawkes"
    needs: ClassVar[tuple[str, ...]] = ()
    Config: ClassVar[type[HawkesConfig]] = HawkesConfig
    outputs: tuple[str, ...] = ("mean_bps", "n_buy", "n_sell")

    def __init__(self, config: HawkesConfig, symbols: tuple[str, ...], names: tuple[str, ...], weights: Weights) -> None:
        self.config = config
        self.symbols = symbols
        self.names = names
        self.weights = weights
        self.share_column = names.index(SHARE)
        self.horizon_share = config.horizon_s / float(weights.session_s[0])

    @classmethod
    def fit(
        cls, config: HawkesConfig, train: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext
    ) -> tuple[HawkesOrderFlowModel, FitReport]:
        """Maximum likelihood per symbol on all arrivals of `train`, then the slope by least squares through zero on its valid rows.

        Sums restart at each session's open; what is observed of a session ends at its panel's last instant. `valid` and `ctx.seed` are not
        used: the optimum is unique. Raises FitError where `train` holds no step. O(arrivals x M^2) a Newton pass, about 20 passes.
        """
        symbols, names, by_symbol = gather(train)
        baseline = baseline_for(by_symbol[0], config.knot_s, config.min_intervals)
        decays = decay_grid(by_symbol[0], baseline, config.min_decay_s, config.max_decay_s, config.decay_ratio)
        fits = []
        for s, arrivals in enumerate(by_symbol):
            fits.append(fit_symbol(arrivals, baseline, decays, config))
            ctx.progress(f"hawkes {symbols[s]}", 0.9 * (s + 1) / len(symbols))
        unit = cls(config, symbols, names, weights_of(fits, by_symbol[0], config.horizon_s))
        slope, n_rows = slopes(unit, train)
        # Without excitation the difference of the two rates is time of day alone, nothing that a move could follow from.
        slope = np.where([f.status == "poisson" for f in fits], 0.0, slope)
        model = cls(config, symbols, names, weights_of(fits, by_symbol[0], config.horizon_s, slope))
        ctx.progress("hawkes", 1.0)
        return model, report(symbols, by_symbol, fits, slope, n_rows, baseline)

    def start(self) -> State:
        """Zero sums at the open."""
        S, M = len(self.symbols), len(self.weights.decays_hz)
        return State(sums=np.zeros((S, SIDES, M)), last_ns=np.zeros(S, np.int64), seen=np.zeros((S, SIDES), bool))

    def update(self, state: State, step: Step) -> tuple[State, Output]:
        """Apply the step's trades, then forecast where it is valid. Raises DataError on a valid row that is not finite."""
        refuse_nan(step.x, step.valid, self.kind)
        values, ready = self._forward(
            state, np.array([step.as_of]), step.x[None], step.valid[None], step.events, np.array([0, len(step.events)])
        )
        return state, Output(values[0], ready[0])

    def predict(self, panel: Panel) -> Outputs:
        """The same kernel over all steps of a session, from the open."""
        if panel.universe.symbols != self.symbols:
            raise SchemaMismatch(
                f"hawkes was fitted on {', '.join(self.symbols)}; the panel has {', '.join(panel.universe.symbols)}.",
                hint="Predict with the universe of training, in its order.",
            )
        refuse_nan(panel.x, panel.valid, self.kind)
        values, ready = self._forward(self.start(), panel.as_of, panel.x, panel.valid, panel.events, panel.offsets)
        return Outputs(values, ready)

    def _forward(
        self,
        state: State,
        as_of: NDArray[np.int64],
        x: NDArray[np.float64],
        valid: NDArray[np.bool_],
        events: Events,
        offsets: NDArray[np.int64],
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """`forecast_steps` on these steps; `state` moves on in place."""
        w = self.weights
        values = np.empty((len(as_of), len(self.symbols), len(self.outputs)))
        ready = np.empty(values.shape[:2], bool)
        share = np.ascontiguousarray(x[:, :, self.share_column])
        forecast_steps(
            as_of, share, np.ascontiguousarray(valid), offsets, events.ts, events.symbol, events.kind, events.side, w.decays_hz, w.nu_hz,
            float(w.last_share[0]), self.horizon_share, w.map_sums, w.map_now, w.map_next, w.slope,
            state["sums"], state["last_ns"], state["seen"], values, ready,
        )  # fmt: skip
        return values, ready

    def parameters(self, symbol: str) -> Parameters:
        """The fitted process of one symbol."""
        return self.symbol_fit(symbol).parameters

    def symbol_fit(self, symbol: str) -> HawkesFit:
        """The fit of one symbol, as `bootstrap_branching` wants it."""
        s, w = self.symbols.index(symbol), self.weights
        baseline = Baseline("spline", w.nu_hz.shape[2] - 1, float(w.last_share[0]))
        return HawkesFit(
            Parameters(w.decays_hz, baseline, w.nu_hz[s], w.alpha[s]), float(w.log_likelihood[s]), w.n_events[s], w.window_ns, w.session_ns,
            STATUSES[int(w.status[s])], float(w.gap[s]),
        )  # fmt: skip

    def save(self, directory: Path) -> None:
        """Write config.json and weights.npz."""
        S, D, K = self.weights.nu_hz.shape
        directory.mkdir(parents=True, exist_ok=True)
        described: dict[str, Any] = {
            "kind": self.kind,
            "config": self.config.model_dump(),
            "symbols": list(self.symbols),
            "features": list(self.names),
            "sizes": {"symbols": S, "sides": D, "knots": K, "decays": len(self.weights.decays_hz), "sessions": len(self.weights.window_ns)},
        }
        with replacing(directory / "weights.npz") as path, open(path, "wb") as file:
            np.savez(file, allow_pickle=False, **{name: getattr(self.weights, name) for name in Weights.__slots__})
        write_atomic(directory / "config.json", canonical_json(described))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote. Raises ReleaseError where a file is missing, or an array has another shape, type or sign than it must."""
        try:
            described = json.loads((directory / "config.json").read_bytes())
            if described["kind"] != cls.kind:
                raise ValueError(f"kind is {described['kind']!r}")
            config = HawkesConfig(**described["config"])
            symbols, names = tuple(described["symbols"]), tuple(described["features"])
            if SHARE not in names:
                raise ValueError(f"features lack {SHARE}")
            # np.load leaves a path that is no archive open; a file of ours is closed.
            with open(directory / "weights.npz", "rb") as file, np.load(file, allow_pickle=False) as arrays:
                weights = Weights(**{name: arrays[name] for name in Weights.__slots__})
            check_weights(weights, described["sizes"], len(symbols))
        except (OSError, KeyError, TypeError, ValueError, EOFError, BadZipFile, ValidationError) as error:
            raise ReleaseError(
                f"{directory}: not a {cls.kind} model as `save` writes it ({error}).", hint="Take the release again."
            ) from error
        return cls(config, symbols, names, weights)


def gather(train: Sequence[Panel]) -> tuple[tuple[str, ...], tuple[str, ...], list[Arrivals]]:
    """Symbols, feature names, and the arrivals of each symbol over all sessions. One panel in memory at a time."""
    symbols: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    parts: list[list[Arrivals]] = []
    for panel in train:
        if not len(panel):
            continue
        if not parts:
            symbols, names, parts = panel.universe.symbols, panel.features.names, [[] for _ in range(len(panel.universe))]
            panel.features.index([SHARE])
        if panel.universe.symbols != symbols:
            raise FitError(
                f"Session {panel.session} has {', '.join(panel.universe.symbols)}, an earlier one {', '.join(symbols)}.",
                hint="Train on one universe.",
            )
        window = int(panel.as_of[-1]) - panel.open
        for s in range(len(symbols)):
            parts[s].append(session_arrivals(panel.events, s, panel.open, window, panel.universe.span_ns(panel.open, panel.close)))
    if not parts:
        raise FitError("hawkes: the training panels hold no step. Expected at least one session.", hint="Train on a longer range.")
    return symbols, names, [join(p) for p in parts]


def fit_symbol(arrivals: Arrivals, baseline: Baseline, decays_hz: NDArray[np.float64], config: HawkesConfig) -> HawkesFit:
    """The Hawkes fit, or with fewer than `min_events` arrivals a Poisson process of constant rate (arrivals / time) in the same shape."""
    if len(arrivals) >= config.min_events:
        return fit_hawkes(arrivals, baseline, decays_hz, tolerance=config.tolerance, max_passes=config.max_passes)
    rate = arrivals.counts / arrivals.windows_s.sum()
    parameters = Parameters(decays_hz, baseline, np.repeat(rate[:, None], baseline.size, axis=1), np.zeros((SIDES, SIDES, len(decays_hz))))
    some = rate[rate > 0]
    value = float((arrivals.counts[rate > 0] * (np.log(some) - 1)).sum())
    return HawkesFit(parameters, value, arrivals.counts, arrivals.window_ns, arrivals.session_ns, "poisson", 0.0)


def weights_of(fits: list[HawkesFit], arrivals: Arrivals, horizon_s: float, slope: NDArray[np.float64] | None = None) -> Weights:
    """Weights of the fits of all symbols; `slope` 1 where None."""
    maps = [forecast_map(f.parameters, horizon_s) for f in fits]
    first = fits[0].parameters
    return Weights(
        decays_hz=first.decays_hz,
        nu_hz=np.stack([f.parameters.nu_hz for f in fits]),
        alpha=np.stack([f.parameters.alpha for f in fits]),
        last_share=np.array([first.baseline.last_share]),
        map_sums=np.stack([m.sums for m in maps]),
        map_now=np.stack([m.now for m in maps]),
        map_next=np.stack([m.next for m in maps]),
        slope=np.ones(len(fits)) if slope is None else slope,
        session_s=arrivals.sessions_s[-1:].copy(),
        window_ns=arrivals.window_ns,
        session_ns=arrivals.session_ns,
        log_likelihood=np.array([f.log_likelihood for f in fits]),
        gap=np.array([f.gap for f in fits]),
        n_events=np.stack([f.n_events for f in fits]),
        status=np.array([STATUSES.index(f.status) for f in fits]),
    )


def slopes(model: HawkesOrderFlowModel, train: Sequence[Panel]) -> tuple[NDArray[np.float64], int]:
    """Least squares through zero of y on E[buys] - E[sells], per symbol, over rows & valid; and the number of rows. 0 where it has none."""
    S = len(model.symbols)
    cross, square, n_rows = np.zeros(S), np.zeros(S), 0
    for panel in train:
        if not len(panel) or panel.y is None or panel.rows is None:
            continue
        outputs = model.predict(panel)
        chosen = panel.rows[:, None] & panel.valid
        imbalance = np.where(chosen, outputs.values[:, :, 1] - outputs.values[:, :, 2], 0.0)
        cross += np.where(chosen, imbalance * panel.y, 0.0).sum(axis=0)
        square += (imbalance**2).sum(axis=0)
        n_rows += int(chosen.any(axis=1).sum())
    return np.where(square > 0, cross / np.where(square > 0, square, 1.0), 0.0), n_rows


def report(
    symbols: tuple[str, ...], by_symbol: list[Arrivals], fits: list[HawkesFit], slope: NDArray[np.float64], n_rows: int, baseline: Baseline
) -> FitReport:
    """How the fits ended, with what is worth a line per symbol."""
    facts: dict[str, Any] = {"longest_decay_s": float(1 / fits[0].parameters.decays_hz[-1]), "n_decays": len(fits[0].parameters.decays_hz)}
    facts["baseline_intervals"] = baseline.intervals
    for symbol, arrivals, fit, b in zip(symbols, by_symbol, fits, slope, strict=True):
        n = max(len(arrivals), 1)
        check = check_residuals(arrivals, fit.parameters)
        poisson = fit.log_likelihood if fit.status == "poisson" else fit_poisson(arrivals, baseline).log_likelihood
        facts[symbol] = {
            "status": fit.status,
            "n_buys": int(fit.n_events[0]),
            "n_sells": int(fit.n_events[1]),
            "nats_per_event": fit.log_likelihood / n,
            "gain_over_poisson": (fit.log_likelihood - poisson) / n,
            "certified_gap": fit.gap,
            "branching": fit.parameters.branching().tolist(),
            "branching_60s": fit.parameters.branching(60.0).tolist(),
            "n_60s": fit.parameters.branching_ratio(60.0),
            "n_total": fit.parameters.branching_ratio(),
            "is_supercritical": bool(fit.parameters.branching_ratio() >= 1),
            "ks_distance": check.ks_distance if np.isfinite(check.ks_distance) else None,
            "residual_lag1": check.lag1_correlation if np.isfinite(check.lag1_correlation) else None,
            "bps_per_arrival": float(b),
        }
        if fit.status == "poisson":
            facts[symbol]["note"] = f"{len(arrivals)} arrivals are too few for excitation: constant rates, no opinion on the move"
    curves = {f"nats_per_event_{symbol}": fit.curve for symbol, fit in zip(symbols, fits, strict=True) if fit.curve}
    return FitReport("max_iter" if any(f.status == "max_iter" for f in fits) else "converged", n_rows, curves, facts)


def check_weights(w: Weights, sizes: dict[str, int], n_symbols: int) -> None:
    """Raise ValueError where an array is not what `Weights` says."""
    S, D, K, M, n = (int(sizes[k]) for k in ("symbols", "sides", "knots", "decays", "sessions"))
    if n_symbols != S or D != SIDES or K < 2 or M < 1 or n < 1:
        raise ValueError(f"sizes {sizes} for {n_symbols} symbols")
    shapes = {
        "decays_hz": (M,), "nu_hz": (S, D, K), "alpha": (S, D, D, M), "last_share": (1,), "map_sums": (S, D, D, M), "map_now": (S, D, D),
        "map_next": (S, D, D), "slope": (S,), "session_s": (1,), "window_ns": (n,), "session_ns": (n,), "log_likelihood": (S,), "gap": (S,),
        "n_events": (S, D), "status": (S,),
    }  # fmt: skip
    for name, shape in shapes.items():
        array = getattr(w, name)
        kind = np.int64 if name in ("window_ns", "session_ns", "n_events", "status") else np.float64
        if array.shape != shape or array.dtype != kind:
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, expected {np.dtype(kind)}{list(shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds a value that is not finite")
    for name in ("nu_hz", "alpha", "map_sums", "map_now", "map_next", "n_events", "status"):
        if not (getattr(w, name) >= 0).all():
            raise ValueError(f"{name} holds a negative value")
    if not (w.decays_hz > 0).all() or not w.last_share[0] > 0 or not w.session_s[0] > 0 or not (w.status < len(STATUSES)).all():
        raise ValueError("a decay, a share, a length or a status is out of range")
