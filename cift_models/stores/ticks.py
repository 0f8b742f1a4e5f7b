"""The tick store: canonical tables of a symbol and a day, and the event stream that they make.

What a store of ticks means is said once, in TickStore; where its partitions lie is behind the five calls of Partitions: Parquet below the
home (here), QuestDB (questdb.py).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from itertools import groupby, pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from cift_models.errors import DataError, EmptyRange, SchemaMismatch, StoreError, StoreUnavailable, UnknownSymbol
from cift_models.events import BOOK as BOOK_BIT
from cift_models.events import GAP, HALT, RESUME, Events, check_order, merge
from cift_models.features import aggressor
from cift_models.feeds.canonical import EVENT_TABLES, events_of_tables, tables_of_events
from cift_models.feeds.day import FeedDay, part_from, utc_day
from cift_models.feeds.quality import Checked
from cift_models.instruments import CALENDARS, SECOND, Instrument, Session, Universe
from cift_models.refs import PartitionRef
from cift_models.schema import BOOK as BOOK_TABLE
from cift_models.schema import BOOK_STATE, table_of
from cift_models.stores import lake, packed_book

if TYPE_CHECKING:
    import polars

    from cift_models.settings import Settings

QUARANTINE = "quarantine.parquet"
"""Rows that quality kept apart, beside the partition's data, with their reason."""


class Key(NamedTuple):
    """Where a partition lies, the same in every store: lake/<table>/<symbol>/<yyyymmdd>[/<part>]."""

    table: str
    symbol: str
    day: int
    part: str = ""

    @property
    def path(self) -> str:
        """The key as a reference holds it. Raises InputError for a name that cannot be a folder."""
        folders = [lake.folder_name(name) for name in (self.table, self.symbol, f"{self.day:08d}", self.part) if name]
        return "/".join(["lake", *folders])

    @classmethod
    def of(cls, path: str) -> Key:
        """What `path` gave."""
        _, table, symbol, day, *part = path.split("/")
        return cls(table, symbol, int(day), *part)


class Partitions(Protocol):
    """Where a tick store keeps its partitions, each whole or absent, with a manifest of JSON facts that says what its rows mean."""

    def find(self, table: str | None = None, symbol: str | None = None) -> list[Key]:
        """Keys of what is stored, of one table or all, of one symbol or all, sorted."""
        ...

    def manifest(self, key: Key) -> tuple[PartitionRef, dict[str, Any]]:
        """The reference and the facts of a partition. Raises NotStored, StoreError (damaged), StoreUnavailable."""
        ...

    def manifests(self, keys: Sequence[Key]) -> list[tuple[PartitionRef, dict[str, Any]]]:
        """`manifest` of several, in the order given: one question to a server, where the store is one."""
        ...

    def write(self, key: Key, frame: polars.DataFrame, quarantined: polars.DataFrame | None, facts: Mapping[str, Any]) -> PartitionRef:
        """Write a partition. The same rows and facts give the same reference and change nothing; others replace it, absent in between.

        `facts` holds table, rows and schema_hash. Killed at any point and called again, it leaves what one call leaves.
        """
        ...

    def rows(self, ref: PartitionRef, facts: Mapping[str, Any]) -> polars.DataFrame:
        """The rows of a partition, verified. Raises StoreError (damaged), SchemaMismatch (another version of the table)."""
        ...

    def quarantined(self, ref: PartitionRef, facts: Mapping[str, Any]) -> polars.DataFrame | None:
        """The rows kept apart, with their reason, verified; None where there are none."""
        ...


class TickStore:
    """Canonical tables by symbol and day. Every read is verified, every write may be repeated."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions

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
        part: str = "",
        beside: Mapping[str, str] | None = None,
    ) -> PartitionRef:
        """Write one table of one symbol and session. The same rows and facts give the same reference and change nothing.

        source       JSON facts about where the rows came from (feed, file, sha256, receive_clock); nothing that changes from run to run
        quarantined  rows that quality kept apart, with a column `reason`; counts says how many for each
        siblings     tables of the same session and source, without which the session is not whole
        part         which file of a day that comes in several (FeedDay.part)
        beside       sha256 of the siblings' references, of the last one that is written: others are of another write
        Raises SchemaMismatch or DataError for rows that the table does not allow.
        """
        schema = table_of(table, frame.columns)
        schema.check(frame)
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
            "part": part,
            "beside": dict(beside or {}),
        }
        key = Key(table, instrument.symbol, session.day, part)
        return self._partitions.write(key, frame, quarantined if quarantined is not None and len(quarantined) else None, facts)

    def write_day(self, day: FeedDay, checked: Mapping[str, Checked]) -> tuple[PartitionRef, ...]:
        """Write all tables of one file, the event tables last and the book after all: until it is there, `events` refuses the session.

        `checked` is what quality made of the day's tables.
        """
        siblings = [name for name in EVENT_TABLES if name in checked]
        order = [name for name in checked if name not in EVENT_TABLES] + siblings
        refs: dict[str, PartitionRef] = {}
        for name in order:
            refs[name] = self.write(
                name,
                day.instrument,
                day.session,
                checked[name].rows,
                day.source,
                checked[name].quarantined,
                checked[name].counts,
                siblings if name in siblings else (),
                day.part,
                {other: refs[other].sha256 for other in siblings[:-1]} if name in siblings[-1:] else None,
            )
        return tuple(refs.values())

    def left_behind(self, day: FeedDay) -> tuple[str, ...]:
        """Event tables that lie where a file's do and are not of it: they were stored before, and `events` reads them no more."""
        return tuple(
            name
            for name in EVENT_TABLES
            if name not in day.tables
            and Key(name, day.instrument.symbol, day.session.day, day.part) in self._partitions.find(name, day.instrument.symbol)
        )

    def write_events(self, instrument: Instrument, session: Session, events: Events, source: Mapping[str, Any]) -> tuple[PartitionRef, ...]:
        """Write one symbol's events (a simulated market's, a journal's) through the same tables."""
        if events.levels != instrument.levels:
            raise DataError(
                f"{instrument.symbol}: events of {events.levels} levels for an instrument of {instrument.levels}.",
                hint="Give the instrument as many levels as its book has.",
            )
        tables = tables_of_events(events)
        checked = {name: Checked(frame, frame.clear(), {}) for name, frame in tables.items()}
        return self.write_day(FeedDay(instrument, session, tables, dict(source)), checked)

    def partitions(
        self, table: str, symbols: Sequence[str] | None = None, start_day: int | None = None, end_day: int | None = None
    ) -> tuple[PartitionRef, ...]:
        """What is stored of a table, by symbol, day and part; days are yyyymmdd, both included. Raises UnknownSymbol, EmptyRange."""
        return tuple(ref for ref, _ in self._partitions.manifests(self._keys(table, symbols, start_day, end_day)))

    def read(self, ref: PartitionRef) -> polars.DataFrame:
        """The rows, verified against the reference. Raises NotStored, StoreError (damaged), SchemaMismatch (another version)."""
        return self._partitions.rows(ref, self.facts(ref))

    def quarantined(self, ref: PartitionRef) -> polars.DataFrame | None:
        """The rows that quality kept apart, with a column `reason`; None where there are none. Raises as `read`."""
        return self._partitions.quarantined(ref, self.facts(ref))

    def facts(self, ref: PartitionRef) -> dict[str, Any]:
        """What the manifest says: instrument, session, first and last time, quarantined, source, part. Raises NotStored if replaced."""
        found, facts = self._partitions.manifest(Key.of(ref.key))
        lake.require(found, ref)
        return facts

    def book_before(self, symbol: str, ns: int) -> PartitionRef | None:
        """The BOOK_STATE that the last stored recording of a symbol before an instant left: what the next recording goes on from.

        Raises StoreError where it is damaged. What the recording that begins at `ns` itself left, and any later one, may be damaged.
        """
        keys = [key for key in self._partitions.find(BOOK_STATE.name, symbol) if key.symbol == symbol]
        damaged: list[tuple[Key, StoreError]] = []
        try:
            found = self._partitions.manifests(keys)
        except StoreUnavailable:
            raise
        except StoreError:
            found = []
            for key in keys:
                try:
                    found.append(self._partitions.manifest(key))
                except StoreUnavailable:
                    raise
                except StoreError as error:
                    damaged.append((key, error))
        ended = [(facts["last"], ref.key, ref) for ref, facts in found if facts["rows"] and facts["last"] < ns]
        last = max(ended)[2] if ended else None
        # Recordings of a symbol do not overlap: those that begin between the last one that ended and this one are in question.
        began = Key.of(last.key)[2:] if last else (0, "")
        for key, error in sorted(damaged, reverse=True):
            if began < key[2:] < (utc_day(ns), part_from(ns)):
                raise StoreError(
                    f"The book that the recording {key.part} of {symbol} on {key.day} left is damaged: {error.message}",
                    hint=f"The next recording goes on from it. `cift ingest --again` of that recording's file mends {key.path}.",
                    key=key.path,
                ) from error
        return last

    def instruments(self) -> dict[str, Instrument]:
        """Every stored symbol, as its latest session describes it."""
        latest: dict[str, list[Key]] = {}
        for key in sorted(self._partitions.find(), key=lambda k: (k.symbol, k.day, k.part)):
            before = latest.setdefault(key.symbol, [])
            if before and before[0][2:] != key[2:]:
                before.clear()
            before.append(key)
        keys = [key for symbol in sorted(latest) for key in latest[symbol]]
        found: dict[str, Stored] = {}
        for key, one in zip(keys, self._partitions.manifests(keys), strict=True):
            found.setdefault(key.symbol, {})[key.table] = one
        return {symbol: Instrument(**_describes(stored)["instrument"]) for symbol, stored in found.items()}

    def universe(self, symbols: Sequence[str]) -> Universe:
        """The instruments of some symbols, in the order given. Raises UnknownSymbol."""
        stored = self.instruments()
        self._known(symbols, stored)
        return Universe(tuple(stored[s] for s in symbols))

    def sessions(self, symbols: Sequence[str], start_day: int | None = None, end_day: int | None = None) -> tuple[Session, ...]:
        """Sessions in which at least one of the symbols is stored, by time; at most one begins on a day.

        Of a venue that never closes, recorded stretches that touch are one session, across midnight too; a hole within a day is a gap in
        the session, not its end. Raises UnknownSymbol, EmptyRange; DataError where symbols of other venues were open at different times.
        """
        keys: set[Key] = set()
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
        whole: dict[int, tuple[Session, Key]] = {}
        stretches: list[Session] = []
        ordered = sorted(keys)
        for key, (_, facts) in zip(ordered, self._partitions.manifests(ordered), strict=True):
            session = Session(**facts["session"])
            if CALENDARS[facts["instrument"]["calendar"]].continuous:
                stretches.append(session)
                continue
            other, where = whole.setdefault(session.day, (session, key))
            if other != session:
                raise DataError(
                    f"{where.path} is open {other.open}..{other.close} ns, {key.path} is open {session.open}..{session.close} ns.",
                    hint="Expected one session a day for all symbols of a universe: cut the longer one, or leave a symbol out.",
                )
        return tuple(sorted([session for session, _ in whole.values()] + joined(stretches), key=lambda s: s.open))

    def events(self, universe: Universe, session: Session) -> Events:
        """One merged stream of all parts, its trades signed where the feed sends no sides. A symbol that is not stored has no events.

        Raises as `read` does; StoreError where a part is half written or of two recordings; DataError where two parts tell of the same
        time.
        """
        streams = []
        for i, instrument in enumerate(universe.instruments):
            parts = self._event_partitions(instrument, session)
            hole = False
            for part, following in zip_longest(parts, parts[1:]):
                stream = events_of_tables({ref.table: self._partitions.rows(ref, facts) for ref, facts in part}, i)
                if hole:
                    hole = not _resume_at_book(stream)
                if following and _close(part) < Session(**following[0][1]["session"]).open:
                    stream, hole = _gap_behind(stream), True
                streams.append(stream)
        out = merge(streams, universe.levels)
        if len(streams) > len(universe):
            check_order(out)
        return aggressor.signed(universe, out)

    def event_partitions(self, universe: Universe, session: Session) -> tuple[PartitionRef, ...]:
        """The partitions that `events` reads: what a key over a session's data is made of."""
        return tuple(ref for i in universe.instruments for part in self._event_partitions(i, session) for ref, _ in part)

    def _event_partitions(self, instrument: Instrument, session: Session) -> list[list[tuple[PartitionRef, dict[str, Any]]]]:
        """The event tables of one symbol and session by day and part, each whole and of one source, in the order of time."""
        days = session_days(instrument, session)
        keys = [k for table in EVENT_TABLES for k in self._partitions.find(table) if k.symbol == instrument.symbol and k.day in days]
        found = dict(zip(keys, self._partitions.manifests(keys), strict=True))
        by_part = groupby(sorted(keys, key=lambda k: (k.day, k.part)), key=lambda k: (k.day, k.part))
        parts = [self._part({k.table: found[k] for k in group}, instrument, session) for _, group in by_part]
        if not parts:
            self._known([instrument.symbol], self._symbols())
        parts = [part for part in parts if part]
        for table in EVENT_TABLES:
            spans = sorted((f["first"], f["last"], r.key) for part in parts for r, f in part if r.table == table and f["rows"])
            for (_, last, earlier), (first, _, later) in pairwise(spans):
                if first < last:
                    raise DataError(
                        f"{later} begins at {first} ns, before {earlier} ends ({last} ns).",
                        hint="Two recordings of one stretch would double its events: remove one of the folders, or cut the file.",
                    )
        return parts

    @staticmethod
    def _part(
        found: dict[str, tuple[PartitionRef, dict[str, Any]]], instrument: Instrument, session: Session
    ) -> list[tuple[PartitionRef, dict[str, Any]]]:
        """The tables of one part if it is whole and of this instrument and session; nothing for a stretch of another session."""
        found, wrong = _of_one_write(found)
        if wrong is not None:
            what, hint = wrong
            raise StoreError(f"{instrument.symbol} {session.day} {what}.", hint=hint)
        for ref, facts in found.values():
            stored = Instrument(**facts["instrument"])
            if stored != instrument:
                changed = [name for name, value in asdict(instrument).items() if getattr(stored, name) != value]
                raise SchemaMismatch(
                    f"{ref.key} is of {', '.join(f'{n} {getattr(stored, n)}' for n in changed)}; the universe says "
                    f"{', '.join(f'{n} {getattr(instrument, n)}' for n in changed)}.",
                    hint="Take the universe from the store, or ingest the session again.",
                )
            its = Session(**facts["session"])
            if CALENDARS[instrument.calendar].continuous:
                if its.close < session.open or its.open > session.close:
                    return []
            elif its != session:
                raise DataError(
                    f"{ref.key} is open {its.open}..{its.close} ns, asked was {session.open}..{session.close} ns.",
                    hint="Take the session from sessions().",
                )
        return list(found.values())

    def _keys(self, table: str, symbols: Sequence[str] | None, start_day: int | None, end_day: int | None) -> list[Key]:
        """Keys of a table's partitions, never none."""
        everything = self._partitions.find(lake.folder_name(table))
        if symbols is not None and not {k.symbol for k in everything}.issuperset(symbols):
            self._known(symbols, self._symbols())
        mine = [k for k in everything if symbols is None or k.symbol in symbols]
        inside = [k for k in mine if (start_day or 0) <= k.day <= (end_day or 99_999_999)]
        if not inside:
            have = f"stored days: {_shorten(sorted({k.day for k in mine}))}" if mine else f"no {table} is stored"
            raise EmptyRange(
                f"No {table} of {', '.join(symbols) if symbols else 'any symbol'} from {start_day or 'the first day'} "
                f"to {end_day or 'the last'}; {have}.",
                hint="Ingest those days, or ask for stored ones (yyyymmdd).",
            )
        return inside

    def _symbols(self) -> set[str]:
        """Every stored symbol; no manifest is read."""
        return {key.symbol for key in self._partitions.find()}

    def _known(self, symbols: Iterable[str], stored: Iterable[str]) -> None:
        unknown = [s for s in symbols if s not in stored]
        if unknown:
            names = sorted(stored)
            raise UnknownSymbol(
                f"Unknown symbol {unknown[0]!r}.",
                hint=f"Stored are {_shorten(names)}." if names else "Nothing is stored yet: ingest first.",
            )


class ParquetPartitions:
    """Partitions as folders below the home: <key>/data.parquet, quarantine.parquet and partition.json, which is written last."""

    def __init__(self, home: Path) -> None:
        self._home = Path(home).resolve()

    def find(self, table: str | None = None, symbol: str | None = None) -> list[Key]:
        found = [p for depth in ("*", "*/*") for p in lake.find_manifests(self._home, "lake", f"{table or '*'}/{symbol or '*'}/{depth}")]
        # A folder whose third name is no day is not ours.
        return sorted(Key.of(path) for path in found if path.split("/")[3].isdigit() and len(path.split("/")[3]) == 8)

    def manifest(self, key: Key) -> tuple[PartitionRef, dict[str, Any]]:
        return lake.read_manifest(self._home, key.path)

    def manifests(self, keys: Sequence[Key]) -> list[tuple[PartitionRef, dict[str, Any]]]:
        return [self.manifest(key) for key in keys]

    def write(self, key: Key, frame: polars.DataFrame, quarantined: polars.DataFrame | None, facts: Mapping[str, Any]) -> PartitionRef:
        packed = packed_book.pack(frame) if key.table == BOOK_TABLE.name else None
        files = {lake.DATA: lake.to_parquet(frame) if packed is None else packed_book.to_parquet(packed)}
        if quarantined is not None:
            files[QUARANTINE] = lake.to_parquet(quarantined)
        encoding = {} if packed is None else {"encoding": packed_book.ENCODING}
        return lake.write_partition(self._home, key.path, files, {**facts, **encoding})

    def rows(self, ref: PartitionRef, facts: Mapping[str, Any]) -> polars.DataFrame:
        data = lake.read_file(self._home, ref.key, facts, lake.DATA)
        if facts.get("encoding") == packed_book.ENCODING:
            return lake.from_parquet(data, ref, packed_book.from_parquet)
        return lake.from_parquet(data, ref)

    def quarantined(self, ref: PartitionRef, facts: Mapping[str, Any]) -> polars.DataFrame | None:
        import polars as pl

        if QUARANTINE not in facts["files"]:
            return None
        return pl.read_parquet(io.BytesIO(lake.read_file(self._home, ref.key, facts, QUARANTINE)))


class ParquetTicks(TickStore):
    """Ticks as Parquet below the home: the embedded default."""

    def __init__(self, home: Path) -> None:
        super().__init__(ParquetPartitions(home))


Stored = dict[str, tuple[PartitionRef, dict[str, Any]]]
"""Tables of one part by name: their references and facts."""


def open_ticks(settings: Settings) -> TickStore:
    """The tick store that the settings name: QuestDB where CIFT_QUESTDB_URL is set, else Parquet below the home. Connects to nothing."""
    if settings.questdb_url:
        from cift_models.stores.questdb import QuestDBTicks

        return QuestDBTicks.of(settings)
    return ParquetTicks(settings.home)


def session_days(instrument: Instrument, session: Session) -> range | list[int]:
    """Days (yyyymmdd) under which partitions of a session may lie: its own, and for a venue that never closes those up to its close."""
    if not CALENDARS[instrument.calendar].continuous:
        return [session.day]
    last = int(datetime.fromtimestamp((session.close - 1) // SECOND, UTC).strftime("%Y%m%d"))
    return range(session.day, last + 1)


def joined(stretches: Iterable[Session]) -> list[Session]:
    """Sessions out of recorded stretches: those that touch or overlap, or begin on the day on which the one before ends, are one."""
    out: list[Session] = []
    for stretch in sorted(stretches, key=lambda s: (s.open, s.close)):
        if out:
            before = out[-1]
            ends_on = int(datetime.fromtimestamp((before.close - 1) // SECOND, UTC).strftime("%Y%m%d"))
            if stretch.open <= before.close or stretch.day == ends_on:
                out[-1] = Session(before.day, before.open, max(before.close, stretch.close))
                continue
        out.append(stretch)
    return out


def _describes(stored: Stored) -> dict[str, Any]:
    """The facts that say what a symbol is: the book's, unless it was left behind."""
    events, _ = _of_one_write({name: stored[name] for name in EVENT_TABLES if name in stored})
    named = events or stored
    return named[next((name for name in reversed(EVENT_TABLES) if name in named), min(named))][1]


def _of_one_write(found: Stored) -> tuple[Stored, tuple[str, str] | None]:
    """Of the tables that lie in one part those of its latest write, and None; or what is wrong with them, and what to do.

    A file that was sent again without one of its tables leaves the old one behind. The table that a write ends with says which tables
    belong together, and which bytes of them: one that says so of what lies there is of the latest write.
    """
    said = [[t for t in EVENT_TABLES if t in found[name][1]["siblings"]] for name in EVENT_TABLES if name in found]
    claims = [names for names in said if names]
    whole = [names for i, names in enumerate(claims) if names not in claims[:i] and not _is_torn(found, names)]
    if len(whole) > 1:
        each = [f"{', '.join(names)} of {_file(found[names[-1]])}" for names in whole]
        hint = "Rows of two recordings have no common order. Ingest one that holds all of these tables, or leave the symbol or day out."
        return found, (f"holds tables of two recordings: {' and '.join(each)}", hint)
    names = (whole or claims[-1:] or [list(found)])[0]
    torn = "" if whole else _is_torn(found, names)
    latest = {name: found[name] for name in names if name in found}
    if torn:
        file = _file(next(iter(latest.values())))
        return latest, (f"is half written: {torn}", f"An ingest of {file} was stopped in the middle. Run it again.")
    return latest, None


def _is_torn(found: Stored, names: Sequence[str]) -> str:
    """What makes some tables of a part not those of one write; "" where they are."""
    if missing := sorted(set(names) - set(found)):
        return f"{', '.join(missing)} missing"
    sources = [found[name][1]["source"] for name in names]
    beside = found[names[-1]][1].get("beside", {})
    mixed = any(source != sources[0] for source in sources) or any(found[n][0].sha256 != beside[n] for n in beside.keys() & set(names))
    return "its tables come from different writes" if mixed else ""


def _file(stored: tuple[PartitionRef, dict[str, Any]]) -> str:
    """The file that a partition came from, in words."""
    source = stored[1]["source"]
    return str(source.get("file") or source.get("feed") or "a file")


def _close(part: list[tuple[PartitionRef, dict[str, Any]]]) -> int:
    return Session(**part[0][1]["session"]).close


def _gap_behind(stream: Events) -> Events:
    """The stream and a GAP right behind its last event: nothing was recorded from there on."""
    if not len(stream):
        return stream
    gap = Events.empty(1, stream.levels)
    gap.ts[:], gap.symbol[:], gap.sequence[:], gap.kind[:] = stream.ts[-1], stream.symbol[-1], stream.sequence[-1] + 1, HALT | GAP
    return Events(*(np.concatenate([getattr(e, f.name) for e in (stream, gap)]) for f in fields(Events)))


def _resume_at_book(stream: Events) -> bool:
    """Mark the first row of the book after a hole: it is whole again there, unless the feed itself says when. Returns whether it is."""
    books = np.flatnonzero(stream.kind & BOOK_BIT)
    if len(books) and not (stream.kind & (RESUME | HALT)).any():
        stream.kind[books[0]] |= RESUME
    return bool((stream.kind & RESUME).any())


def _shorten(values: Sequence[Any]) -> str:
    shown = ", ".join(str(v) for v in values[:8])
    return f"{shown}, ... {values[-1]} ({len(values)})" if len(values) > 8 else shown
