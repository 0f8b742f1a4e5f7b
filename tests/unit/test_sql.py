"""SQL over the lake: what it shows is what is stored, what is asked past it is refused, and the examples of `cift sql --help` run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from cift_models.errors import InputError
from cift_models.feeds.canonical import tables_of_events
from cift_models.instruments import Session
from cift_models.schema import PREDICTIONS, TABLES
from cift_models.stores import sql
from cift_models.stores.features import ParquetFeatures
from cift_models.stores.ticks import ParquetTicks
from tests.panels import toy_panel
from tests.processes import ROOT, cift

SYMBOLS = ("S0", "700", "BTC-USD")
"""One of them looks like a number in a path."""

RUNNER = """
import sys
from pathlib import Path
import orjson
from cift_models.errors import CiftError
from cift_models.stores.sql import query
for line in sys.stdin.buffer:
    home, statement, form = orjson.loads(line)
    try:
        answer = query(Path(home), statement, form)
        said = {"text": "".join(answer.text), "notes": answer.notes}
    except CiftError as error:
        said = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    sys.stdout.buffer.write(orjson.dumps(said) + b"\\n")
    sys.stdout.buffer.flush()
"""

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sessions of three symbols, whose books are of 2, 2 and 3 levels, features of two versions, predictions of a run."""
    home = tmp_path_factory.mktemp("home")
    ticks, features = ParquetTicks(home), ParquetFeatures(home)
    for day, seed in ((20231114, 0), (20231115, 1)):
        panel = toy_panel(seed=seed, steps=40, session=day)
        session = Session(day, panel.open, panel.close)
        for i, (symbol, instrument) in enumerate(zip(SYMBOLS, panel.universe.instruments, strict=True)):
            own = panel.events[panel.events.symbol == i]
            own = replace(own, symbol=np.zeros(len(own), np.int16))
            instrument = replace(instrument, symbol=symbol, lot_scale=100 if i == 2 else 1)
            if i == 2:
                deeper = {n: np.pad(getattr(own, n), ((0, 0), (0, 1)), constant_values=7) for n in ("bid_px", "bid_sz", "ask_px", "ask_sz")}
                own, instrument = replace(own, **deeper), replace(instrument, levels=3)
            ticks.write_events(instrument, session, own, {"feed": "test"})
        for x in (panel.x + 2.0, panel.x, panel.x + 1.0, panel.x + 3.0, panel.x + 2.0):
            # By name the newest comes neither first nor last, and its file is the oldest: it has come back.
            arrays = {name: getattr(panel, name) for name in ("as_of", "offsets", "valid", "why")}
            features.write(panel.universe, panel.features, session, x=x, **arrays)
    row = {"symbol": "S0", "available_at": 9, "release": "r", "model": "linear", "fold": -1, "max_train_t1": 1, "ready": True}
    rows = [{**row, "as_of": t, "mean_bps": float(t), "p_down": None, "p_flat": None, "p_up": None} for t in (2, 3)]
    features.write_rows("predictions", "run-20231114", "linear", -1, pl.DataFrame(rows, schema=PREDICTIONS.polars_schema()))
    return home


@pytest.fixture(scope="module")
def ask(home: Path) -> Iterator[Ask]:
    """Statements in a process of their own: the engine may be opened once in each, and other tests have it."""
    with subprocess.Popen([sys.executable, "-c", RUNNER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def asked(statement: str, form: str = "json", where: Path = home) -> dict[str, Any]:
            assert process.stdin and process.stdout
            process.stdin.write(orjson.dumps([str(where), statement, form]) + b"\n")
            process.stdin.flush()
            return orjson.loads(process.stdout.readline())

        yield asked
        assert process.stdin
        process.stdin.close()
        process.wait(30)


def rows(said: dict[str, Any]) -> list[dict[str, Any]]:
    assert "text" in said, said
    return orjson.loads(said["text"])


# What it shows


def test_every_table_lists_its_columns_units_and_meanings(home: Path) -> None:
    listed = {t["table"]: t for t in sql.tables(home)}
    assert set(listed) == set(sql.names()) == set(TABLES)
    assert listed["trades"]["partitions"] == 6 and listed["features"]["partitions"] == 2 and listed["features"]["rows"] == 2 * 40 * 3
    assert listed["instruments"]["rows"] == 6 and listed["quotes"]["rows"] == listed["outputs"]["rows"] == 0
    columns = {name: {c["name"]: c for c in t["columns"]} for name, t in listed.items()}
    assert all(c["meaning"] for t in listed.values() for c in t["columns"])
    assert list(columns["trades"])[:3] == ["symbol", "day", "ts_event"] and list(columns["trades"])[-3:] == [
        "price_scale",
        "tick_units",
        "lot_scale",
    ]
    assert columns["book"]["bid_px_01"]["type"] == "Int32" and columns["book"]["bid_px_02"]["type"] == "Nullable(Int32)"
    assert columns["book"]["bid_px_02"]["unit"] == "ticks" and columns["features"]["mid"]["type"] == "Float64"


def test_an_empty_home_lists_tables_and_makes_nothing(tmp_path: Path) -> None:
    done = cift(tmp_path / "home", "sql", "--tables")
    assert done.returncode == 0 and "trades: 0 rows in 0 partitions" in done.stdout and not (tmp_path / "home").exists()


@pytest.mark.slow
def test_rows_are_those_of_the_store(home: Path, ask: Ask) -> None:
    ticks = ParquetTicks(home)
    for name in ("trades", "book", "status"):
        for ref in ticks.partitions(name):
            _, _, symbol, day = ref.key.split("/")
            own = ticks.read(ref)
            found = rows(ask(f"SELECT * FROM {name} WHERE symbol = '{symbol}' AND day = {day} ORDER BY sequence"))
            assert len(found) == len(own) == ref.rows
            for row, stored in zip(found, own.sort("sequence").iter_rows(named=True), strict=True):
                assert row["symbol"] == symbol and row["day"] == int(day) and row["lot_scale"] == (100 if symbol == "BTC-USD" else 1)
                assert {c: row[c] for c in stored} == stored
    shallow = rows(ask("SELECT symbol, countIf(bid_px_02 IS NULL) AS missing, count() AS n FROM book GROUP BY symbol"))
    assert {r["symbol"]: r["missing"] == r["n"] for r in shallow} == {"S0": True, "700": True, "BTC-USD": False}


@pytest.mark.slow
def test_features_are_the_newest_version_to_the_bit(ask: Ask) -> None:
    for day, seed in ((20231114, 0), (20231115, 1)):
        panel = toy_panel(seed=seed, steps=40, session=day)
        for name in ("mid", "z_ofi_00"):
            found = rows(ask(f"SELECT reinterpretAsUInt64({name}) AS bits FROM features WHERE day = {day}"))
            own = np.ascontiguousarray(panel.x[:, :, panel.features.names.index(name)] + 2.0).view(np.uint64).ravel()
            assert [r["bits"] for r in found] == own.tolist()
    found = rows(ask("SELECT uniqExact(feature_set) AS sets, uniqExact(universe) AS universes, count() AS n FROM features"))
    assert found == [{"sets": 1, "universes": 1, "n": 240}]


@pytest.mark.slow
def test_a_symbol_without_a_book_is_an_instrument_too(tmp_path: Path) -> None:
    panel = toy_panel(steps=40)
    (instrument, *_), session = panel.universe.instruments, Session(panel.session, panel.open, panel.close)
    frame = tables_of_events(panel.events[panel.events.symbol == 0])["trades"]
    ParquetTicks(tmp_path).write("trades", instrument, session, frame, {"feed": "test"})
    view = sql._view(tmp_path, "instruments")
    assert [row[:2] for row in view.rows] == [(panel.session, instrument.symbol)]


def test_predictions_carry_their_run_and_instruments_their_scales(ask: Ask) -> None:
    assert rows(ask("SELECT run, model, mean_bps, p_up, ready FROM predictions ORDER BY as_of")) == [
        {"run": "run-20231114", "model": "linear", "mean_bps": t, "p_up": None, "ready": True} for t in (2, 3)
    ]
    found = rows(ask("SELECT symbol, price_scale, lot_scale, levels FROM instruments WHERE day = 20231115 ORDER BY symbol"))
    assert found == [
        {"symbol": s, "price_scale": 10_000, "lot_scale": lots, "levels": n}
        for s, lots, n in (("700", 1, 2), ("BTC-USD", 100, 3), ("S0", 1, 2))
    ]


@pytest.mark.slow
def test_what_is_not_asked_for_is_not_opened(home: Path, ask: Ask, tmp_path: Path) -> None:
    damaged = tmp_path / "home"
    for path in home.rglob("*"):
        if path.is_file():
            (damaged / path.relative_to(home)).parent.mkdir(parents=True, exist_ok=True)
            (damaged / path.relative_to(home)).write_bytes(path.read_bytes())
    (damaged / "lake/book/S0/20231114/data.parquet").write_bytes(b"garbage")
    (damaged / "lake/book/S0/20231115/partition.json").unlink()  # a writer died here: there is no partition
    count = "SELECT count() AS n, max(bid_px_00) > 0 AS px FROM book WHERE symbol = '{}' AND day = {}"
    assert rows(ask(count.format("700", 20231114), where=damaged))[0]["n"] > 0
    assert rows(ask(count.format("S0", 20231115), where=damaged))[0]["n"] == 0
    said = ask(count.format("S0", 20231114), where=damaged)
    assert said["error"] == "StoreError" and "lake/book" not in said["message"] and "cannot be read" in said["message"]


@pytest.mark.slow
def test_forms(ask: Ask) -> None:
    cells = "CAST(NULL AS Nullable(Int64)) AS nothing, 0 / 0 AS nan, 9007199254740993 AS big"
    statement = f"SELECT DISTINCT symbol, {cells} FROM trades ORDER BY symbol"
    assert rows(ask(statement)) == [{"symbol": s, "nothing": None, "nan": None, "big": 9007199254740993} for s in sorted(SYMBOLS)]
    assert ask(statement, "csv")["text"].splitlines()[:2] == ['"symbol","nothing","nan","big"', '"700",,nan,9007199254740993']
    table = ask(statement, "table")["text"]
    assert table.startswith("┌─symbol──┬") and "BTC-USD" in table and "\x1b" not in table
    assert ask("SELECT 1 AS one WHERE 0")["text"] == "[]\n" and rows(ask("SHOW TABLES"))[0] == {"name": "book"}
    many = ask("SELECT number FROM numbers(100000)", "table")
    assert many["notes"] == ["A table shows 1,000 rows at most; --csv gives all."]
    assert re.findall(r"\d+", many["text"]) == [str(n) for n in range(1000)]
    assert ask("SELECT number FROM numbers(999)", "table")["notes"] == []
    assert [r["number"] for r in rows(ask("SELECT number FROM numbers(200000)"))] == list(range(200_000))
    lines = ask("SELECT number, 'a\nb' AS text FROM numbers(200000)", "csv")["text"].split("\n")
    assert lines[0] == '"number","text"' and lines[1:-1] == [line for n in range(200_000) for line in (f'{n},"a', 'b"')]
    assert ask("SELECT count() FROM quotes", "csv")["notes"][0].startswith("quotes is empty")
    assert rows(ask("DESCRIBE trades"))[2]["comment"] == "ns: exchange time, UTC"
    assert "ReadFromFile" in ask("EXPLAIN SELECT count() FROM trades", "csv")["text"]
    assert rows(ask("WITH a AS (SELECT DISTINCT symbol FROM book) SELECT count() AS n, 1 AS x FROM a")) == [{"n": 3, "x": 1}]


# What it refuses

PAST_THE_LAKE = [
    "SELECT file('{secret}')",
    "SELECT 1 WHERE 'x' IN (SELECT FILE('{secret}'))",
    "WITH file('{secret}') AS x SELECT x",
    "EXPLAIN SELECT file('{secret}')",
    "DESCRIBE file('{secret}')",
    "SELECT * FROM file('{secret}', LineAsString)",
    "SELECT * FROM (SELECT * FROM file('{secret}', LineAsString))",
    "SELECT symbol FROM trades UNION ALL SELECT * FROM file('{secret}', LineAsString)",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM `{secret}`",
    "SELECT * FROM url('http://127.0.0.1:1/', LineAsString)",
    "SELECT * FROM s3('http://127.0.0.1:1/b/k', 'CSV')",
    "SELECT * FROM remote('127.0.0.1:1', system.one)",
    "SELECT * FROM executable('cat {secret}', LineAsString)",
    "SELECT * FROM sqlite('{secret}', 'x')",
    "SELECT * FROM filesystem('{secret}')",
    "SELECT * FROM Python(secret)",
    "SELECT hasColumnInTable('127.0.0.1:1', 'a', 'b', 'c', 'd', 'e')",
    "SELECT 1 INTO OUTFILE '{written}'",
    "SELECT 1 INTO OUTFILE '{written}' FORMAT CSV",
    "(SELECT 1 INTO OUTFILE '{written}')",
    "SELECT 1 FORMAT CSV",
    "INSERT INTO FUNCTION file('{written}', 'CSV', 'x Int32') VALUES (1)",
    "INSERT INTO trades SELECT * FROM trades",
    "CREATE TABLE t (x Int32) ENGINE = File(CSV, '{written}')",
    "CREATE TEMPORARY TABLE t (x Int32)",
    "DROP TABLE trades",
    "ALTER TABLE trades DELETE WHERE 1",
    "TRUNCATE TABLE trades",
    "ATTACH TABLE t FROM '/tmp'",
    "SET readonly = 0",
    "SELECT 1 SETTINGS readonly = 0",
    "SYSTEM SHUTDOWN",
    "USE system",
    "KILL QUERY WHERE 1",
    "GRANT ALL ON *.* TO default",
    "BACKUP TABLE trades TO Disk('x', 'y')",
    "EXPLAIN INSERT INTO trades SELECT * FROM trades",
    "SELECT 1; SELECT 2",
    "SELECT 1; SELECT 2 INTO OUTFILE '{written}'",
    "SELECT ';' INTO OUTFILE '{written}'",
    "-- a note\nSELECT 1 /* ; */ INTO OUTFILE '{written}'",
    "SELECT 1 AS `x\nFoo` INTO OUTFILE '{written}'",
    "SELECT 1 AS `x\n Foo` INTO OUTFILE '{written}'",
    "SELECT 1 AS `SelectWithUnionQuery\n  Foo` INTO OUTFILE '{written}'",
    "",
    ";",
]


@pytest.mark.slow
def test_nothing_is_read_or_written_past_the_lake(ask: Ask, tmp_path: Path) -> None:
    secret, written = tmp_path / "secret", tmp_path / "written"
    secret.write_text("kept between us")
    for statement in PAST_THE_LAKE:
        for form in ("json", "table") if "{written}" in statement else ("json",):
            said = ask(statement.format(secret=secret, written=written), form)
            assert said.get("error") == "InputError" and said["hint"], (statement, said)
            assert "kept between us" not in str(said) and not written.exists(), statement


@pytest.mark.slow
def test_what_cannot_be_run_says_what_may_be_meant(ask: Ask) -> None:
    for statement, message in (
        ("SELECT * FROM tradez", "Maybe you meant lake.trades"),
        ("SELECT prise FROM trades", "prise"),
        ("SELEC 1", "Syntax error: failed at position 7"),
        ("SELECT sum(symbol) FROM trades", "sum"),
        ("SELECT (", "Syntax error"),
    ):
        said = ask(statement)
        assert said["error"] == "InputError" and message in said["message"] and "DB::Exception" not in said["message"], said
        assert "cift sql" in said["hint"]


def test_what_needs_no_engine_is_refused_at_once(tmp_path: Path) -> None:
    for statement in ("", " ; ", "SELECT 1; SELECT 2", "SELECT ';'"):
        with pytest.raises(InputError):
            sql.query(tmp_path, statement)


# The command


def examples() -> list[list[str]]:
    """Arguments of every example in the help of `cift sql`."""
    from flows.cli.sql import sql as command

    text = " ".join((command.__doc__ or "").split())
    return [[*found[1].split(), found[2]] for found in re.finditer(r'cift sql ((?:--\w+ )*)"([^"]+)"', text)]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", examples(), ids=lambda a: " ".join(a)[:40])
def test_the_examples_of_the_help_run(home: Path, arguments: list[str]) -> None:
    done = cift(home, "sql", *arguments)
    assert done.returncode == 0 and not done.stderr, done.stderr
    if "--json" in arguments:
        assert orjson.loads(done.stdout) == [{"model": "linear", "symbol": "S0", "rows": 2, "avg(mean_bps)": 2.5}]
    elif "--csv" in arguments:
        assert len(done.stdout.splitlines()) == 1 + 2 * 30 * 3
    else:
        assert done.stdout.startswith("┌─") and len(done.stdout.splitlines()) >= 4, done.stdout
    assert len(examples()) == 6


@pytest.mark.slow
def test_the_command_ends_badly_in_two_lines_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    for arguments in (["SELECT * FROM tradez"], [], ["--json", "--csv", "SELECT 1"]):
        done = cift(home, "sql", *arguments, TMPDIR=str(tmp_path))
        assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("cift: ") and done.stderr.count("\n") == 2
    done = cift(home, "sql", "--csv", "SELECT * FROM quotes", TMPDIR=str(tmp_path))
    assert done.returncode == 0 and done.stderr.startswith("quotes is empty: nothing of it is stored below")
    assert list(tmp_path.iterdir()) == []
    done = cift(home, "sql", "--tables", CIFT_CLICKHOUSE_URL="clickhouse://127.0.0.1:1")
    assert done.returncode == 0 and done.stderr.startswith("Features and predictions are kept in ClickHouse now")


@contextmanager
def killed(process: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever happens inside, the process is gone behind it."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.slow
def test_ctrl_c_stops_what_computes(home: Path, tmp_path: Path) -> None:
    import signal
    import time

    from tests.processes import environment

    command = [sys.executable, "-m", "flows.cli", "sql", "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))"]
    # A suite that runs in the background of a shell has SIGINT ignored, and its children inherit that.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    env = environment(home, TMPDIR=str(tmp_path))
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=listens) as process, killed(process):
        until = time.monotonic() + 60
        while not list(tmp_path.glob("cift-sql-*/engine/*")):
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130 and process.stderr and process.stderr.read() == "\ncift: stopped.\n"
    assert list(tmp_path.iterdir()) == []
