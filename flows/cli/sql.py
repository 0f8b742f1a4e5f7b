"""`cift sql`"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from flows.cli.options import Json


def sql(
    statement: Annotated[str | None, typer.Argument(help="One SELECT, WITH, DESCRIBE, SHOW or EXPLAIN in ClickHouse's SQL.")] = None,
    tables: Annotated[bool, typer.Option("--tables", help="List the tables with their columns, units and meanings.")] = False,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a line of names.")] = False,
) -> None:
    """Ask what is stored, in SQL.

    Today's ClickHouse runs in this process over the Parquet files below CIFT_HOME: trades, quotes, book, orders, status, book_state,
    instruments, features, outputs, predictions. It reads those files and touches nothing else: no other file, no network, and nothing is
    written. What lies on a server (CIFT_QUESTDB_URL, CIFT_CLICKHOUSE_URL) is asked there.

    Prices and sizes are the integers that are stored, with their scales beside every row: a trade's price is price / price_scale, a book's
    is ticks * tick_units / price_scale, a size is size / lot_scale. Times are ns UTC: fromUnixTimestamp64Nano(ts_event) shows one. A
    condition on symbol or day opens the files of those alone. Of features, the newest version of each session is shown.

    A table shows 1,000 rows at most; --csv and --json give all of them.

    Example: cift sql "SELECT symbol, day, count() AS trades, sum(size / lot_scale) AS volume FROM trades GROUP BY ALL ORDER BY ALL"

    Example: cift sql "SELECT fromUnixTimestamp64Nano(ts_event) AS at, price / price_scale AS price, size / lot_scale AS size
    FROM trades LIMIT 5"

    Example: cift sql "SELECT symbol, avg((ask_px_00 - bid_px_00) * tick_units / price_scale) AS spread FROM book WHERE bid_sz_00 > 0
    AND ask_sz_00 > 0 GROUP BY ALL ORDER BY ALL"

    Example: cift sql "SELECT symbol, avg(side * (price - (bid_px_00 + ask_px_00) / 2 * b.tick_units) / price_scale) AS paid
    FROM trades AS t ASOF JOIN book AS b ON t.symbol = b.symbol AND t.day = b.day AND t.sequence > b.sequence GROUP BY ALL ORDER BY ALL"

    Example: cift sql --csv "SELECT symbol, as_of, spread_ticks, z_ofi_00 FROM features WHERE valid ORDER BY as_of, symbol"

    Example: cift sql --json "SELECT model, symbol, count() AS rows, avg(mean_bps) FROM predictions WHERE ready GROUP BY ALL ORDER BY ALL"
    """
    from cift_models.errors import InputError
    from cift_models.settings import get_settings
    from cift_models.stores.sql import query
    from cift_models.stores.sql import tables as every_table

    settings = get_settings()
    home = settings.home
    for url, server, kept in (
        (settings.questdb_url, "QuestDB", "Ticks"),
        (settings.clickhouse_url, "ClickHouse", "Features and predictions"),
    ):
        if url:
            print(f"{kept} are kept in {server} now: what lies below {home} was there before.", file=sys.stderr)
    if tables:
        found = every_table(home)
        if json:
            import orjson

            print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        else:
            _print(found)
        return
    if not statement or (json and csv):
        raise InputError(
            "There is nothing to run." if not statement else "--json and --csv are two answers.",
            hint='Ask like this: cift sql "SELECT symbol, count() FROM trades GROUP BY symbol". `cift sql --tables` lists what there is.',
        )
    _watch(query(home, statement, "json" if json else "csv" if csv else "table"))


def _print_answer(answer: Any) -> None:
    for piece in answer.text:
        sys.stdout.write(piece)
    sys.stdout.flush()
    for note in answer.notes:
        print(note, file=sys.stderr)


def _watch(answer: Any) -> None:
    """Print an answer on another thread: the engine, once it computes, hears no Ctrl-C, and the main thread must."""
    import os
    import threading

    raised: list[BaseException] = []

    def work() -> None:
        try:
            _print_answer(answer)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        answer.discard()
        print("\ncift: stopped.", file=sys.stderr, flush=True)
        os._exit(130)
    if raised:
        raise raised[0]


def _print(found: list[dict[str, Any]]) -> None:
    for table in found:
        print(f"{table['table']}: {table['rows']:,} rows in {table['partitions']:,} partitions")
        for c in table["columns"]:
            print(f"  {c['name']:<26} {c['type']:<18} {c['unit']:<12} {c['meaning']}".rstrip())
        print()
