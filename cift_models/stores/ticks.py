"""The tick store: canonical tables of a symbol and session, and the event stream that they make."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cift_models.errors import DataError, EmptyRange, NotStored, SchemaMismatch, SettingsError, StoreError, UnknownSymbol
from cift_models.events import Events, merge
from cift_models.feeds.canonical import EVENT_TABLES, events_of_tables, tables_of_events
from cift_models.feeds.quality import Checked
from cift_models.instruments import Instrument, Session, Universe
from cift_models.refs import PartitionRef
from cift_models.schema import table_of
from cift_models.stores import lake

if TYPE_CHECKING:
    import polars

    from cift_models.settings import Settings

QUARANTINE = "quarantine.parquet"
"""Rows that quality kept apart, beside the partition's data, with their reason."""


class TickStore(Protocol):
    """Where canonical tables lie: Parquet here, QuestDB on a server. Every read is verified, every write may be repeated."""

    def write(
        self,
        table: str,
        instrument: Instrument,
        session: Session,
        frame: polars.DataFrame,
        source: Mapping[str, Any],
        quarantined: polars.DataFrame | None = None,
        counts: Mapping[str, int] | None = None,
        siblings: Sequence[str] = (),
    ) -> PartitionRef:
        """Write one table of one symbol and session. The same rows and facts give the same reference and change nothing.

        source       JSON facts about where the rows came from (feed, file, sha256, receive_clock); nothing that changes from run to run
        quarantined  rows that quality kept apart, with a column `reason`; counts says how many for each
        siblings     tables of the same session and source, without which the session is not whole
        Raises SchemaMismatch or DataError for rows that the table does not allow.
        """
        ...

    def write_session(
        self, instrument: Instrument, session: Session, tables: Mapping[str, Checked], source: Mapping[str, Any]
    ) -> tuple[PartitionRef, ...]:
        """Write all tables of one symbol and session, the book last: until it is there, `events` refuses the session."""
        ...

    def write_events(self, instrument: Instrument, session: Session, events: Events, source: Mapping[str, Any]) -> tuple[PartitionRef, ...]:
        """Write one symbol's events (a simulated market's, a journal's) through the same tables."""
        ...

    def partitions(
        self, table: str, symbols: Sequence[str] | None = None, start_day: int | None = None, end_day: int | None = None
    ) -> tuple[PartitionRef, ...]:
        """What is stored of a table, by symbol and day; days are yyyymmdd, both ends included. Raises UnknownSymbol, EmptyRange."""
        ...

    def read(self, ref: PartitionRef) -> polars.DataFrame:
        """The rows, verified against the reference. Raises NotStored, StoreError (damaged), SchemaMismatch (another version)."""
        ...

    def facts(self, ref: PartitionRef) -> dict[str, Any]:
        """What the manifest says: instrument, session, first and last time, quarantined, source, files."""
        ...

    def instruments(self) -> dict[str, Instrument]:
        """Every stored symbol, as its latest session describes it."""
        ...

    def universe(self, symbols: Sequence[str]) -> Universe:
        """The instruments of some symbols, in the order given. Raises UnknownSymbol."""
        ...

    def sessions(self, symbols: Sequence[str], start_day: int | None = None, end_day: int | None = None) -> tuple[Session, ...]:
        """Sessions in which at least one of the symbols is stored, by time.

        Raises UnknownSymbol, EmptyRange; DataError where two symbols were open at different times.
        """
        ...

    def events(self, universe: Universe, session: Session) -> Events:
        """One merged stream. A symbol that is not stored in the session has no events. Raises as `read` does."""
        ...

    def event_partitions(self, universe: Universe, session: Session) -> tuple[PartitionRef, ...]:
        """The partitions that `events` reads: what a key over a session's data is made of."""
        ...


class ParquetTicks:
    """Ticks as Parquet: lake/<table>/<symbol>/<yyyymmdd>/data.parquet and partition.json below the home."""

    def __init__(self, home: Path) -> None:
        self._home = Path(home).resolve()

    def write(
        self,
        table: str,
        instrument: Instrument,
        session: Session,
        frame: polars.DataFrame,
        source: Mapping[str, Any],
        quarantined: polars.DataFrame | None = None,
        counts: Mapping[str, int] | None = None,
        siblings: Sequence[str] = (),
    ) -> PartitionRef:
        schema = table_of(table, frame.columns)
        schema.check(frame)
        files = {lake.DATA: lake.to_parquet(frame)}
        if quarantined is not None and len(quarantined):
            files[QUARANTINE] = lake.to_parquet(quarantined)
        times = frame[schema.time]
        facts = {
            "table": table,
            "symbol": instrument.symbol,
            "session": asdict(session),
            "rows": len(frame),
            "first": times.min(),
            "last": times.max(),
            "schema_hash": schema.schema_hash,
            "instrument": instrument.as_json(),
            "quarantined": dict(counts or {}),
            "source": dict(source),
            "siblings": sorted(siblings),
        }
        return lake.write_partition(self._home, self._key(table, instrument.symbol, session.day), files, facts)

    def write_session(
        self, instrument: Instrument, session: Session, tables: Mapping[str, Checked], source: Mapping[str, Any]
    ) -> tuple[PartitionRef, ...]:
        siblings = [name for name in EVENT_TABLES if name in tables]
        order = [name for name in tables if name not in EVENT_TABLES] + siblings
        refs = []
        for name in order:
            checked = tables[name]
            refs.append(
                self.write(
                    name,
                    instrument,
                    session,
                    checked.rows,
                    source,
                    checked.quarantined,
                    checked.counts,
                    siblings if name in siblings else (),
                )
            )
        return tuple(refs)

    def write_events(self, instrument: Instrument, session: Session, events: Events, source: Mapping[str, Any]) -> tuple[PartitionRef, ...]:
        if events.levels != instrument.levels:
            raise DataError(
                f"{instrument.symbol}: events of {events.levels} levels for an instrument of {instrument.levels}.",
                hint="Give the instrument as many levels as its book has.",
            )
        tables = {name: Checked(frame, frame.clear(), {}) for name, frame in tables_of_events(events).items()}
        return self.write_session(instrument, session, tables, source)

    def partitions(
        self, table: str, symbols: Sequence[str] | None = None, start_day: int | None = None, end_day: int | None = None
    ) -> tuple[PartitionRef, ...]:
        found = self._keys(table, symbols, start_day, end_day)
        return tuple(lake.read_manifest(self._home, key)[0] for key in found)

    def read(self, ref: PartitionRef) -> polars.DataFrame:
        return self._rows(ref, lake.open_manifest(self._home, ref))

    def quarantined(self, ref: PartitionRef) -> polars.DataFrame | None:
        """The rows that quality kept apart, with their reason; None where there are none."""
        import io

        import polars as pl

        manifest = lake.open_manifest(self._home, ref)
        if QUARANTINE not in manifest["files"]:
            return None
        return pl.read_parquet(io.BytesIO(lake.read_file(self._home, ref.key, manifest, QUARANTINE)))

    def facts(self, ref: PartitionRef) -> dict[str, Any]:
        return lake.open_manifest(self._home, ref)

    def instruments(self) -> dict[str, Instrument]:
        latest: dict[str, tuple[str, bool, str]] = {}
        for key in lake.find_manifests(self._home, "lake", "*/*/*"):
            _, table, symbol, day = key.split("/")
            latest[symbol] = max(latest.get(symbol, ("", False, "")), (day, table == "book", key))
        return {
            symbol: Instrument(**lake.read_manifest(self._home, key)[1]["instrument"]) for symbol, (_, _, key) in sorted(latest.items())
        }

    def universe(self, symbols: Sequence[str]) -> Universe:
        stored = self.instruments()
        self._known(symbols, stored)
        return Universe(tuple(stored[s] for s in symbols))

    def sessions(self, symbols: Sequence[str], start_day: int | None = None, end_day: int | None = None) -> tuple[Session, ...]:
        keys: set[str] = set()
        empty: EmptyRange | None = None
        for table in EVENT_TABLES:
            try:
                keys |= set(self._keys(table, symbols, start_day, end_day))
            except EmptyRange as error:
                # The book's days are the ones to name: it is written for every session that has one.
                empty = error
        if not keys:
            assert empty is not None
            raise empty
        sessions: dict[int, tuple[Session, str]] = {}
        for key in sorted(keys):
            session = Session(**lake.read_manifest(self._home, key)[1]["session"])
            other, where = sessions.setdefault(session.day, (session, key))
            if other != session:
                raise DataError(
                    f"{where} is open {other.open}..{other.close} ns, {key} is open {session.open}..{session.close} ns.",
                    hint="Expected one session a day for all symbols of a universe: cut the longer one, or leave a symbol out.",
                )
        return tuple(session for _, (session, _) in sorted(sessions.items()))

    def events(self, universe: Universe, session: Session) -> Events:
        parts = []
        for i, instrument in enumerate(universe.instruments):
            refs = self._event_partitions(instrument, session)
            if refs:
                parts.append(events_of_tables({ref.table: self._rows(ref, manifest) for ref, manifest in refs}, i))
        return merge(parts, universe.levels)

    def event_partitions(self, universe: Universe, session: Session) -> tuple[PartitionRef, ...]:
        return tuple(ref for instrument in universe.instruments for ref, _ in self._event_partitions(instrument, session))

    def _event_partitions(self, instrument: Instrument, session: Session) -> list[tuple[PartitionRef, dict[str, Any]]]:
        """The event tables of one symbol and session, which must be whole and of one source."""
        found = {}
        for table in EVENT_TABLES:
            key = self._key(table, instrument.symbol, session.day)
            try:
                found[table] = lake.read_manifest(self._home, key)
            except NotStored:
                continue
            manifest = found[table][1]
            stored = Instrument(**manifest["instrument"])
            if stored != instrument:
                changed = [name for name, value in asdict(instrument).items() if getattr(stored, name) != value]
                raise SchemaMismatch(
                    f"{key} is of {', '.join(f'{n} {getattr(stored, n)}' for n in changed)}; the universe says "
                    f"{', '.join(f'{n} {getattr(instrument, n)}' for n in changed)}.",
                    hint="Take the universe from the store, or ingest the session again.",
                )
            if Session(**manifest["session"]) != session:
                raise DataError(
                    f"{key} is open {manifest['session']['open']}..{manifest['session']['close']} ns, "
                    f"asked was {session.open}..{session.close} ns.",
                    hint="Take the session from sessions().",
                )
        if not found and instrument.symbol not in (stored := self.instruments()):
            self._known([instrument.symbol], stored)
        sources = [manifest["source"] for _, manifest in found.values()]
        missing = {name for _, manifest in found.values() for name in manifest["siblings"]} - set(found)
        if missing or any(source != sources[0] for source in sources):
            what = f"{', '.join(sorted(missing))} missing" if missing else "its tables come from different sources"
            raise StoreError(
                f"{instrument.symbol} {session.day} is half written: {what}.", hint="An ingest was stopped in the middle. Run it again."
            )
        return list(found.values())

    def _rows(self, ref: PartitionRef, manifest: Mapping[str, Any]) -> polars.DataFrame:
        data = lake.read_file(self._home, ref.key, manifest, lake.DATA)
        return lake.from_parquet(data, ref)

    @staticmethod
    def _key(table: str, symbol: str, day: int) -> str:
        return f"lake/{lake.folder_name(table)}/{lake.folder_name(symbol)}/{day:08d}"

    def _keys(self, table: str, symbols: Sequence[str] | None, start_day: int | None, end_day: int | None) -> list[str]:
        """Keys of a table's partitions by symbol and day, never none."""
        everything = [k for k in lake.find_manifests(self._home, f"lake/{lake.folder_name(table)}", "*/*") if re.search(r"/\d{8}$", k)]
        if symbols is not None:
            self._known(symbols, self.instruments())
        mine = [k for k in everything if symbols is None or k.split("/")[2] in symbols]
        days = [int(k.rsplit("/", 1)[1]) for k in mine]
        inside = [k for k, day in zip(mine, days, strict=True) if (start_day or 0) <= day <= (end_day or 99_999_999)]
        if not inside:
            have = f"stored days: {_shorten(sorted(set(days)))}" if days else f"no {table} is stored"
            raise EmptyRange(
                f"No {table} of {', '.join(symbols) if symbols else 'any symbol'} from {start_day or 'the first day'} "
                f"to {end_day or 'the last'}; {have}.",
                hint="Ingest those days, or ask for stored ones (yyyymmdd).",
            )
        return inside

    def _known(self, symbols: Iterable[str], stored: Iterable[str]) -> None:
        unknown = [s for s in symbols if s not in stored]
        if unknown:
            names = sorted(stored)
            raise UnknownSymbol(
                f"Unknown symbol {unknown[0]!r}.",
                hint=f"Stored are {_shorten(names)}." if names else "Nothing is stored yet: ingest first.",
            )


def open_ticks(settings: Settings) -> TickStore:
    """The tick store that the settings name."""
    if settings.questdb_url:
        raise SettingsError("This version has no QuestDB store.", hint="Unset CIFT_QUESTDB_URL: ticks are then kept below the home.")
    return ParquetTicks(settings.home)


def _shorten(values: Sequence[Any]) -> str:
    shown = ", ".join(str(v) for v in values[:8])
    return f"{shown}, ... {values[-1]} ({len(values)})" if len(values) > 8 else shown
