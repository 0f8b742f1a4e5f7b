"""What of the QuestDB store needs no server: digests, layouts, refusals, and what a server's answers mean."""

from __future__ import annotations

import time
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from cift_models.errors import CiftError, DataError, SchemaMismatch, SettingsError, StoreError, StoreUnavailable
from cift_models.schema import BOOK, BOOK_STATE, TRADES
from cift_models.settings import get_settings
from cift_models.stores.insist import insist
from cift_models.stores.questdb import QuestDBTicks, lacks
from cift_models.stores.questdb_http import Http
from cift_models.stores.questdb_rows import Layout, digest_of, frame_of_lines, layout_of, lines_of, version_of
from cift_models.stores.questdb_send import Courier
from cift_models.stores.questdb_tables import compare, definitions, migrate
from cift_models.stores.ticks import ParquetTicks, open_ticks

SECRET = "hush-hush"


def trades(n: int = 4) -> pl.DataFrame:
    rows = [(10 + i, 20 + i, i, 1, 5, 6, bool(i % 2)) for i in range(n)]
    return pl.DataFrame(rows, schema=TRADES.polars_schema(), orient="row")


def book(n: int = 3) -> pl.DataFrame:
    table = BOOK.with_levels(2)
    return pl.DataFrame([tuple(range(i, i + len(table.names))) for i in range(n)], schema=table.polars_schema(), orient="row")


def test_a_digest_is_of_the_rows_and_not_of_how_the_frame_came_about() -> None:
    frame = trades()
    same = pl.concat([frame[:1], frame[1:3], frame[3:]], rechunk=False)
    assert digest_of("lake/trades/A/20231114", same) == digest_of("lake/trades/A/20231114", frame)
    others = [
        digest_of("lake/trades/B/20231114", frame),
        digest_of("lake/trades/A/20231114", frame.reverse()),
        digest_of("lake/trades/A/20231114", frame[:3]),
        digest_of("lake/trades/A/20231114", frame.with_columns(pl.col("size") + 1)),
        digest_of("lake/trades/A/20231114", frame.with_columns(~pl.col("hidden"))),
        digest_of("lake/trades/A/20231114", frame.rename({"size": "price", "price": "size"})),
        digest_of("lake/trades/A/20231114", frame.cast({"side": pl.Int16})),
    ]
    assert len({digest_of("lake/trades/A/20231114", frame), *others}) == 8


def test_a_version_is_what_a_long_holds() -> None:
    assert version_of("f" * 64) == 2**63 - 1 and version_of("0" * 64) == 0
    assert version_of("8" + "0" * 63) == 2**62


def test_a_layout_refuses_what_is_not_of_its_table() -> None:
    assert layout_of(BOOK, book()).levels == 2 and layout_of(TRADES, trades()).levels == 0
    for wrong in (book().drop("ask_sz_01"), book().select(reversed(book().columns)), book().cast({"bid_px_00": pl.Int64})):
        with pytest.raises(SchemaMismatch, match="no rows of book"):
            layout_of(BOOK, wrong)


@pytest.mark.parametrize(
    ("table", "column", "value", "keeps"),
    [
        (BOOK, "bid_sz_01", 2**53, "-9007199254740991 to 9007199254740991"),
        (BOOK, "ask_sz_00", -(2**53), "-9007199254740991 to 9007199254740991"),
        (TRADES, "price", -(2**63), "-9223372036854775807 to 9223372036854775807"),
        (TRADES, "ts_event", -(2**63), "-9223372036854775807 to 9223372036854775807"),
        (TRADES, "ts_recv", -1, "0 to 9214646399999999999"),
        (TRADES, "ts_recv", 9_214_646_400_000_000_000, "0 to 9214646399999999999"),
    ],
)
def test_what_questdb_cannot_hold_is_refused_by_name(table: Any, column: str, value: int, keeps: str) -> None:
    frame = book() if table is BOOK else trades()
    dtype = frame.schema[column]
    layout = layout_of(table, frame)
    layout.refuse_unstorable(frame)
    beside = frame.with_columns(pl.Series(column, [frame[column][0], value, *frame[column][2:]], dtype=dtype))
    with pytest.raises(DataError, match=rf"{column}: row 1 holds {value}; QuestDB keeps {keeps}"):
        layout.refuse_unstorable(beside)
    nearest = value + 1 if value < 0 else value - 1
    layout.refuse_unstorable(frame.with_columns(pl.Series(column, [nearest] * len(frame), dtype=dtype)))


def test_rows_go_out_and_come_in_as_they_were() -> None:
    """The way without a server: what would be sent, given back as a query would."""
    for table, frame in ((BOOK, book()), (TRADES, trades()), (BOOK_STATE, trades().drop("hidden")), (BOOK, book(0))):
        layout = layout_of(table, frame)
        out = layout.outgoing(frame, "A", 7, first=10)
        assert set(out["version"]) <= {7} and out["row"].tolist() == list(range(10, 10 + len(frame)))
        found = pl.DataFrame(
            {name: pl.Series([list(v) for v in out[name]], dtype=pl.List(pl.Float64)) if out[name].dtype == object else out[name].to_numpy()
             for name in out if name not in ("symbol", "version")}
        )  # fmt: skip
        back = layout.incoming(found.reverse(), 10, len(frame), "lake/x")
        assert back.equals(frame) and back.schema == frame.schema
        if len(frame):
            for wrong in (found[1:], pl.concat([found, found]), found.with_columns(pl.col("row") + 1)):
                with pytest.raises(StoreError, match=r"lake/x is damaged: . of . rows"):
                    layout.incoming(wrong, 10, len(frame), "lake/x")


def test_arrays_of_another_length_are_damage() -> None:
    layout = Layout(BOOK, 2)
    out = layout.outgoing(book(), "A", 7, 0)
    found = pl.DataFrame({name: list(out[name]) for name in out if name not in ("symbol", "version")})
    short = found.with_columns(bid_px=pl.Series([[1.0], [1.0, 2.0], [1.0, 2.0]]))
    with pytest.raises(StoreError, match="bid_px hold 1 to 2 levels, expected 2"):
        layout.incoming(short, 0, 3, "lake/x")
    empty = found.with_columns(bid_px=pl.Series([[1.0, None], [1.0, 2.0], [1.0, 2.0]]))
    with pytest.raises(StoreError, match="bid_px hold no number"):
        layout.incoming(empty, 0, 3, "lake/x")


def test_sums_are_asked_for_only_where_they_are_exact() -> None:
    layout = layout_of(BOOK, book(3))
    sums = layout.sums(book(3))
    assert sums['sum("ts_event"::long)'] == 0 + 1 + 2 and sums['sum("sequence")'] == 2 + 3 + 4
    assert sums['sum(array_sum("bid_px"))'] == (3 + 4 + 5) + (7 + 8 + 9) and sums['sum(array_sum("ask_sz"))'] == (6 + 7 + 8) + (
        10 + 11 + 12
    )
    large = book(3).with_columns(bid_sz_00=pl.lit(2**52), sequence=pl.lit(2**62))
    assert layout.sums(large)['sum(array_sum("bid_sz"))'] is None and layout.sums(large)['sum("sequence")'] == 3 * 2**62 - 2**64
    assert Layout(TRADES, 0).sums(trades(4))['sum("hidden"::long)'] == 2


def test_quarantined_rows_survive_as_json() -> None:
    frame = trades().with_columns(ts_recv=pl.Series([-(2**63), 2**63 - 1, 0, -1]), reason=pl.Series(["off_session", 'q"\\\nü', "", "x"]))
    assert frame_of_lines(lines_of(frame), frame.schema).equals(frame)
    with pytest.raises(DataError, match="cannot be written as JSON"):
        lines_of(frame.with_columns(wild=pl.lit(float("nan"))))


def answering(answers: Any, **how: Any) -> Http:
    """A client whose server is a function."""
    http = Http("http://db:9000", "cift", SECRET, **{"read_patience_s": 0.0, "write_patience_s": 0.0, **how})
    http._client.close()
    http._client = httpx.Client(base_url="http://db:9000", transport=httpx.MockTransport(answers))
    return http


@pytest.mark.parametrize(
    ("status", "body", "kind", "says", "do"),
    [
        (401, "Unauthorized", StoreError, "refuses the user 'cift'", "CIFT_QUESTDB_PASSWORD"),
        (400, {"error": "table does not exist [table=trades]"}, StoreError, "has no table trades", "cift migrate"),
        (
            400,
            {"message": "error in line 1: table: book; table does not exist, creating new tables is disabled"},
            StoreError,
            "no table book",
            "cift",
        ),
        (400, {"error": "Could not create table, Write permission denied"}, StoreError, "read-only", "CIFT_QUESTDB_URL"),
        (403, {"error": "Write permission denied"}, StoreError, "read-only", "CIFT_QUESTDB_URL"),
        (400, {"error": "could not write [errno: 28]"}, StoreError, "is full", "Make room"),
        (500, "oops", StoreUnavailable, "answers 500: oops", "run the same again"),
        (503, "", StoreUnavailable, "answers 503", "run the same again"),
        (400, {"error": "unknown function name: timestamp_ns"}, StoreError, "refuses a request: unknown function", "cift doctor"),
    ],
)
def test_an_answer_that_is_no_success_is_one_error(status: int, body: Any, kind: type[CiftError], says: str, do: str) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=body) if isinstance(body, dict) else httpx.Response(status, text=body)

    with pytest.raises(StoreError) as caught:
        answering(answer).rows("select 1")
    assert type(caught.value) is kind and says in caught.value.message and do in caught.value.hint
    assert caught.value.message.startswith(("QuestDB at db:9000", "The disk of QuestDB at db:9000")) and SECRET not in str(caught.value)
    assert caught.value.retryable is (kind is StoreUnavailable)


def test_an_answer_that_is_cut_is_asked_for_again() -> None:
    answers = iter(['{"dataset":[[1', "PAR1", '{"dataset":[[1]]}'])
    assert answering(lambda _: httpx.Response(200, text=next(answers)), read_patience_s=5).rows("select 1") == [[1]]
    with pytest.raises(StoreUnavailable, match="no Parquet came back"):
        answering(lambda _: httpx.Response(200, text="PAR1")).frame("select 1")


def test_patience_ends_and_only_silence_is_met_with_it() -> None:
    calls: list[float] = []

    def silent() -> None:
        calls.append(time.monotonic())
        raise StoreUnavailable("no")

    begun = time.monotonic()
    with pytest.raises(StoreUnavailable):
        insist(silent, 0.5)
    assert 3 <= len(calls) <= 5 and time.monotonic() - begun < 0.6
    pauses = np.diff(calls)
    assert (pauses[1:] > 1.5 * pauses[:-1]).all()
    refused: list[int] = []

    def refusing() -> None:
        refused.append(1)
        raise StoreError("never")

    with pytest.raises(StoreError):
        insist(refusing, 5.0)
    assert len(refused) == 1


def test_couriers_ask_the_server_nothing_and_warn_of_nothing() -> None:
    for _ in range(50):
        Courier(Http("http://127.0.0.1:1", write_patience_s=0.0)).close()
    with pytest.raises(StoreUnavailable, match=r"QuestDB at 127\.0\.0\.1:1 does not answer"):
        Courier(Http("http://127.0.0.1:1", write_patience_s=0.0)).row("trades", {}, {"row": 1}, 0)


def old_server(*unknown: str):
    """A server that knows all but some words."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/settings":
            return httpx.Response(200, json={"config": {"release.version": "8.2.0", "line.proto.support.versions": [1]}})
        sql = request.url.params["query"]
        for word in unknown:
            if word in sql or word == request.url.params.get("fmt"):
                return httpx.Response(400, json={"error": f"unknown {word}"})
        if request.url.params.get("fmt"):
            import io

            pl.DataFrame({"1": [1]}).write_parquet(buffer := io.BytesIO())
            return httpx.Response(200, content=buffer.getvalue())
        return httpx.Response(200, json={"dataset": []})

    return answer


def test_what_an_old_server_lacks_is_said_in_sentences() -> None:
    assert lacks(answering(old_server("timestamp_ns", "ARRAY", "errorMessage", "dedup", "parquet"))) == [
        "QuestDB 8.2.0 has no instants in nanoseconds (TIMESTAMP_NS): it is too old.",
        "QuestDB 8.2.0 has no arrays (DOUBLE[]): it is too old.",
        "QuestDB 8.2.0 has no log of writes that says how far it is applied: it is too old.",
        "QuestDB 8.2.0 has no list of tables with their deduplication: it is too old.",
        "QuestDB 8.2.0 exports no Parquet: it is too old.",
        "QuestDB 8.2.0 does not speak version 3 of the line protocol: it is too old.",
    ]
    assert lacks(answering(old_server())) == ["QuestDB 8.2.0 does not speak version 3 of the line protocol: it is too old."]


def test_tables_of_others_are_named_and_nothing_is_made() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sql = request.url.params["query"]
        asked.append(sql)
        if "tables()" in sql:
            return httpx.Response(200, json={"dataset": [["trades", "timestamp", "DAY", True, False]]})
        return httpx.Response(200, json={"dataset": [["timestamp", "TIMESTAMP", False], ["price", "DOUBLE", False], ["own", "INT", False]]})

    made, differences = migrate(answering(answer))
    assert made == () and not any("CREATE" in sql for sql in asked)
    assert "trades.price is DOUBLE, expected LONG." in differences and "trades.ts_recv is missing, expected TIMESTAMP_NS." in differences
    assert "trades: its designated timestamp is timestamp, expected ts_recv." in differences
    assert "trades: its deduplication is off, expected on." in differences and not any("own" in d for d in differences)
    missing, _ = compare(answering(answer))
    assert [d.name for d in missing] == [d.name for d in definitions() if d.name != "trades"]


def test_the_settings_name_the_store(tmp_path) -> None:
    found = open_ticks(get_settings(home=tmp_path, questdb_url="http://db:9009", questdb_user="cift", questdb_password=SECRET))
    assert isinstance(found, QuestDBTicks) and (found.http.host, found.http.port, found.http.user) == ("db", 9009, "cift")
    assert isinstance(open_ticks(get_settings(home=tmp_path)), ParquetTicks)
    with pytest.raises(SettingsError, match="has a path"):
        open_ticks(get_settings(home=tmp_path, questdb_url="http://db:9009/questdb"))
    with pytest.raises(SettingsError, match=r"CIFT_TLS_CA .* is not a file of certificates"):
        open_ticks(get_settings(home=tmp_path, questdb_url="https://db:9009", tls_ca=tmp_path / "none.pem"))
