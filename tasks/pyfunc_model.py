"""A release as an MLflow model: `mlflow.pyfunc.load_model("models:/cift@champion").predict(events)`.

Logged as code beside the release's files, without a pickle. Serving does not go through here: it reads the release itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class Release(PythonModel):
    """Folds canonical events from the session's open and returns what was decided at each instant."""

    def load_context(self, context) -> None:
        from cift_models import release

        directory = Path(context.artifacts["release"])
        self.pipeline, self.manifest = release.load(directory)

    def predict(self, context, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        """Events, a row each: ts, symbol, sequence, kind, side, trade_px, trade_sz, bid_px_00, bid_sz_00, ask_px_00, ask_sz_00, ...
        (cift_models.events). Returns a row per instant and symbol: as_of, symbol, ready, mean_bps, p_down, p_flat, p_up, signal."""
        from cift_models.engine import fold, regular_session
        from cift_models.errors import InputError
        from cift_models.events import Events, check_order

        pipeline = self.pipeline
        levels, symbols = pipeline.universe.levels, pipeline.universe.symbols
        unknown = set(model_input["symbol"]) - set(symbols)
        if unknown or not len(model_input):
            raise InputError(f"Unknown symbols {sorted(unknown)}, or no events.", hint=f"This release knows {', '.join(symbols)}.")
        events = Events.empty(len(model_input), levels)
        for name in ("ts", "sequence", "kind", "side", "trade_px", "trade_sz"):
            getattr(events, name)[:] = model_input[name].to_numpy()
        events.symbol[:] = [symbols.index(s) for s in model_input["symbol"]]
        for name in ("bid_px", "bid_sz", "ask_px", "ask_sz"):
            for level in range(levels):
                getattr(events, name)[:, level] = model_input[f"{name}_{level:02d}"].to_numpy()
        check_order(events)
        session = regular_session(pipeline.universe, int(events.ts[0]))
        panel = pipeline.panel(session, events)
        panel = panel.until(int((panel.as_of < events.ts[-1]).sum()))
        decided = fold(pipeline, panel)
        kind = pipeline.decides
        mean, n = decided.mean_bps(pipeline, kind), len(panel)
        assert mean is not None
        return pd.DataFrame(
            {
                "as_of": np.repeat(decided.as_of, len(symbols)),
                "symbol": list(symbols) * n,
                "ready": decided.ready[kind].ravel(),
                "mean_bps": mean.ravel(),
                "p_down": decided.p[kind][:, :, 0].ravel(),
                "p_flat": decided.p[kind][:, :, 1].ravel(),
                "p_up": decided.p[kind][:, :, 2].ravel(),
                "signal": decided.signal.ravel(),
            }
        )


set_model(Release())
