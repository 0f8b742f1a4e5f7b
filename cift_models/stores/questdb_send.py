"""Rows into QuestDB through its own client: batches that are acknowledged, sent again where that failed, waited for until they can be read.

An acknowledgement says that a batch is in the server's log, whole; a query may still miss it. Where none came, the batch is in
the log or not. So each is sent until one comes (the tables deduplicate), and `until_visible` waits for the log to be applied.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cift_models.errors import StoreError, StoreUnavailable
from cift_models.stores.insist import insist
from cift_models.stores.questdb_http import Http, literal

if TYPE_CHECKING:
    import pandas

BATCH_BYTES = 8 * 2**20
"""About what one batch holds: 40,000 rows of a book of five levels. Batches of 16 MB were no faster, those of 2 MB slower."""
SLOWEST_BYTES_S = 1 * 2**20
"""A batch may take that much longer than the timeout."""


class Couriers:
    """Couriers to one server: one for whoever writes just now, kept with its connection for the next."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._idle: list[Courier] = []

    @contextmanager
    def one(self) -> Iterator[Courier]:
        """A courier of the caller's own. One that failed is not used again."""
        # A list's pop and append are atomic: threads may write side by side.
        try:
            courier = self._idle.pop()
        except IndexError:
            courier = Courier(self._http)
        try:
            yield courier
        except BaseException:
            courier.close()
            raise
        self._idle.append(courier)

    def forget(self) -> None:
        """Close what is kept: the next one connects anew."""
        while self._idle:
            self._idle.pop().close()


class Courier:
    """Sends batches to one server, one at a time, for one thread at a time. Opening it asks the server nothing."""

    def __init__(self, http: Http) -> None:
        import questdb

        self._client: Any = questdb
        # One a store is few, and one a task may still be many in a minute: the client's advice is taken, its warning is noise.
        self._client.WARN_HIGH_RECONNECTS = False
        self._http = http
        self._sender = self._open()

    def close(self) -> None:
        """Drop what was not acknowledged, and the connection."""
        self._sender.close(flush=False)

    def frames(self, table: str, batches: Iterator[pandas.DataFrame], symbols: Sequence[str], at: str) -> None:
        """Send batches one after another, each until it is acknowledged. Raises StoreUnavailable, StoreError.

        The next one is made and written down while one is on its way: two are in memory, and a batch is sent again as it was written down.
        The server makes a table that is missing, and makes it wrong: look before.
        """
        pages = [self._sender.new_buffer(), self._sender.new_buffer()]

        def written(number: int) -> Any:
            batch = next(batches, None)
            if batch is None:
                return None
            page = pages[number % 2]
            page.clear()
            try:
                page.dataframe(batch, table_name=table, symbols=list(symbols), at=at)
            except self._client.QuestDBError as error:
                raise self._ours(error) from error
            return page

        with ThreadPoolExecutor(1) as aside:
            number = 0
            following = aside.submit(written, number)
            while (page := following.result()) is not None:
                number += 1
                following = aside.submit(written, number)
                self._deliver(page)

    def row(
        self, table: str, symbols: dict[str, str], columns: dict[str, Any], at: int, instants: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """Send one row, as `frames` does; `at` and `instants` in ns UTC."""
        page = self._sender.new_buffer()
        more = {name: self._client.TimestampNanos(ns) for name, ns in instants.items()}
        page.row(table, symbols=symbols, columns=columns | more, at=self._client.TimestampNanos(at))
        self._deliver(page)

    def _deliver(self, page: Any) -> None:
        """Send what is written down until it is acknowledged."""
        insist(lambda: self._once(page), self._http.write_patience_s)

    def _once(self, page: Any) -> None:
        try:
            self._sender.flush(page, clear=False)
        except self._client.QuestDBError as error:
            raise self._ours(error) from error

    def _open(self) -> Any:
        http, client = self._http, self._client
        tls: dict[str, Any] = {}
        if http.tls:
            tls = {"tls_ca": client.TlsCa.PemFile, "tls_roots": str(http.ca)} if http.ca else {"tls_ca": client.TlsCa.WebpkiAndOsRoots}
        if http.user or http.password:
            tls |= {"username": http.user, "password": http.password}
        sender = client.Sender(
            client.Protocol.Https if http.tls else client.Protocol.Http,
            http.host,
            http.port,
            # Named, so that opening asks the server nothing: it may be down.
            protocol_version=3,
            auto_flush=False,
            # Ours goes on where the client's gives up: it does not repeat a refused connection.
            retry_timeout=0,
            request_timeout=int(http.timeout_s * 1000),
            request_min_throughput=SLOWEST_BYTES_S,
            **tls,
        )
        sender.establish()
        return sender

    def _ours(self, error: Any) -> StoreError:
        """One of our errors for one of the client's."""
        code, text = str(error.code).rpartition(".")[2], " ".join(str(error).split())
        if code == "TlsError" or "certificate" in text.lower():
            return self._http.untrusted(text)
        if code in ("SocketError", "CouldNotResolveAddr", "ConnectTimeout"):
            return self._http.unavailable(text)
        if code == "AuthError":
            return self._http.refusal(401, text)
        return self._http.refusal(0, text)


def until_visible(http: Http, tables: Sequence[str]) -> None:
    """Wait until what was acknowledged in these tables can be read.

    Raises StoreError where the server has suspended one (its disk is full, most often); StoreUnavailable where nothing moves for
    `http.write_patience_s`: the rows are safe, the same call later goes on.
    """
    wanted: dict[str, int] = {}
    seen: dict[str, int] = {}
    until = time.monotonic() + http.write_patience_s
    pause_s = 0.002
    while True:
        states = log_states(http, tables)
        wanted = wanted or {name: state.acknowledged for name, state in states.items()}
        applied = {name: state.applied for name, state in states.items()}
        behind = [name for name in tables if applied[name] < wanted[name]]
        if not behind:
            return
        for name in behind:
            states[name].refuse_suspended(http)
        if applied != seen:
            seen, until = applied, time.monotonic() + http.write_patience_s
        elif time.monotonic() > until:
            raise StoreUnavailable(
                f"{http.place} has acknowledged rows of {', '.join(behind)} and does not show them after {http.write_patience_s:.0f} s.",
                hint="They are in its log. Look at `select * from wal_tables()` there; the same call again goes on.",
            )
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, 0.05)


class LogState:
    """How far a table has applied its log, and whether it has stopped to."""

    def __init__(self, name: str, acknowledged: int, applied: int, suspended: bool, why: str) -> None:
        self.name, self.acknowledged, self.applied, self.suspended, self.why = name, acknowledged, applied, suspended, why

    def refuse_suspended(self, http: Http) -> None:
        """Raise StoreError where the table takes batches into its log and applies none."""
        if self.suspended:
            raise StoreError(
                f"{http.place} has suspended the table {self.name}: {self.why or 'it does not say why'}.",
                hint=f'Mend the cause there (a full disk, most often), `ALTER TABLE "{self.name}" RESUME WAL`, and run the same again.',
            )


def log_states(http: Http, tables: Sequence[str]) -> dict[str, LogState]:
    """The state of each table's log. Raises StoreError for a table that is missing."""
    names = ", ".join(literal(name) for name in tables)
    found = http.rows(f"select name, sequencerTxn, writerTxn, suspended, errorTag, errorMessage from wal_tables() where name in ({names})")
    states = {
        name: LogState(name, acknowledged, applied, suspended, " ".join(f"{tag or ''} {message or ''}".split()))
        for name, acknowledged, applied, suspended, tag, message in found
    }
    for name in tables:
        if name not in states:
            raise http.no_table(name)
    return states
