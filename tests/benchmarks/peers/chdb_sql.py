"""The job in ClickHouse's SQL (chDB), over a table in memory, two threads. Sums of a window of 1000 rows as differences of running sums: a
sliding frame costs rows x window here."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from chdb import session

from tests.benchmarks.peers import sql
from tests.benchmarks.peers.job import BAR_NS, PROFILE_NS, TICK_WINDOW, Columns, Contestant, names, sums_of

THREADS = 2


def load(columns: Columns, levels: int) -> Contestant:
    db = session.Session()
    whole = columns["price"].dtype.kind != "f"
    kind = "Int32" if whole else "Float64"
    declared = ", ".join(f"{name} {kind}" for name in names(levels)[1:])
    db.query(f"create table ticks (i Int64, ts Int64, {declared}) engine = Memory")
    step = 1_000_000
    for at in range(0, len(columns["ts"]), step):
        part = {name: columns[name][at : at + step] for name in names(levels)}
        loaded = pa.table({"i": np.arange(at, at + len(part["ts"]), dtype=np.int64), **part})  # noqa: F841  read by name below
        db.query("insert into ticks select * from Python(loaded)")
    wide = "toInt64({column})" if whole else "{column}"
    flows = [f"ofi_{level:02d}" for level in range(levels)]
    x = wide.format(column="ofi_00")

    def ask(query: str) -> pa.Table:
        return db.query(f"{query} settings max_threads = {THREADS}", "ArrowTable")

    def run():
        lag = "lagInFrame({column}) over w"
        made = ", ".join(f"if(i = 0, 0, {sql.increment(level, lag)}) as {name}" for level, name in enumerate(flows))
        db.query("drop table if exists each")
        db.query(
            f"""create table each engine = Memory as select i, intDiv(ts - 1, {BAR_NS}) as bar, price, size, {made} from ticks
                window w as (order by i rows between 1 preceding and current row) settings max_threads = {THREADS}"""
        )
        bars = ask(
            f"""with b as (select bar, argMin(price, i) as open, max(price) as high, min(price) as low, argMax(price, i) as close,
                sum(size) as volume, sum({wide.format(column="price")} * size) as turnover,
                {", ".join(f"sum(each.{name}) as {name}" for name in flows)} from each group by bar)
                select *, {sql.bar_scores(levels, "{column}")} from b order by bar"""
        )
        z_tick = ask(
            f"""select sum(abs({sql.score("x", "n", "s1", "s2")})) as z from (
                select x, least(i + 1, {TICK_WINDOW}) as n, c1 - lagInFrame(c1, {TICK_WINDOW}) over v as s1,
                c2 - lagInFrame(c2, {TICK_WINDOW}) over v as s2 from (
                select i, {x} as x, sum(x) over (order by i rows unbounded preceding) as c1,
                sum(x * x) over (order by i rows unbounded preceding) as c2 from each)
                window v as (order by i rows between {TICK_WINDOW} preceding and current row))"""
        )
        by_price = ask(f"select intDiv(ts - 1, {PROFILE_NS}) as minute, price, sum(size) as volume from ticks group by minute, price")
        return bars, z_tick, by_price

    def sums(result):
        bars, z_tick, by_price = result
        table = {name: bars.column(name).to_numpy() for name in bars.column_names}
        return sums_of(table, levels, z_tick.column("z")[0].as_py(), by_price.column("volume").to_numpy())

    def close():
        db.query("drop table if exists each")
        db.query("drop table ticks")
        db.close()

    return Contestant({"running": run}, sums, close)
