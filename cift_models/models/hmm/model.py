"""RegimeHMM: which regime the next bar is in, given the past."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import FitError, ReleaseError, SchemaMismatch, SettingsError
from cift_models.instruments import SECOND
from cift_models.models.columns import Columns
from cift_models.models.hmm.bars import COLUMNS, rows_of, scales_of, sequences_of
from cift_models.models.hmm.config import HMMConfig
from cift_models.models.hmm.fit import fit_parameters, uses_of
from cift_models.models.hmm.kernel import run
from cift_models.models.hmm.parameters import N_STATE_COLUMNS, Parameters
from cift_models.models.protocol import FitContext, FitReport, Output, Outputs, Panel, State, Step, refuse_nan
from cift_models.models.weight_files import read_config, read_weights, write_weights


class RegimeHMM:
    """p(s_{t+1}|F_t) of K regimes by symbol, as of the last bar that closed (bars of config.bar_s from the session's open).

    Parameters are pooled over symbols, after scaling by each one's train moments: a day alone is too short. What leaves the model is the
    forward recursion and nothing else; the backward pass lives in the fit. `names` says what the regimes are called, `regimes` is false
    where the fit found none that lasts ("no regimes today"): then the probabilities should not gate anything.
    State: `predicted` float64[S, K], the open bar, `n_bars` int64[S] observed bars, `observed_ns` int64[S] when the last one closed, which
    is the age of what is said.
    """

    kind: ClassVar[str] = "hmm"
    needs: ClassVar[tuple[str, ...]] = ()
    Config: ClassVar[type[HMMConfig]] = HMMConfig

    def __init__(
        self,
        config: HMMConfig,
        symbols: tuple[str, ...],
        columns: Columns,
        clock_ns: int,
        scales: NDArray[np.float64],
        parameters: Parameters,
        names: tuple[str, ...],
        regimes: bool,
    ) -> None:
        self.config = config
        self.symbols = symbols
        self.columns = columns
        self.clock_ns = clock_ns
        self.scales = scales
        self.parameters = parameters
        self.names = names
        self.regimes = regimes
        self.outputs = tuple(f"regime_{k}" for k in range(config.n_states))

    @classmethod
    def fit(cls, config: HMMConfig, train: Sequence[Panel], valid: Sequence[Panel], ctx: FitContext) -> tuple[Self, FitReport]:
        """EM from config.restarts starts on the bars that close on training rows, pooled over symbols and sessions.

        `valid` and y are not used. n_rows counts observed bars. Under config.min_bars, or if EM diverges, the model is uniform and
        facts["fallback"] says why.
        Raises FitError without panels, SettingsError where bars are not whole steps, SchemaMismatch where panels differ in symbols or
        features.
        """
        from threadpoolctl import threadpool_limits

        bar_ns = config.bar_s * SECOND
        sequences, first = [], None
        for panel in train:
            first = first or panel
            if (panel.universe.symbols, panel.features) != (first.universe.symbols, first.features):
                raise SchemaMismatch(
                    f"{cls.kind}: session {panel.session} has other symbols or features than session {first.session}.",
                    hint="Build every session with one universe and one feature set.",
                )
            if bar_ns % panel.features.clock_ns:
                raise SettingsError(
                    f"{cls.kind}: bar_s = {config.bar_s} s is not a multiple of the clock ({panel.features.clock_ns} ns).",
                    hint="Choose a bar of whole steps.",
                )
            sequences += sequences_of(panel, bar_ns)
        if first is None:
            raise FitError(f"{cls.kind}: there is no training session.", hint="Widen the training range.")
        scales = scales_of(sequences, len(first.universe))
        rows = rows_of(sequences, scales)
        previous = None if ctx.previous is None else cls.load(ctx.previous).parameters
        with threadpool_limits(ctx.threads):
            fitted = fit_parameters(rows, config, np.random.default_rng(ctx.seed), previous, ctx.progress)
        model = cls(
            config,
            first.universe.symbols,
            Columns.of(first.features, COLUMNS),
            first.features.clock_ns,
            scales,
            fitted.parameters,
            fitted.names,
            fitted.regimes,
        )
        facts = fitted.facts | {"max_train_t1": int(rows.close_ns.max()) if len(rows.close_ns) else None}
        return model, FitReport(fitted.status, rows.n_observed, {"objective": fitted.objective}, facts)

    def start(self) -> State:
        """Memory at a session's open: the start distribution and an empty bar; the first step sets the bars' anchor."""
        n, k = len(self.symbols), self.config.n_states
        return State(
            anchor_ns=np.full(1, -1, np.int64),
            last_mid=np.zeros(n),
            bar_return=np.zeros(n),
            bar_variance=np.zeros(n),
            bar_trades=np.zeros(n),
            bar_moves=np.zeros(n, np.int64),
            last_return=np.zeros(n),
            has_last=np.zeros(n, np.bool_),
            predicted=np.tile(self.parameters.start, (n, 1)).reshape(n, k),
            n_bars=np.zeros(n, np.int64),
            observed_ns=np.zeros(n, np.int64),
        )

    def update(self, state: State, step: Step) -> tuple[State, Output]:
        """One step; O(S), and O(S K^2) where a bar closes."""
        outputs = self._run(state, np.array([step.as_of], np.int64), step.x[None], step.valid[None])
        return state, Output(outputs.values[0], outputs.ready[0])

    def predict(self, panel: Panel) -> Outputs:
        """The fold of `update` over a session in one compiled pass."""
        self.columns.check(panel.features)
        return self._run(self.start(), panel.as_of, panel.x, panel.valid)

    def _run(self, state: State, as_of: NDArray[np.int64], x: NDArray[np.float64], valid: NDArray[np.bool_]) -> Outputs:
        self.columns.check_width(x.shape[-1])
        if x.shape[1] != len(self.symbols):
            raise SchemaMismatch(
                f"{self.kind}: rows of {x.shape[1]} symbols; the fit had {len(self.symbols)}.",
                hint="Predict with the universe of the release.",
            )
        refuse_nan(x, valid, self.kind)
        mid, n_trades = (np.ascontiguousarray(x[:, :, place]) for place in self.columns.places)
        values = np.empty((*valid.shape, self.config.n_states))
        ready = np.empty(valid.shape, np.bool_)
        p = self.parameters
        run(
            np.ascontiguousarray(as_of),
            mid,
            n_trades,
            np.ascontiguousarray(valid),
            self.clock_ns,
            self.config.bar_s * SECOND,
            self.scales,
            p.transition,
            p.states,
            p.uses,
            state["anchor_ns"],
            state["last_mid"],
            state["bar_return"],
            state["bar_variance"],
            state["bar_trades"],
            state["bar_moves"],
            state["last_return"],
            state["has_last"],
            state["predicted"],
            state["n_bars"],
            state["observed_ns"],
            values,
            ready,
        )
        return Outputs(values, ready)

    def save(self, directory: Path) -> None:
        config: dict[str, Any] = {
            "kind": self.kind,
            "config": self.config.model_dump(),
            "symbols": list(self.symbols),
            "columns": self.columns.as_json(),
            "clock_ns": self.clock_ns,
            "names": list(self.names),
            "regimes": self.regimes,
        }
        p = self.parameters
        write_weights(directory, config, {"scales": self.scales, "start": p.start, "transition": p.transition, "states": p.states})

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote. Raises ReleaseError for missing parts, other shapes, numbers that are no probabilities or deviations."""
        saved = read_config(directory, cls.kind)
        try:
            config = cls.Config(**saved["config"])
            symbols, names = tuple(saved["symbols"]), tuple(saved["names"])
            columns, clock_ns, regimes = Columns.from_json(saved["columns"]), int(saved["clock_ns"]), bool(saved["regimes"])
        except (KeyError, TypeError, ValueError) as error:
            raise ReleaseError(
                f"{directory / 'config.json'} is not what save() wrote: {error!r}.", hint="The release is damaged."
            ) from error
        s, k = len(symbols), config.n_states
        shapes = {"scales": (s, 6), "start": (k,), "transition": (k, k), "states": (k, N_STATE_COLUMNS)}
        arrays = read_weights(directory, shapes)
        shares = np.vstack([arrays["start"][None], arrays["transition"]])
        probable = (shares >= 0).all() and np.allclose(shares.sum(axis=1), 1.0, atol=1e-9)
        positive = (arrays["states"][:, 2::2] > 0).all() and (arrays["scales"][:, (0, 1, 3, 5)] > 0).all()
        whole = clock_ns > 0 and config.bar_s * SECOND % clock_ns == 0
        if not (probable and positive and whole and len(names) == k and columns.names == COLUMNS):
            raise ReleaseError(
                f"{directory}: the regimes' numbers cannot be right (rows of probabilities, positive deviations, {k} names, whole bars).",
                hint="The release is damaged.",
            )
        parameters = Parameters(arrays["start"], arrays["transition"], arrays["states"], uses_of(config))
        return cls(config, symbols, columns, clock_ns, arrays["scales"], parameters, names, regimes)
