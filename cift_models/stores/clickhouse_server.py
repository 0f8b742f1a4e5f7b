"""ClickHouse's native protocol: statements in, frames out; what goes wrong becomes one error of ours, and none holds the password."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from cift_models.errors import SchemaMismatch, SettingsError, StoreError, StoreUnavailable
from cift_models.stores.insist import insist

if TYPE_CHECKING:
    import polars
    from clickhouse_driver import Client

READ_PATIENCE_S = 5.0
"""How long a question is asked again while the server does not answer."""
WRITE_PATIENCE_S = 30.0
"""How long a block is sent again: a restart takes seconds."""
TIMEOUT_S = 60.0
"""How long the server may keep silent in the middle of one statement."""
HELLO_S = 5.0
"""How long it may take to accept a connection and to say who it is."""
NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
"""What a table, a column or a database may be called here: nothing that would need escaping."""

REFUSED = {192, 193, 194, 516}
"""Codes of ClickHouse (src/Common/ErrorCodes.cpp): unknown user, wrong password, none given, authentication failed."""
FORBIDDEN = {164, 291, 497}
"""A read-only profile, a database that is not allowed, a right that is not granted."""
BUSY = {159, 160, 202, 209, 210, 236, 241, 242, 252, 319, 439}
"""Timeouts, too many queries or parts, out of memory, shutting down: the same statement may succeed later."""
OTHER_COLUMNS = {8, 10, 16, 47, 53}
"""A column that is missing, or of another type."""
NO_TABLE, NO_DATABASE, NO_ROOM = 60, 81, 243

T = TypeVar("T")


def quoted(name: str) -> str:
    """A name for SQL. Raises StoreError for one that is not ours to use: text from outside never becomes a name."""
    if not NAME.match(name):
        raise StoreError(f"{name[:64]!r} cannot be a name in ClickHouse.", hint="Expected letters, digits and underscores, at most 64.")
    return f"`{name}`"


def literal(value: str) -> str:
    """A string for SQL where no parameter can stand (a column's comment)."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Server:
    """One server: where it is, who asks, and how long it may take. Nothing is asked before `connection`.

    url  clickhouse://HOST[:9000][/DATABASE], clickhouses:// for TLS (port 9440)
    ca   file of certificates (PEM) that a TLS server is checked against; None: the system's
    Raises SettingsError for a database that cannot be named, and a `ca` that holds no certificates.
    """

    def __init__(
        self,
        url: str,
        user: str = "",
        password: str = "",
        ca: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        read_patience_s: float = READ_PATIENCE_S,
        write_patience_s: float = WRITE_PATIENCE_S,
    ) -> None:
        from clickhouse_driver import Client, errors

        # It would print a traceback of what is raised as an error of ours.
        logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)
        parts = urlsplit(url)
        self.tls = parts.scheme == "clickhouses"
        self.host = parts.hostname or "localhost"
        self.port = parts.port or (9440 if self.tls else 9000)
        self.database = parts.path.strip("/") or "default"
        if not NAME.match(self.database) or parts.query:
            raise SettingsError(
                "CIFT_CLICKHOUSE_URL names no database.",
                hint="Expected clickhouse://HOST:PORT or clickhouse://HOST:PORT/DATABASE, of letters, digits and underscores.",
            )
        self.user = user or "default"
        self._ca = _authorities(ca) if self.tls else None
        self.timeout_s, self.read_patience_s, self.write_patience_s = timeout_s, read_patience_s, write_patience_s
        self._password = password
        self._client: type[Client] = Client
        self._failures: tuple[type[Exception], ...] = (errors.Error, OSError, EOFError)
        self._refusal: type[Exception] = errors.ServerException

    @property
    def place(self) -> str:
        """What messages call the server."""
        return f"ClickHouse at {self.host}:{self.port}"

    @contextmanager
    def connection(self, writes: bool = False, database: str | None = None) -> Iterator[Connection]:
        """A connection for as long as one call of the store needs it: a driver's connection belongs to one thread.

        A statement is sent again while the server does not answer, for read_patience_s or write_patience_s: every statement of ours may be
        repeated.
        """
        opened = Connection(self, self.write_patience_s if writes else self.read_patience_s, database or self.database)
        try:
            yield opened
        finally:
            opened.close()

    def connect(self, database: str) -> Client:
        """A client whose connection stands. Raises what the driver raises."""
        client = self._client(
            self.host,
            self.port,
            database=database,
            user=self.user,
            password=self._password,
            client_name="cift",
            secure=self.tls,
            ca_certs=self._ca,
            connect_timeout=min(HELLO_S, self.timeout_s),
            # Until it has said who it is: a server of another protocol may say nothing at all.
            send_receive_timeout=min(HELLO_S, self.timeout_s),
            # A new connection is ours to make, with these time-outs.
            disable_reconnect=True,
            settings={"use_numpy": True},
        )
        try:
            client.connection.connect()
        except BaseException:
            # Where the server refuses by an answer, the driver leaves the socket open.
            client.disconnect()
            raise
        assert client.connection.socket is not None
        client.connection.socket.settimeout(self.timeout_s)
        return client

    def ours(self, error: Exception, about: str = "") -> StoreError | SchemaMismatch | None:
        """What an exception of the driver means; None where it is not the driver's. `about` is the table that was asked for."""
        if not isinstance(error, self._failures):
            return None
        code = getattr(error, "code", None)
        words = self._words(error)
        if not isinstance(error, self._refusal):
            return self._unanswered(words)
        if code in REFUSED:
            return StoreError(
                f"{self.place} refuses the user {self.user!r}.",
                hint="Set CIFT_CLICKHOUSE_USER and CIFT_CLICKHOUSE_PASSWORD to what it asks for.",
            )
        if code in FORBIDDEN:
            return StoreError(
                f"{self.place} does not let the user {self.user!r} do this{f' with {about}' if about else ''}: {words}.",
                hint="Name a user who may SELECT, INSERT, CREATE TABLE and (for `cift clean`) ALTER DELETE in CIFT_CLICKHOUSE_USER.",
            )
        if code == NO_ROOM or "No space left" in words:
            return StoreError(f"The disk of {self.place} is full: {words}.", hint="Make room there and run the same again.")
        if code == NO_DATABASE:
            return StoreError(f"{self.place} has no database {self.database}.", hint="Run `cift migrate`: it makes it.", code=code)
        if code == NO_TABLE:
            makes = "`cift data-prep ... --again` makes it." if about.startswith("features_") else "Run `cift migrate`: it makes it."
            return StoreError(f"{self.place} has no table {about or f'that was asked for ({words})'}.", hint=makes, code=code)
        if code in OTHER_COLUMNS:
            return SchemaMismatch(f"{about} in {self.place} has other columns: {words}.", hint="`cift migrate` lists what differs.")
        if code in BUSY:
            return StoreUnavailable(f"{self.place} cannot do this now: {words}.", hint="Look at its load; then run the same again.")
        return StoreError(f"{self.place} refuses a statement (code {code}): {words}.", hint="`cift doctor` says what the server lacks.")

    def _unanswered(self, words: str) -> StoreError:
        if "CERTIFICATE" in words.upper():
            return StoreError(
                f"The certificate of {self.place} is not trusted: {words}.", hint="Name the file of its authority (PEM) in CIFT_TLS_CA."
            )
        return StoreUnavailable(
            f"{self.place} does not answer: {words}.",
            hint="Start it, or look at its log; the port is the native protocol's (9000, or 9440 with clickhouses://), not HTTP's.",
        )

    def _words(self, error: Exception) -> str:
        """What an exception says, on one line: without the server's stack trace, without the password."""
        said = str(getattr(error, "message", None) or error) or type(error).__name__
        said = " ".join(said.split("Stack trace:")[0].replace("DB::Exception:", " ").split()).rstrip(". ")
        return (said.replace(self._password, "***") if self._password else said)[:300]


class Connection:
    """Statements on one connection, which is made anew when it breaks. Raises StoreUnavailable, StoreError, SchemaMismatch."""

    def __init__(self, server: Server, patience_s: float, database: str) -> None:
        self.server = server
        self._patience_s = patience_s
        self._database = database
        self._client: Client | None = None

    def close(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client = None

    def do(self, sql: str, about: str = "") -> None:
        """A statement without an answer."""
        self._insist(lambda client: client.execute(sql), about)

    def select(self, sql: str, parameters: Mapping[str, int | str] | None = None, about: str = "") -> polars.DataFrame:
        """The rows of a query. Values are bound, as %(name)s; floats come back to the bit."""
        import polars as pl

        table = self._insist(lambda client: client.query_arrow(sql, params=parameters), about)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def insert(self, table: str, frame: polars.DataFrame) -> None:
        """Send a frame's rows as one block, by the names of its columns."""
        sql = f"INSERT INTO {quoted(table)} ({', '.join(quoted(name) for name in frame.columns)}) VALUES"
        columns = [_column(frame[name]) for name in frame.columns]

        def send(client: Client) -> None:
            assert client.connection.server_info is not None
            # A repeated block replaces its rows by itself. A server that drops it as seen before would also drop it where the rows have
            # been damaged since. Asynchronous inserts would answer before a whole block is written. Old servers know neither.
            modern = client.connection.server_info.version_major >= 21
            settings = {"insert_deduplicate": 0, "async_insert": 0} if modern else {}
            client.execute(sql, columns, columnar=True, settings=settings)

        self._insist(send, table)

    def _insist(self, call: Callable[[Client], T], about: str) -> T:
        """Call until the server answers, for as long as its patience."""
        return insist(lambda: self._once(call, about), self._patience_s)

    def _once(self, call: Callable[[Client], T], about: str) -> T:
        """Call; a connection on which anything went wrong is not used again."""
        try:
            if self._client is None:
                self._client = self.server.connect(self._database)
            return call(self._client)
        except Exception as error:
            self.close()
            known = self.server.ours(error, about)
            if known is None:
                raise
            raise known from error


def _authorities(ca: Path | None) -> str | None:
    """The file of certificates for the driver, which would take certifi's without one."""
    import ssl

    if ca is None:
        return ssl.get_default_verify_paths().cafile
    try:
        ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"CIFT_TLS_CA {ca} is not a file of certificates: {error}.", hint="Expected PEM.") from error
    return str(ca)


def _column(series: polars.Series) -> Any:
    """A column as the driver sends it: an array; of objects where there is text or null."""
    import numpy as np
    import polars as pl

    if series.dtype == pl.Boolean:
        series = series.cast(pl.UInt8)
    if series.null_count() or series.dtype == pl.String:
        values = np.empty(len(series), object)
        values[:] = series.to_list()
        return values
    return series.to_numpy()
