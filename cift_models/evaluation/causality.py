"""Does any row know its future? Take the future away, or put another in its place: no bit of what came before may change.

Whoever makes rows of events is asked again with a stream that was cut, or that goes on with noise; what it says of every row that was
known before the cut must be the same, to the bit. That finds a centred window, a normaliser fitted on all rows, a smoothed filter, a label
that looks too far: whatever it is, and wherever it lies, because it asks what comes out and not how it is made. It cannot find what the
stream itself hides: a row that was corrected in place and kept its old time of receipt.

Probes, by name:
    cut       the stream ends at a cut: rows until then are the same
    noise     it goes on otherwise (prices, sizes, sides, kinds, times, more and fewer events): the same
    resume    it is stopped, the memory goes through bytes, and goes on: all rows are those of one pass
    arrival   only what had been received by then, as the store would have given it then: the same
    reach     a row says of itself until when it reads, and that is as_of + reach and nothing else
    past      of what came before the cut only the state stands (books, halts): rows that are anchored behind it are the same. A label is a
              move from the price that stands; against a past mean a martingale can be "forecast"
    given     what a run was given as these rows are these rows: it was not normalised, smoothed or shifted on its way (see `as_given`)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError, InputError
from cift_models.evaluation.other_future import OtherFuture
from cift_models.events import BOOK, HALT, RESUME, Events
from cift_models.instruments import Session

WINDOW = 128
"""Instants before a cut that are made again from a carried memory, and TAIL behind it, so that there is a future to look at."""
TAIL = 64

WHOLE_SHARE = 8
"""One cut in so many is made from the session's open where memory can be carried: a trading day is 120 windows."""

ARRIVALS = 4
"""Cuts at which the store is asked again for what it knew; reading costs more than anything else."""

FEW = 8
"""With fewer cuts than this the ends of the session are left out: there is more to see within it."""


class Rows(NamedTuple):
    """What a builder makes of events: T rows of S symbols.

    as_of     int64[T]   ns UTC, rising: the instant of the row
    known_at  int64[T]   until when it may read: every event with ts <= known_at (a feature: as_of; a label: where it ends)
    blocks    by the names of its columns: arrays [T, S, len(names)] of any fixed-width type
    """

    as_of: NDArray[np.int64]
    known_at: NDArray[np.int64]
    blocks: dict[tuple[str, ...], NDArray[Any]]

    def __getitem__(self, part: slice) -> Rows:  # type: ignore[override]
        return Rows(self.as_of[part], self.known_at[part], {names: values[part] for names, values in self.blocks.items()})


Build = Callable[[Events], Rows]
"""Rows of a whole session's events. It may do anything: the audit holds it to its rows alone."""


@dataclass(frozen=True, slots=True)
class Folding:
    """A builder that can stop anywhere between two instants and go on.

    start    the memory at the session's open
    fold     (memory, events, offsets int64[T + 1], as_of int64[T]) -> Rows; changes the memory in place
    save     the memory as bytes, as a restart would find them
    restore  a memory of its own out of such bytes
    """

    start: Callable[[], Any]
    fold: Callable[[Any, Events, NDArray[np.int64], NDArray[np.int64]], Rows]
    save: Callable[[Any], bytes]
    restore: Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is audited: `build`, and how it may be asked besides.

    what      its name in the report: features, labels, linear ...
    folding   the same computation with a memory: makes many cuts cheap, and is itself held to `build`
    known     events as they were known at an instant (ns): what a store gives when it holds nothing that was received later
    reach_ns  how far ahead of as_of a row may read: 0 for a feature, latency + horizon for a label
    one_in    one of the asked-for cuts in so many is made (two at least): for what takes long and has no `folding`
    anchor_ns from as_of + anchor on a row reads events; of those before it only the state that they left. None: it may read all of them
    """

    what: str
    build: Build
    folding: Folding | None = None
    known: Callable[[int], Events] | None = None
    reach_ns: int = 0
    one_in: int = 1
    anchor_ns: int | None = None


class Cut(NamedTuple):
    """Where a stream is cut: events[:index] stay, and no row that was known before `at` (ns) may change. `place` says why there."""

    index: int
    at: int
    place: str


@dataclass(frozen=True, slots=True)
class Leak:
    """One column of one symbol that knew something too early.

    as_of     ns: the first instant at which it changed
    cut       ns: what came at or after this was taken away or replaced when it did; where only `resume` found it, the first row that was
              made from the memory that had been saved
    was       its value there with the true future, and `became` without it (None: no such row)
    largest   the largest change found in the column, over all cuts; None where a value is no number
    rows      the most rows that one cut changed
    probes    how many cuts found it, by probe
    """

    what: str
    column: str
    symbol: str
    as_of: int
    cut: int
    was: float | None
    became: float | None
    largest: float | None
    rows: int
    probes: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Audit:
    """What was asked of one subject on one session, and what came of it.

    rows      instants times symbols; `columns` of each
    compared  values that were compared, all probes together
    probes    cuts by probe, and places by name: how many of each
    leaks     by instant; empty where it is clean
    """

    what: str
    session: int
    rows: int
    columns: int
    compared: int
    probes: dict[str, int]
    places: dict[str, int]
    leaks: tuple[Leak, ...]

    @property
    def clean(self) -> bool:
        return not self.leaks

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def audit(
    subject: Subject,
    events: Events,
    symbols: Sequence[str],
    session: Session,
    *,
    cuts: int = 64,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Audit:
    """Cut a session's stream at `cuts` places and hold the subject to its rows.

    events   int64 ns in (ts, symbol, sequence) order, as the store gives them; never changed
    Places are the open, the first instant, the close, and in turn instants, ties, stops and goings-on, events and times drawn at random;
    the same seed takes the same. Every cut is made with nothing behind it and with noise behind it. Where `folding` is given, a cut is made
    in a window from a carried memory, and one in WHOLE_SHARE from the open as well; otherwise all from the open.
    Raises InputError for less than one cut, and whatever the subject raises: it must take any stream that the store may give.
    Cost: three windows a cut, two sessions a whole one; a LOBSTER day of three symbols takes 9 s of one core, reading and labels included.
    """
    if cuts < 1:
        raise InputError(f"An audit of {cuts} cuts.", hint="Expected at least 1; 64 is the default.")
    cuts = max(cuts // subject.one_in, min(cuts, 2))
    told = _Told(subject.what, symbols)
    rng = np.random.default_rng([seed, session.day])
    progress("as it is", 0.0)
    base = subject.build(events)
    _refuse_odd(subject, base, len(symbols))
    # Of a subject that stops before the close, what lies behind its last row is not looked at, and not made.
    end = min(session.close, int(base.as_of[-1]) + 1)
    last = int(np.searchsorted(events.ts, end, "right"))
    places = cut_places(events, base.as_of, session.open, end, cuts, rng)
    told.reach(base, subject.reach_ns)
    other = OtherFuture(events, len(symbols))
    whole = places if subject.folding is None else _spread(places, -(-cuts // WHOLE_SHARE))
    known = _spread(places, ARRIVALS) if subject.known else []
    # Shares of the work for the progress bar, roughly, in windows: a whole cut is two sessions, the store's answer is slower still.
    work = 200 * len(whole) + 400 * len(known) + (3 * len(places) if subject.folding else 0)
    done = 0

    def did(what: str, units: int) -> None:
        nonlocal done
        done += units
        progress(what, done / max(work, 1))

    if subject.folding is not None:
        _windows(subject.folding, base, events, places, other, rng, told, lambda: did("windows", 3))
    for n, cut in enumerate(whole):
        told.compare("cut", base, subject.build(events[: cut.index]), cut)
        share = (0.5, 1.5)[n % 2]
        more = max(int(share * (last - cut.index)), 8)
        told.compare("noise", base, subject.build(other.after(cut.index, cut.at, end, more, rng)), cut)
        if subject.anchor_ns is not None:
            stood = np.concatenate([standing(events, cut.index), np.arange(cut.index, len(events))])
            told.compare("past", base, subject.build(events[stood]), cut, behind_ns=subject.anchor_ns)
        did("whole sessions", 200)
    for cut in known:
        assert subject.known is not None
        told.compare("arrival", base, subject.build(subject.known(cut.at - 1)), cut)
        did("as it was known", 400)
    return Audit(
        what=subject.what,
        session=session.day,
        rows=len(base.as_of) * len(symbols),
        columns=sum(len(names) for names in base.blocks),
        compared=told.compared,
        probes=dict(told.probes),
        places=dict(Counter(cut.place for cut in places)),
        leaks=told.leaks(),
    )


def standing(events: Events, index: int) -> NDArray[np.int64]:
    """The events before `index` that say how every symbol stands there: its last book, its last halt or resumption. Places, rising."""
    found = []
    for bits in (BOOK, HALT | RESUME):
        of_kind = np.flatnonzero(events.kind[:index] & bits)
        _, last = np.unique(events.symbol[of_kind][::-1], return_index=True)
        found.append(of_kind[len(of_kind) - 1 - last])
    return np.unique(np.concatenate(found))


def as_given(what: str, made: Rows, given: Rows, symbols: Sequence[str], session: int) -> Audit:
    """Hold what a run was given of a session to what is made of its events: the same rows, to the bit. A leak's `was` is what was given.

    Whoever normalises, smooths or shifts a panel between the feature store and a fit is seen by no audit of the features.
    """
    told = _Told(what, symbols)
    told.compare("given", given, made, Cut(0, int(made.as_of[0]), "given"), everything=True)
    rows, columns = len(made.as_of) * len(symbols), sum(len(names) for names in made.blocks)
    return Audit(what, session, rows, columns, told.compared, dict(told.probes), {"given": 1}, told.leaks())


def cut_places(events: Events, as_of: NDArray[np.int64], begin: int, end: int, n: int, rng: np.random.Generator) -> list[Cut]:
    """n places to cut a stream at between two times, sorted: its ends, then places drawn where mistakes are made. Fixed by the seed.

    At the two ends the cut lies before what happens at that very nanosecond, at an instant behind it, and where events share a time between
    two of them.
    """
    ts = events.ts

    def by_time(at: int, place: str) -> Cut:
        return Cut(int(np.searchsorted(ts, at, "left")), at, place)

    found: list[Cut] = []
    if n >= FEW:
        found = [by_time(begin, "open"), by_time(int(as_of[0]) + 1, "first"), by_time(end, "close")]
    inside = np.flatnonzero((ts > begin) & (ts < end))
    tied = inside[ts[inside] == ts[np.maximum(inside - 1, 0)]]
    stops = inside[(events.kind[inside] & (HALT | RESUME)) > 0]
    busy = as_of[np.isin(as_of, ts[inside])]

    def before(pool: NDArray, place: str) -> Cut:
        i = int(rng.choice(pool))
        return Cut(i, int(ts[i]), place)

    def behind_an_instant() -> Cut:
        return by_time(int(rng.choice(busy if len(busy) else as_of)) + 1, "instant")

    draws: list[Callable[[], Cut]] = [lambda: by_time(int(rng.integers(begin + 1, end)), "time"), behind_an_instant]
    for pool, place in ((inside, "event"), (tied, "tie"), (stops, "stop")):
        if len(pool):
            draws.append(lambda pool=pool, place=place: before(pool, place))
    k = 0
    while len(found) < n:
        found.append(draws[k % len(draws)]())
        k += 1
    return sorted(found, key=lambda cut: (cut.at, cut.index))


def _spread(places: list[Cut], n: int) -> list[Cut]:
    """n of the places, evenly, the last always."""
    return [places[-1 - i * len(places) // n] for i in reversed(range(min(n, len(places))))]


def _windows(
    folding: Folding,
    base: Rows,
    events: Events,
    places: list[Cut],
    other: OtherFuture,
    rng: np.random.Generator,
    told: _Told,
    did: Callable[[], None],
) -> None:
    """Every probe of every cut, from a memory that is carried from the open: O(events) for all, and a window each."""
    offsets = np.concatenate([[0], np.searchsorted(events.ts, base.as_of, "right")]).astype(np.int64)
    memory = folding.start()
    at = 0
    for cut in places:
        known = int(np.searchsorted(base.as_of, cut.at, "left"))
        begin, end = max(at, known - WINDOW), min(known + TAIL, len(base.as_of))
        if begin > at:
            passed = folding.fold(memory, events[offsets[at] : offsets[begin]], offsets[at : begin + 1] - offsets[at], base.as_of[at:begin])
            told.compare("resume", base[at:begin], passed, Cut(0, int(base.as_of[at]), "restart"), everything=True)
            at = begin
        saved = folding.save(memory)
        first, here = int(offsets[begin]), base[begin:end]

        def again(stream: Events, here: Rows = here, saved: bytes = saved) -> Rows:
            steps = np.concatenate([[0], np.searchsorted(stream.ts, here.as_of, "right")]).astype(np.int64)
            return folding.fold(folding.restore(saved), stream, steps, here.as_of)

        future = events[first : offsets[end]]
        index = min(cut.index - first, len(future))
        stop = int(here.as_of[-1]) if len(here.as_of) else cut.at
        restart = int(here.as_of[0]) if len(here.as_of) else cut.at
        told.compare("resume", here, again(future), Cut(first, restart, "restart"), everything=True)
        told.compare("cut", here, again(future[:index]), cut)
        noisy = other.after(cut.index, cut.at, stop, max(2 * (len(future) - index), 8), rng)
        told.compare("noise", here, again(noisy[first:]), cut)
        did()


class _Told:
    """What the comparisons said, put together by column and symbol."""

    def __init__(self, what: str, symbols: Sequence[str]) -> None:
        self._what = what
        self._symbols = symbols
        self._leaks: dict[tuple[str, str], Leak] = {}
        self.compared = 0
        self.probes: Counter[str] = Counter()

    def leaks(self) -> tuple[Leak, ...]:
        return tuple(sorted(self._leaks.values(), key=lambda leak: (leak.as_of, leak.column, leak.symbol)))

    def reach(self, base: Rows, reach_ns: int) -> None:
        """Every row must say that it reads until as_of + reach."""
        self.probes["reach"] += 1
        self.compared += len(base.as_of)
        wrong = np.flatnonzero(base.known_at != base.as_of + reach_ns)
        if len(wrong):
            t = int(wrong[0])
            as_of = int(base.as_of[t])
            was, due = float(base.known_at[t] - as_of), float(reach_ns)
            self._add("known_at", "", as_of, as_of + reach_ns, was, due, abs(was - due), len(wrong), "reach")

    def compare(self, probe: str, base: Rows, other: Rows, cut: Cut, everything: bool = False, behind_ns: int | None = None) -> None:
        """Rows known before the cut (or all; or those with as_of + behind_ns at or behind it), bit for bit."""
        self.probes[probe] += 1
        if everything:
            mine, theirs = slice(None), slice(None)
        elif behind_ns is not None:
            mine, theirs = (slice(int(np.searchsorted(rows.as_of, cut.at - behind_ns, "left")), None) for rows in (base, other))
        else:
            mine, theirs = _before(base, cut.at), _before(other, cut.at)
        as_of, its = base.as_of[mine], other.as_of[theirs]
        if list(base.blocks) != list(other.blocks):
            raise DataError(
                f"{self._what}: other columns for another stream: {sorted(set(base.blocks) ^ set(other.blocks))[0][:3]}.",
                hint="Expected a builder whose columns do not depend on the data.",
            )
        if not np.array_equal(as_of, its):
            n = min(len(as_of), len(its))
            unequal = np.flatnonzero(as_of[:n] != its[:n])
            t = int(unequal[0]) if len(unequal) else n
            was, became = (float(rows[t]) if t < len(rows) else None for rows in (as_of, its))
            first = int(min(rows[t] for rows in (as_of, its) if t < len(rows)))
            self._add("as_of", "", first, cut.at, was, became, None, max(len(as_of), len(its)) - t, probe)
            return
        for names, values in base.blocks.items():
            a, b = values[mine], other.blocks[names][theirs]
            self.compared += a.size
            if a.shape != b.shape or a.dtype != b.dtype:
                raise DataError(
                    f"{self._what}: {names[0]} is {b.dtype}{list(b.shape)} for another stream, {a.dtype}{list(a.shape)} before.",
                    hint="Expected a builder whose columns do not depend on the data.",
                )
            bits = f"u{a.dtype.itemsize}"
            changed = a.view(bits) != b.view(bits)
            if not changed.any():
                continue
            for s, f in np.argwhere(changed.any(axis=0)):
                where = np.flatnonzero(changed[:, s, f])
                t = int(where[0])
                with np.errstate(invalid="ignore"):
                    change = np.abs(b[where, s, f].astype(np.float64) - a[where, s, f].astype(np.float64))
                finite = change[np.isfinite(change)]
                largest = float(finite.max()) if len(finite) else None
                was, became = float(a[t, s, f]), float(b[t, s, f])
                self._add(names[f], self._symbols[int(s)], int(as_of[t]), cut.at, was, became, largest, len(where), probe)

    def _add(
        self,
        column: str,
        symbol: str,
        as_of: int,
        cut: int,
        was: float | None,
        became: float | None,
        largest: float | None,
        rows: int,
        probe: str,
    ) -> None:
        new = Leak(self._what, column, symbol, as_of, cut, was, became, largest, rows, {probe: 1})
        old = self._leaks.get((column, symbol))
        if old is not None:
            # A row that was made otherwise after a restart has no future that it knew: it is told where nothing else found the column.
            first = min((old, new), key=lambda leak: (leak.probes.keys() == {"resume"}, leak.as_of))
            sizes = [leak.largest for leak in (old, new) if leak.largest is not None]
            new = Leak(
                self._what, column, symbol, first.as_of, first.cut, first.was, first.became, max(sizes, default=None),
                max(old.rows, new.rows), {**old.probes, probe: old.probes.get(probe, 0) + 1},
            )  # fmt: skip
        self._leaks[column, symbol] = new


def _before(rows: Rows, at: int) -> slice | NDArray[np.int64]:
    """Rows that were known before an instant."""
    n = int(np.searchsorted(rows.known_at, at, "left"))
    rising = bool((rows.known_at[1:] >= rows.known_at[:-1]).all())
    return slice(0, n) if rising else np.flatnonzero(rows.known_at < at)


def _refuse_odd(subject: Subject, base: Rows, symbols: int) -> None:
    """A builder's rows must be what Rows says, or a comparison would say nothing."""
    t = len(base.as_of)
    for names, values in base.blocks.items():
        if values.shape != (t, symbols, len(names)) or values.dtype.itemsize not in (1, 2, 4, 8):
            raise DataError(
                f"{subject.what}: {', '.join(names[:3])} are {values.dtype}{list(values.shape)}. "
                f"Expected [{t} instants, {symbols} symbols, {len(names)} columns] of one to eight bytes.",
                hint="Give every column a value for every instant and symbol.",
            )
    if t == 0 or not base.blocks:
        raise DataError(f"{subject.what}: no row to audit.", hint="Expected a session with at least one decision instant.")
    if not (base.as_of[1:] > base.as_of[:-1]).all():
        raise DataError(f"{subject.what}: its instants do not rise.", hint="Expected one row an instant, in the order of time.")
