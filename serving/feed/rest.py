"""The exchange's REST side: snapshots and listings, asked for politely.

A few questions at a time; within the weight that one address may use; what is refused is asked again later, with jitter.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from cift_models.errors import FeedError, InputError, StoreUnavailable
from serving.feed.venue import Venue

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("cift.feed")

SHARE = 0.8
"""Of the weight that an address may use in a minute: others may ask from it too."""
FIRST_S, LONGEST_S = 0.5, 60.0
"""Pause after the first refusal, doubled after each further one up to the longest."""
TIMEOUT_S = 30.0
AT_ONCE = 8
"""Questions that may be open at a time."""
_INVALID_SYMBOL = -1121


def pause_s(failures: int, longest_s: float = LONGEST_S) -> float:
    """Seconds to wait after so many failures in a row: doubling, with jitter, so that clients that failed together return apart."""
    return random.uniform(0.5, 1.0) * min(longest_s, FIRST_S * 2.0 ** min(failures, 30))


class Rest:
    """Questions to one market. `asked` counts them, `refused` those that were not answered."""

    def __init__(self, venue: Venue) -> None:
        self.venue = venue
        self.asked = 0
        self.refused = 0
        self._used = 0
        self._used_until = 0.0
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._client: httpx.AsyncClient | None = None

    async def snapshot(self, symbol: str) -> bytes:
        """The body of a depth snapshot, on one line; asks until it gets one.

        Raises InputError for a symbol that the market has not, StoreUnavailable where the exchange will never answer from here.
        """
        venue = self.venue
        body = await self._get(f"{venue.path}/depth", {"symbol": symbol, "limit": str(venue.depth_limit)}, venue.depth_weight)
        return body.strip() if b"\n" not in body.strip() else orjson.dumps(orjson.loads(body))

    async def exchange_info(self, symbols: Sequence[str]) -> bytes:
        """The market's exchangeInfo, its `symbols` cut down to those asked for. Raises as `snapshot`."""
        # Futures list everything whatever is asked; spot's whole list is 10 MB.
        ask = {"symbols": orjson.dumps(list(symbols)).decode()} if self.venue.market == "spot" else {}
        body = await self._get(f"{self.venue.path}/exchangeInfo", ask, 20)
        try:
            listed = {one["symbol"]: one for one in orjson.loads(body)["symbols"]}
        except (ValueError, KeyError, TypeError) as error:
            raise self._not_ours("exchangeInfo", error) from error
        for symbol in symbols:
            if symbol not in listed:
                raise self._unknown(symbol)
        return orjson.dumps({"symbols": [listed[symbol] for symbol in symbols]})

    async def server_time(self) -> int:
        """The exchange's clock, ns UTC, to the millisecond. Raises as `snapshot`."""
        body = await self._get(f"{self.venue.path}/time", {}, 1)
        try:
            return int(orjson.loads(body)["serverTime"]) * 1_000_000
        except (ValueError, KeyError, TypeError) as error:
            raise self._not_ours("time", error) from error

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _get(self, path: str, ask: dict[str, str], weight: int) -> bytes:
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(timeout=httpx.Timeout(TIMEOUT_S))
        failures = 0
        async with self._turn:
            while True:
                await self._within(weight)
                self.asked += 1
                wait_s = pause_s(failures)
                try:
                    answer = await self._client.get(self.venue.rest + path, params=ask)
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    why = f"{type(error).__name__} {error}".strip()
                else:
                    used = answer.headers.get("x-mbx-used-weight-1m", "")
                    self._used = int(used) if used.isdigit() else self._used
                    if answer.status_code == 200:
                        return answer.content
                    why = self._refusal(answer, ask)
                    after = answer.headers.get("retry-after", "")
                    wait_s = max(wait_s, float(after) if after.isdigit() else 0.0)
                self.refused += 1
                failures += 1
                log.warning("%s%s: %s; asking again in %.1f s", self.venue.rest, path, why, wait_s)
                await asyncio.sleep(wait_s)

    def _refusal(self, answer: httpx.Response, ask: dict[str, str]) -> str:
        """Why there was no answer. Raises where asking again would not help."""
        try:
            said: Any = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            said = {}
        code, text = (said.get("code"), said.get("msg", "")) if isinstance(said, dict) else (None, "")
        if code == _INVALID_SYMBOL:
            raise self._unknown(ask.get("symbol") or ask.get("symbols", ""))
        status = answer.status_code
        # 418 and 429 are for those who asked too much, 403 for those whom a filter took for a robot; other 4xx will be said for ever.
        if 400 <= status < 500 and status not in (403, 408, 418, 425, 429):
            raise StoreUnavailable(
                f"{answer.url.copy_with(query=None)} answers {status} {text}".rstrip() + ".",
                hint="451 means that Binance does not serve this place. Otherwise check --rest and --market.",
            )
        return f"HTTP {status} {text}".rstrip()

    def _not_ours(self, what: str, error: Exception) -> FeedError:
        return FeedError(
            f"{self.venue.rest} answers no {what} ({type(error).__name__} {error}).", hint="Is --rest the exchange's REST address?"
        )

    def _unknown(self, symbol: str) -> InputError:
        return InputError(f"{self.venue.market} has no symbol {symbol}.", hint="Expected names as the exchange writes them: BTCUSDT.")

    async def _within(self, weight: int) -> None:
        """Wait for the next minute where this one's weight is used up. The exchange counts; between its answers we do."""
        while True:
            now = time.time()
            if now >= self._used_until:
                self._used, self._used_until = 0, (now // 60 + 1) * 60
            if self._used + weight <= SHARE * self.venue.weight_a_minute:
                break
            log.info("%s: %d of weight used in this minute, waiting %.0f s", self.venue.rest, self._used, self._used_until - now)
            await asyncio.sleep(self._used_until - now)
        self._used += weight
