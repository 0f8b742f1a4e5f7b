"""A release over stored sessions: PREDICTIONS rows of what it had not learned from."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from cift_models import ledger, release
from cift_models.engine import Decisions, Pipeline, fold
from cift_models.errors import EmptyRange, UnknownSymbol
from cift_models.schema import PREDICTIONS
from cift_models.settings import get_settings
from cift_models.stores.features import open_features
from cift_models.stores.releases import Releases
from cift_models.stores.ticks import open_ticks
from tasks.dataset import yyyymmdd
from tasks.progress import reporter


@task(persist_result=False, cache_policy=NO_CACHE)
def predict_range(name: str, symbols: list[str], start: date, end: date) -> list[dict[str, Any]]:
    """Fold a release over the stored sessions of a range, and store what it says: predictions/<release>-<session>/<model>/live.

    The whole universe of the release is folded; rows of `symbols` are kept (of all, where it is empty). Rows up to the release's
    max_train_t1 are left out: it has learned from them. Returns, for each session, where its rows lie and a summary of them.

    Raises UnknownSymbol for a symbol that the release or the store lacks, EmptyRange, and what Releases and the tick store raise.
    """
    settings = get_settings()
    if end < start:
        raise EmptyRange(f"The range {start} .. {end} ends before it starts.", hint="Give the earlier day first.")
    releases = Releases(settings.home)
    sha256 = releases.resolve(name)
    progress = reporter("predict")
    progress("loading the release", 0.0)
    pipeline, manifest = release.load(releases.directory(sha256))
    known = pipeline.universe.symbols
    for symbol in symbols:
        if symbol not in known:
            raise UnknownSymbol(f"The release {sha256[:12]} does not know {symbol!r}.", hint=f"It knows {', '.join(known)}.")
    ticks, store = open_ticks(settings), open_features(settings)
    sessions = ticks.sessions(known, yyyymmdd(start), yyyymmdd(end))
    t1 = {entry.kind: entry.max_train_t1 for entry in manifest.models}
    summaries = []
    for k, session in enumerate(sessions):
        progress(f"session {session.day}", k / len(sessions))
        decided = fold(pipeline, pipeline.panel(session, ticks.events(pipeline.universe, session)))
        later = decided.as_of > manifest.max_train_t1
        keys, rows = [], 0
        for kind in decided.p if later.any() else ():
            frame = predictions(pipeline, decided, later, kind, sha256, t1[kind], symbols or list(known))
            ledger.check(frame)
            keys.append(store.write_rows("predictions", f"{sha256[:16]}-{session.day}", kind, -1, frame).key)
            rows += len(frame)
        summaries.append(
            {"day": session.day, "release": sha256, "instants": len(decided.as_of), "in_sample": int((~later).sum()), "rows": rows,
             "keys": keys, "decides": pipeline.decides, "symbols": _by_symbol(pipeline, decided, later, symbols or list(known))}
        )  # fmt: skip
    progress("done", 1.0)
    return summaries


def predictions(pipeline: Pipeline, decided: Decisions, rows: np.ndarray, kind: str, sha256: str, t1: int, symbols: list[str]):
    """PREDICTIONS rows of one kind at the instants `rows` bool[T], of `symbols`, by time and then by symbol."""
    import polars as pl

    columns = [pipeline.universe.symbols.index(symbol) for symbol in symbols]
    n = int(rows.sum())
    ready = decided.ready[kind][rows][:, columns].ravel()
    mean, p = decided.mean_bps(pipeline, kind), decided.p[kind][rows][:, columns]
    as_of = np.repeat(decided.as_of[rows], len(columns))

    def where_ready(values: np.ndarray | None):
        given = pl.Series(np.zeros(len(as_of)) if values is None else np.ascontiguousarray(values).ravel())
        return given.set(pl.Series(~ready if values is not None else np.ones(len(as_of), bool)), None)

    return pl.DataFrame(
        {
            "symbol": symbols * n,
            "as_of": as_of,
            "available_at": as_of,
            "release": [sha256] * len(as_of),
            "model": [kind] * len(as_of),
            "fold": np.full(len(as_of), -1, np.int32),
            "max_train_t1": np.full(len(as_of), t1),
            "ready": ready,
            "mean_bps": where_ready(None if mean is None else mean[rows][:, columns]),
            "p_down": where_ready(p[:, :, 0]),
            "p_flat": where_ready(p[:, :, 1]),
            "p_up": where_ready(p[:, :, 2]),
        },
        schema=PREDICTIONS.polars_schema(),
    )


def _by_symbol(pipeline: Pipeline, decided: Decisions, rows: np.ndarray, symbols: list[str]) -> dict[str, dict[str, Any]]:
    """What the deciding model said of each symbol."""
    kind = pipeline.decides
    mean = decided.mean_bps(pipeline, kind)
    assert mean is not None
    out = {}
    for symbol in symbols:
        s = pipeline.universe.symbols.index(symbol)
        ready = decided.ready[kind][:, s] & rows
        signal = decided.signal[rows, s]
        out[symbol] = {
            "ready": int(ready.sum()),
            "mean_abs_bps": float(np.abs(mean[ready, s]).mean()) if ready.any() else None,
            "buy": int((signal == 1).sum()),
            "sell": int((signal == -1).sum()),
            "hold": int((signal == 0).sum()),
        }
    return out
