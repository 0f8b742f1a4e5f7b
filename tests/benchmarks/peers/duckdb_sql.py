"""The job in DuckDB's SQL, over a table in memory, two threads."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from tests.benchmarks.peers import sql
from tests.benchmarks.peers.job import BAR_NS, PROFILE_NS, TICK_WINDOW, Columns, Contestant, names, sums_of

THREADS = 2


def load(columns: Columns, levels: int) -> Contestant:
    db = duckdb.connect(":memory:", config={"threads": THREADS})
    n = len(columns["ts"])
    loaded = pa.table({"i": np.arange(n, dtype=np.int64), **{name: columns[name] for name in names(levels)}})
    db.register("loaded", loaded)
    db.execute("create table ticks as select * from loaded")
    db.unregister("loaded")
    wide = "{column}" if columns["price"].dtype.kind == "f" else "{column}::bigint"
    total = "double" if wide == "{column}" else "bigint"
    flows = [f"ofi_{level:02d}" for level in range(levels)]
    x = wide.format(column="ofi_00")
    last = f"rows between {TICK_WINDOW - 1} preceding and current row"

    def run(over: str, running: bool):
        """`over` is the window of a lag: in the order of i, or of the table itself, which DuckDB then need not sort."""
        lag = "lag({column}) over w"
        made = ", ".join(f"coalesce({sql.increment(level, lag)}, 0) as {name}" for level, name in enumerate(flows))
        db.execute(
            f"""create or replace temp table each as select i, (ts - 1) // {BAR_NS} as bar, price, size, {made} from ticks
                window w as ({over})"""
        )
        bars = db.execute(
            f"""with b as (select bar, arg_min(price, i) as open, max(price) as high, min(price) as low, arg_max(price, i) as close,
                sum(size) as volume, sum({wide.format(column="price")} * size) as turnover,
                {", ".join(f"sum({name})::{total} as {name}" for name in flows)} from each group by bar)
                select *, {sql.bar_scores(levels, "{column}")} from b order by bar"""
        ).fetchnumpy()
        if running:
            windows = f"""select x, n, c1 - coalesce(lag(c1, {TICK_WINDOW}) over ({over}), 0) as s1,
                c2 - coalesce(lag(c2, {TICK_WINDOW}) over ({over}), 0) as s2 from
                (select i, {x} as x, least(i + 1, {TICK_WINDOW}) as n, sum(x) over ({over} rows unbounded preceding) as c1,
                sum(x * x) over ({over} rows unbounded preceding) as c2 from (select i, {x} as x, ofi_00 from each))"""
        else:
            windows = f"""select {x} as x, least(i + 1, {TICK_WINDOW}) as n, sum({x}) over ({over} {last}) as s1,
                sum({x} * {x}) over ({over} {last}) as s2 from each"""
        z_tick = db.execute(f"select sum(abs({sql.score('x', 'n', 's1', 's2')})) from ({windows})").fetchone()
        by_price = db.execute(
            f"select (ts - 1) // {PROFILE_NS} as minute, price, sum(size)::double as volume from ticks group by minute, price"
        ).fetchnumpy()
        return bars, z_tick, by_price

    def sums(result):
        bars, z_tick, by_price = result
        return sums_of({name: np.asarray(bars[name]) for name in bars}, levels, float(z_tick[0]), by_price["volume"])

    forms = {
        "frames, by row": lambda: run("order by i", False),
        "frames, as stored": lambda: run("", False),
        "running, by row": lambda: run("order by i", True),
        "running, as stored": lambda: run("", True),
    }
    return Contestant(forms, sums, db.close)
