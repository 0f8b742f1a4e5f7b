"""QuestDB's HTTP: queries in, rows or Parquet out; what goes wrong there becomes one error of ours, and none of them holds the password."""

from __future__ import annotations

import io
import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cift_models.errors import SettingsError, StoreError, StoreUnavailable
from cift_models.stores.insist import insist

if TYPE_CHECKING:
    import httpx
    import polars

READ_PATIENCE_S = 5.0
"""How long a query is asked again while the server does not answer."""
WRITE_PATIENCE_S = 30.0
"""How long a batch is sent again, and how long acknowledged rows may be invisible while nothing moves: a restart takes 3 to 10 s."""
TIMEOUT_S = 30.0
"""How long the server may keep silent in the middle of one request."""


class Http:
    """One server: where it is, who asks, and how long it may take.

    ca  file of certificates (PEM) that an https server is checked against; None: the system's
    Raises SettingsError for a URL with a path: the line protocol knows none.
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
        import httpx

        parts = urlsplit(url)
        if parts.path.strip("/") or parts.query:
            raise SettingsError("CIFT_QUESTDB_URL has a path.", hint="Expected http://HOST:PORT: QuestDB answers at the root.")
        self.tls = parts.scheme == "https"
        self.host = parts.hostname or "localhost"
        self.port = parts.port or 9000
        self.user, self.password, self.ca = user, password, ca
        self.timeout_s, self.read_patience_s, self.write_patience_s = timeout_s, read_patience_s, write_patience_s
        host = f"[{self.host}]" if ":" in self.host else self.host
        # Not the environment's proxy: the line protocol takes none, and a store is not behind one.
        self._client = httpx.Client(
            base_url=f"{parts.scheme}://{host}:{self.port}",
            auth=(user, password) if user or password else None,
            timeout=httpx.Timeout(timeout_s, connect=min(5.0, timeout_s)),
            verify=_context(ca) if self.tls else False,
            trust_env=False,
        )
        weakref.finalize(self, self._client.close)

    @property
    def place(self) -> str:
        """What messages call the server."""
        return f"QuestDB at {self.host}:{self.port}"

    def rows(self, sql: str) -> list[list[Any]]:
        """The rows of a query, as JSON values: for what is small. Raises StoreUnavailable, StoreError."""
        return insist(lambda: self._json(sql).get("dataset", []), self.read_patience_s)

    def do(self, sql: str) -> None:
        """A statement that may be repeated. Raises StoreUnavailable, StoreError (not allowed, misspelt)."""
        insist(lambda: self._json(sql), self.read_patience_s)

    def frame(self, sql: str) -> polars.DataFrame:
        """The rows of a query as a frame: for what is large. Instants come as Datetime, arrays as List(Float64). Raises as `rows`.

        A null BYTE or BOOLEAN would come as 0, and a short VARCHAR as null: CIFT's tables hold neither.
        """
        return insist(lambda: self._frame(sql), self.read_patience_s)

    def settings(self) -> dict[str, Any]:
        """What the server says of itself: its version, protocols, whether it takes writes. {} where it is too old to say."""
        try:
            found = insist(lambda: self._get("/settings", {}), self.read_patience_s).json()
        except StoreUnavailable:
            raise
        except (StoreError, ValueError):
            return {}
        return found.get("config", found) if isinstance(found, dict) else {}

    def _json(self, sql: str) -> dict[str, Any]:
        try:
            return self._get("/exec", {"query": sql}).json()
        except ValueError as error:
            raise self.unavailable("an answer was cut") from error

    def _frame(self, sql: str) -> polars.DataFrame:
        import polars as pl

        data = self._get("/exp", {"query": sql, "fmt": "parquet"}).content
        try:
            return pl.read_parquet(io.BytesIO(data))
        except pl.exceptions.PolarsError as error:
            raise self.unavailable(f"no Parquet came back, but {data[:80]!r}") from error

    def _get(self, path: str, parameters: dict[str, str]) -> httpx.Response:
        import httpx

        try:
            answer = self._client.get(path, params=parameters)
        except httpx.HTTPError as error:
            if "CERTIFICATE" in str(error).upper():
                raise self.untrusted(str(error)) from error
            raise self.unavailable(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        if answer.status_code != 200:
            raise self.refusal(answer.status_code, _message(answer))
        return answer

    def refusal(self, status: int, message: str) -> StoreError:
        """What an answer that is no success means. `status` is 0 where only the words are known (an answer to the line protocol)."""
        text = message.lower()
        if status == 401 or "authentication" in text or "unauthorized" in text:
            who = f"the user {self.user!r}" if self.user else "a request without user and password"
            return StoreError(f"{self.place} refuses {who}.", hint="Set CIFT_QUESTDB_USER and CIFT_QUESTDB_PASSWORD to what it asks for.")
        if "permission denied" in text or "not accepting writes" in text or "cannot receive writes" in text:
            return StoreError(
                f"{self.place} takes no writes: it is read-only.", hint="Name a server that takes them in CIFT_QUESTDB_URL, or start it so."
            )
        if "no space left" in text or "errno: 28" in text:
            return StoreError(
                f"The disk of {self.place} is full: {message}.",
                hint="Make room there, resume what `select name from wal_tables() where suspended` lists, and run the same again.",
            )
        if missing := re.search(r"table does not exist \[table=([^\]]+)\]|table: (\S+); table does not exist", message):
            return self.no_table(missing[1] or missing[2])
        if status >= 500 or "internal error" in text or "timeout" in text:
            return self.unavailable(f"it answers {status or 'an error'}: {message}")
        return StoreError(f"{self.place} refuses a request: {message}.", hint="`cift doctor` says what the server lacks, if it is that.")

    def no_table(self, name: str) -> StoreError:
        return StoreError(f"{self.place} has no table {name}.", hint="Run `cift migrate`: it makes CIFT's tables.")

    def unavailable(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(f"{self.place} does not answer: {what}.", hint="Start it, or look at its log; then run the same again.")

    def untrusted(self, what: str) -> StoreError:
        return StoreError(
            f"The certificate of {self.place} is not trusted: {what}.", hint="Name the file of its authority (PEM) in CIFT_TLS_CA."
        )


def literal(value: str | int) -> str:
    """A value as SQL says it."""
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def instant(ns: int) -> str:
    """An instant (ns UTC) as SQL says it."""
    return f"{ns}::timestamp_ns"


def _context(ca: Path | None) -> Any:
    import ssl

    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"CIFT_TLS_CA {ca} is not a file of certificates: {error}.", hint="Expected PEM.") from error


def _message(answer: httpx.Response) -> str:
    """What an answer says went wrong, on one line."""
    try:
        found = answer.json()
        text = str(found.get("error") or found.get("message") or found)
    except (ValueError, AttributeError):
        text = answer.text
    return " ".join(text.split())[:300] or f"HTTP {answer.status_code}"
