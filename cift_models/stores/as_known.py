"""A session's events as the tick store would have given them at an instant, had it held then what had been received by then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from cift_models.errors import StoreError
from cift_models.events import Events
from cift_models.instruments import Session, Universe
from cift_models.refs import PartitionRef
from cift_models.stores.ticks import Key, TickStore

if TYPE_CHECKING:
    import polars

Part = dict[Key, "tuple[PartitionRef, dict[str, Any], polars.DataFrame]"]
"""The event tables of one symbol and one file of its day."""


def as_known(ticks: TickStore, universe: Universe, session: Session) -> Callable[[int], Events]:
    """A function of an instant t (ns UTC): the events of the session out of what was known at t.

    A row is known when it and every row before it in its sequence have been received (`ts_recv`): what a correction says is not known
    before the correction comes, whatever `ts_event` it bears. That a recording ended is known with its last row: the gap behind it is the
    recorder's, not the market's.
    The partitions are read and verified once, here; each call filters and merges them, O(n). Raises as TickStore.events does.
    """
    keys = [(Key.of(ref.key), ref) for ref in ticks.event_partitions(universe, session)]
    tables = {key: (ref, ticks.facts(ref), ticks.read(ref)) for key, ref in keys}
    parts: dict[str, list[Part]] = {symbol: [] for symbol in universe.symbols}
    for (symbol, _, _), group in groupby(sorted(tables, key=_part), key=_part):
        parts[symbol].append({key: tables[key] for key in group})

    def known(t: int) -> Events:
        rows: Part = {}
        for mine in parts.values():
            over = True
            for part in mine:
                cut, whole = _known_part(part, t)
                # A file of which nothing was known is there only if all before it was over: it says that they were.
                if over or any(len(frame) for _, _, frame in cut.values()):
                    rows |= cut
                over = over and whole
        return _Known(rows, universe.symbols).events(universe, session)

    return known


def _part(key: Key) -> tuple[str, int, str]:
    return key.symbol, key.day, key.part


def _known_part(part: Part, t: int) -> tuple[Part, bool]:
    """The rows of a part that were known at t, and whether those are all."""
    later = [frame.filter(frame["ts_recv"] > t)["sequence"].min() for _, _, frame in part.values()]
    later = [sequence for sequence in later if sequence is not None]
    if not later:
        return part, True
    first = min(later)  # type: ignore[type-var]
    return {key: (ref, facts, frame.filter(frame["sequence"] < first)) for key, (ref, facts, frame) in part.items()}, False


class _Known(TickStore):
    """A tick store that holds some tables in memory and knows some symbols."""

    def __init__(self, tables: Part, symbols: Sequence[str]) -> None:
        super().__init__(_InMemory(tables))
        self._names = set(symbols)

    def _symbols(self) -> set[str]:
        return self._names


class _InMemory:
    """Partitions that are only read, of tables in memory."""

    def __init__(self, tables: Part) -> None:
        self._tables = tables

    def find(self, table: str | None = None, symbol: str | None = None) -> list[Key]:
        return sorted(key for key in self._tables if table in (None, key.table) and symbol in (None, key.symbol))

    def manifest(self, key: Key) -> tuple[PartitionRef, dict[str, Any]]:
        ref, facts, _ = self._tables[key]
        return ref, facts

    def manifests(self, keys: Sequence[Key]) -> list[tuple[PartitionRef, dict[str, Any]]]:
        return [self.manifest(key) for key in keys]

    def rows(self, ref: PartitionRef, facts: Mapping[str, Any]) -> polars.DataFrame:
        return self._tables[Key.of(ref.key)][2]

    def quarantined(self, ref: PartitionRef, facts: Mapping[str, Any]) -> polars.DataFrame | None:
        return None

    def write(self, key: Key, frame: polars.DataFrame, quarantined: polars.DataFrame | None, facts: Mapping[str, Any]) -> PartitionRef:
        raise StoreError("What was known at an instant is not written.", hint="Write to the tick store itself.")
