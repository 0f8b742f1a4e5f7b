"""The job in polars, in memory or streaming, on all threads. Written several ways; the program times each and keeps the fastest."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import polars as pl

from tests.benchmarks.peers.job import BAR_NS, BAR_WINDOW, PROFILE_NS, SIDES, TICK_WINDOW, Columns, Contestant, Sums, names, sums_of

Engine = Literal["in-memory", "streaming"]


def load(columns: Columns, levels: int, engine: Engine) -> Contestant:
    frame = pl.DataFrame({name: columns[name] for name in names(levels)})
    return contest(frame.lazy(), levels, engine)


def from_parquet(files: list[Path], levels: int) -> Contestant:
    return contest(pl.scan_parquet(files), levels, "streaming")


def contest(rows: pl.LazyFrame, levels: int, engine: Engine) -> Contestant:
    """Ways to write an increment (a choice, or a product with a mask) x a window (rolling sums, or differences of running sums) x three
    queries, three collected together, or two, with |z| of the rows added up bar by bar so that the best level is worked out once."""
    forms: dict[str, Callable[[], Any]] = {}
    for choice, window in itertools.product((when, product), (rolling, running)):
        name = f"{choice.__name__}, {window.__name__}"
        queries = [bars(rows, levels, choice, window), ticks(rows, choice, window), profile(rows)]
        fewer = [bars(rows, levels, choice, window, with_ticks=True), profile(rows)]
        forms[f"{name}, three queries"] = lambda queries=queries: [query.collect(engine=engine) for query in queries]
        forms[f"{name}, three together"] = lambda queries=queries: pl.collect_all(queries, engine=engine)
        forms[f"{name}, two queries"] = lambda fewer=fewer: [query.collect(engine=engine) for query in fewer]
        forms[f"{name}, two together"] = lambda fewer=fewer: pl.collect_all(fewer, engine=engine)
    return Contestant(forms, lambda result: sums(result, levels))


def when(condition: pl.Expr, value: pl.Expr) -> pl.Expr:
    return pl.when(condition).then(value).otherwise(0)


def product(condition: pl.Expr, value: pl.Expr) -> pl.Expr:
    return condition * value


def increment(level: int, choice: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> pl.Expr:
    b, q, a, r = (pl.col(f"{side}_{level:02d}") for side in SIDES)
    b0, q0, a0, r0 = (column.shift(1) for column in (b, q, a, r))
    return (choice(b >= b0, q) - choice(b <= b0, q0) - choice(a <= a0, r) + choice(a >= a0, r0)).fill_null(0)


def rolling(x: pl.Expr, window: int) -> pl.Expr:
    return x.rolling_sum(window, min_samples=1)


def running(x: pl.Expr, window: int) -> pl.Expr:
    total = x.cum_sum()
    return total - total.shift(window, fill_value=0)


def score(x: pl.Expr, n: pl.Expr, s1: pl.Expr, s2: pl.Expr) -> pl.Expr:
    spread = n * s2 - s1 * s1
    return pl.when(spread > 0).then((n * x - s1) / spread.cast(pl.Float64).sqrt()).otherwise(0.0)


def bars(rows: pl.LazyFrame, levels: int, choice, window, with_ticks: bool = False) -> pl.LazyFrame:
    """One row a bar; `with_ticks` adds the sum of |z| of its rows."""
    price, size = pl.col("price"), pl.col("size")
    wide = rows.select(
        ((pl.col("ts") - 1) // BAR_NS).alias("bar"),
        price,
        size,
        (_wide(price, rows) * size).alias("turnover"),
        *(increment(level, choice).alias(f"ofi_{level:02d}") for level in range(levels)),
    )
    flows = [f"ofi_{level:02d}" for level in range(levels)]
    added = [pl.col("turnover"), *(pl.col(name) for name in flows)]
    if with_ticks:
        wide = scored(wide, _wide(pl.col("ofi_00"), rows), window)
        added.append(pl.col("z_tick"))
    by_bar = wide.group_by("bar").agg(
        price.first().alias("open"),
        price.max().alias("high"),
        price.min().alias("low"),
        price.last().alias("close"),
        size.sum().alias("volume"),
        *(column.sum() for column in added),
    )
    n = pl.int_range(1, pl.len() + 1).clip(upper_bound=BAR_WINDOW)
    scores = []
    for level, name in enumerate(flows):
        x = _wide(pl.col(name), rows)
        scores.append(score(x, n, window(x, BAR_WINDOW), window(x * x, BAR_WINDOW)).alias(f"z_{level:02d}"))
    return by_bar.sort("bar").with_columns(scores)


def scored(rows: pl.LazyFrame, x: pl.Expr, window) -> pl.LazyFrame:
    """The rows with a column z_tick: |z| of x."""
    windows = rows.with_columns(
        x.alias("x"),
        pl.int_range(1, pl.len() + 1).clip(upper_bound=TICK_WINDOW).alias("n"),
        window(x, TICK_WINDOW).alias("s1"),
        window(x * x, TICK_WINDOW).alias("s2"),
    )
    return windows.with_columns(score(pl.col("x"), pl.col("n"), pl.col("s1"), pl.col("s2")).abs().alias("z_tick"))


def ticks(rows: pl.LazyFrame, choice, window) -> pl.LazyFrame:
    each = rows.select(_wide(increment(0, choice), rows).alias("x"))
    return scored(each, pl.col("x"), window).select(pl.col("z_tick").sum())


def profile(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.group_by(((pl.col("ts") - 1) // PROFILE_NS).alias("minute"), "price").agg(pl.col("size").sum().alias("volume"))


def _wide(column: pl.Expr, rows: pl.LazyFrame) -> pl.Expr:
    """Room for sums and squares: int64 where the columns are int32, as they are where they are floats."""
    return column if rows.collect_schema()["price"].is_float() else column.cast(pl.Int64)


def sums(result: list[pl.DataFrame], levels: int) -> Sums:
    by_bar, *ticked, by_price = result
    z_tick = ticked[0].item() if ticked else by_bar["z_tick"].sum()
    return sums_of({name: by_bar[name].to_numpy() for name in by_bar.columns}, levels, z_tick, by_price["volume"].to_numpy())
