"""The online store on a server: Redis 7, Valkey 9, or Dragonfly (by its documentation; it was not run here).

A row is a hash under `{cift}:online:SYMBOL` with the fields `sequence`, `time` and `row`. The braces put every row into one slot, so that a
server in cluster mode takes an instant as one command too. One database holds the rows of one service: two that share it share the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cift_models.errors import SettingsError, StoreError, StoreUnavailable
from cift_models.stores.online import Flaw, Row, check_order

if TYPE_CHECKING:
    from pydantic import SecretStr

PREFIX = "{cift}:online:"
"""What a row's key begins with."""
TIMEOUT_S = 1.0
"""How long connecting, and one answer, may take."""
RETRIES = 1
"""Tries after the first, in place of the driver's ten: enough for a connection that was cut under a command.

A write may be repeated, since an equal row replaces an equal one. Whoever writes live rows has newer ones soon, and tries again with those.
"""
RIGHTS = "the user needs EVAL, EVAL_RO, HMGET, HSET and INFO on the keys {cift}:*."

PUT = """
-- KEYS are rows; ARGV has three for each: sequence, time, row. Every key is declared, since Dragonfly refuses others.
-- Lua 5.1 counts in float64 and a time has 19 digits, so seconds and nanoseconds are compared apart. Not as strings: those are compared by
-- the locale.
local function seconds(time) return tonumber(string.sub(time, 1, -10)) or 0 end
local function nanoseconds(time) return tonumber(string.sub(time, -9)) end
local function older(sequence, time, than_sequence, than_time)
  local a, b = tonumber(sequence), tonumber(than_sequence)
  if a ~= b then return a < b end
  a, b = seconds(time), seconds(than_time)
  if a ~= b then return a < b end
  return nanoseconds(time) < nanoseconds(than_time)
end
local said = {}
for i, key in ipairs(KEYS) do
  local there = redis.pcall('HMGET', key, 'sequence', 'time')
  if there['err'] then
    said[i] = there['err']
  elseif there[1] and not (tonumber(there[1]) and tonumber(there[2])) then
    said[i] = 'its sequence and time are no numbers'
  elseif there[1] and older(ARGV[3 * i - 2], ARGV[3 * i - 1], there[1], there[2]) then
    said[i] = 0
  else
    said[i] = 1
  end
end
for i, key in ipairs(KEYS) do
  if said[i] == 1 then
    redis.call('HSET', key, 'sequence', ARGV[3 * i - 2], 'time', ARGV[3 * i - 1], 'row', ARGV[3 * i])
  end
end
return said
"""
"""Compare and write on the server in one step. All rows are compared before any is written: a server without memory takes all or none.

The text goes along with every call: a server that was restarted, failed over or flushed does not have to be told it again.
"""

GET = """
local said = {}
for i, key in ipairs(KEYS) do
  local row = redis.pcall('HMGET', key, 'sequence', 'time', 'row')
  said[i] = row['err'] or row
end
return said
"""
"""Rows of one moment, as EVAL_RO: replicas take it. Within MULTI, Redis 7.0 refuses to read when its memory is full."""


class RedisOnline:
    """The online store of every process that reaches the server; safe between threads. It connects when it is first used.

    url       redis://HOST[:PORT][/DB], rediss:// for TLS, or unix:///PATH; without a password
    password  secret, of the URL's user or of the default one
    ca        file with the authority that signed the server's certificate, for rediss://; None: the system's
    """

    def __init__(self, url: str, password: SecretStr | None = None, ca: Path | None = None, timeout_s: float = TIMEOUT_S) -> None:
        import redis
        from redis import exceptions
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        more: dict[str, Any] = {}
        if ca is not None and url.startswith("rediss://"):
            if not ca.is_file():
                raise SettingsError(f"There is no certificate {ca}.", hint="Set CIFT_TLS_CA to the file of the authority (PEM).")
            more["ssl_ca_certs"] = str(ca)
        self._errors = exceptions
        self._secret = password.get_secret_value() if password else ""
        self._where = urlsplit(url).netloc.rpartition("@")[2] + urlsplit(url).path
        self._client: Any = redis.Redis.from_url(
            url,
            password=self._secret or None,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), RETRIES),
            # Nothing of RESP3 is used, and every server that is meant here speaks RESP2.
            protocol=2,
            **more,
        )

    def put(self, symbol: str, payload: bytes, sequence: int, time: int) -> bool:
        return self.put_many({symbol: Row(payload, sequence, time)})[symbol]

    def put_many(self, rows: Mapping[str, Row]) -> dict[str, bool]:
        if not rows:
            return {}
        values: list[Any] = []
        for row in rows.values():
            check_order(row.sequence, row.time)
            values += [row.sequence, row.time, bytes(row.payload)]
        with self._answering():
            said = self._client.eval(PUT, len(rows), *(PREFIX + symbol for symbol in rows), *values)
        for symbol, one in zip(rows, said, strict=True):
            if isinstance(one, bytes):
                raise self._not_a_row(symbol, one.decode(errors="replace"))
        return {symbol: bool(one) for symbol, one in zip(rows, said, strict=True)}

    def get(self, symbol: str) -> Row | None:
        return self.get_many([symbol])[0]

    def get_many(self, symbols: Sequence[str]) -> list[Row | None]:
        if not symbols:
            return []
        with self._answering():
            said = self._client.eval_ro(GET, len(symbols), *(PREFIX + symbol for symbol in symbols))
        return [self._row(symbol, one) for symbol, one in zip(symbols, said, strict=True)]

    def flaws(self) -> list[Flaw]:
        with self._answering():
            asked = self._client.pipeline(transaction=False)
            asked.info("memory").info("replication").eval(PUT, 0).eval_ro(GET, 0)
            memory, replication, *ran = asked.execute(raise_on_error=False)
        found = []
        policy = str(memory.get("maxmemory_policy", "")) if isinstance(memory, dict) else ""
        # Rows never expire, so the volatile policies leave them alone. Dragonfly says `eviction`, and in older versions only cache_mode.
        if policy.startswith("allkeys") or policy == "eviction" or (isinstance(memory, dict) and memory.get("cache_mode") == "cache"):
            found.append(
                Flaw(
                    f"Redis at {self._where} evicts rows when its memory is full ({policy or 'cache mode'}): a row that is gone lets an "
                    "older one in.",
                    "Set maxmemory-policy to noeviction (Dragonfly: leave out --cache_mode).",
                )
            )
        if isinstance(replication, dict) and replication.get("role") in ("slave", "replica"):
            found.append(Flaw(f"Redis at {self._where} is a replica and takes no rows.", "Set CIFT_REDIS_URL to the primary."))
        for one in ran:
            if isinstance(one, Exception):
                found.append(Flaw(f"Redis at {self._where} runs no script: {self._said(one)}.", "Redis 7 or newer is needed; " + RIGHTS))
        return found

    def close(self) -> None:
        """Give the connections back; the next call opens new ones."""
        self._client.close()

    def _row(self, symbol: str, said: Any) -> Row | None:
        if isinstance(said, bytes):
            raise self._not_a_row(symbol, said.decode(errors="replace"))
        sequence, time, payload = said
        if sequence is None and time is None and payload is None:
            return None
        order = [int(one) for one in (sequence, time) if one is not None and one.isdigit()]
        if payload is None or len(order) != 2:
            raise self._not_a_row(symbol, "its fields are not those of a row")
        return Row(payload, *order)

    def _not_a_row(self, symbol: str, why: str) -> StoreError:
        return StoreError(
            f"{PREFIX}{symbol} in Redis at {self._where} is not a row: {why}.",
            hint="Something else writes into this database: use another (redis://HOST:PORT/1), or delete the key.",
            key=PREFIX + symbol,
        )

    def _said(self, error: Exception) -> str:
        """What the server or the driver said, without the password if it was in it."""
        text = str(error).rstrip(".")
        return text.replace(self._secret, "***") if self._secret else text

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """The driver's exceptions as ours: unavailable where waiting may help, an error where a person has to do something."""
        errors, where = self._errors, f"Redis at {self._where}"
        try:
            yield
        except (errors.AuthenticationError, errors.AuthorizationError, errors.NoPermissionError) as error:
            raise StoreError(
                f"{where} refuses this user: {self._said(error)}.",
                hint="Set CIFT_REDIS_PASSWORD, and the user as redis://USER@HOST; " + RIGHTS,
            ) from error
        except errors.ReadOnlyError as error:
            # After a failover the name leads to another machine: look it up again.
            self._client.connection_pool.disconnect()
            raise StoreUnavailable(
                f"{where} is a read-only replica and takes no rows.", hint="Set CIFT_REDIS_URL to the primary, or wait for the failover."
            ) from error
        except errors.OutOfMemoryError as error:
            raise StoreError(
                f"{where} has no memory left, and keeps the rows it has.", hint="Raise its maxmemory, or delete what else is in it."
            ) from error
        except (errors.BusyLoadingError, errors.ClusterDownError, errors.TryAgainError) as error:
            raise StoreUnavailable(f"{where} is not ready: {self._said(error)}.", hint="Wait until it is.") from error
        except (errors.ConnectionError, errors.TimeoutError, OSError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise StoreError(
                    f"The certificate of {where} is not trusted: {self._said(error)}.",
                    hint="Set CIFT_TLS_CA to the file of the authority that signed it, and name the host as the certificate does.",
                ) from error
            raise StoreUnavailable(
                f"{where} does not answer: {self._said(error)}.", hint="Start it, or unset CIFT_REDIS_URL to keep live rows in memory."
            ) from error
        except errors.RedisError as error:
            raise StoreError(f"{where} refuses: {self._said(error)}.", hint="`cift doctor` says what it lacks.") from error
