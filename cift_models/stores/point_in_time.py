"""The features that were known at an instant: rows by when they could be read, versions by when they came to the store.

Two questions are asked of every row. Could it be read at t (`available_at <= t`)? And is it what the store held at t, or what a correction
made of it later (`known_at`)? A backtest that answers the second with the newest version learns from corrections that nobody had.

A history that was recorded or bought is known from when its features were written, years behind the times that it tells of: at those times
nothing was known, and the honest answer is that nothing is found. Who trains on it says so, by asking with the `known_at` of now.

What is answered is what is kept: a version that `cift clean` removed is not among those that were known. The tick store keeps no version
of a partition that was replaced, so features can be had as they were known, and the events under them cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cift_models.errors import InputError, NotStored, UnknownSymbol
from cift_models.features.feature_set import FeatureSet
from cift_models.instruments import Session, Universe
from cift_models.refs import PartitionRef
from cift_models.stores.features import FeatureStore

NO_AGE = -1
"""Age of a row that there is not."""


class PointInTime(NamedTuple):
    """For each of n questions, the last row that could be read, as it was known."""

    found: NDArray[np.bool_]
    """[n]: whether there was a row; where not, all else is 0."""
    x: NDArray[np.float64]
    """[n, F]"""
    as_of: NDArray[np.int64]
    """[n] ns UTC: the instant that the row is of."""
    age_ns: NDArray[np.int64]
    """[n] ns: from that instant until it was asked; NO_AGE where there was no row."""
    valid: NDArray[np.bool_]
    """[n]: whether the row may be used."""
    why: NDArray[np.int8]
    """[n]: why it may not (models.protocol.Why)."""


def version_at(store: FeatureStore, universe: Universe, features: FeatureSet, session: Session, known_at: int) -> PartitionRef:
    """The version of a session's rows that was the newest at `known_at` (ns UTC). What was written later is not seen.

    Raises NotStored where none was known by then, saying when the first one was; what the store raises.
    """
    history = store.known(universe, features, session)
    then = [known for known in history if known.known_at <= known_at]
    if not then:
        said = f"the first was at {history[0].known_at}" if history else "none is stored"
        raise NotStored(
            f"No features of {session.day} were known at {known_at}: {said}.",
            hint="Ask for what is known now, or build them: `cift data-prep`." if history else "Build them: `cift data-prep`.",
            session=session.day,
        )
    return then[-1].ref


def point_in_time(
    store: FeatureStore,
    universe: Universe,
    features: FeatureSet,
    sessions: Sequence[Session],
    symbols: str | Sequence[str],
    at: ArrayLike,
    known_at: ArrayLike | None = None,
) -> PointInTime:
    """For each asked time, the last row with available_at <= at, of the version that was the newest then.

    sessions  those that are looked in, in any order; none may begin before another one ends
    symbols   whose rows: one for all times, or one for each
    at        int64[n] ns UTC, in any order
    known_at  ns UTC, one or int64[n]: take the version that was the newest at this time; None: at the asked time itself

    A row is of use in its own session only: a time is answered by the session with open <= at <= close, the later one where two touch, and
    nothing is found outside of all, before a session's first row, or where no version of the session was known yet.

    Causality: no row is ever seen before its available_at, and nothing of a version before its known_at.
    Cost: a session is opened if one of its times is asked, a version of it if one of the times needs it, and one of them is in memory at a
    time; then O(T + n log T). Of a session's rows none is copied that is not asked for.

    Raises InputError for times that are no integers or of another length than what is asked with them, and for sessions that overlap;
    UnknownSymbol; NotStored for a session that is asked and of which no version is stored at all; what the store raises.
    """
    times = _instants("at", at)
    if times.ndim != 1:
        raise InputError(f"at has shape {list(times.shape)}.", hint="Expected one time a question: int64[n] ns.")
    known = times if known_at is None else _as_many("known_at", _instants("known_at", known_at), len(times))
    columns = _columns(universe, symbols, len(times))
    out = PointInTime(
        found=np.zeros(len(times), np.bool_),
        x=np.zeros((len(times), len(features.names))),
        as_of=np.zeros(len(times), np.int64),
        age_ns=np.full(len(times), NO_AGE, np.int64),
        valid=np.zeros(len(times), np.bool_),
        why=np.zeros(len(times), np.int8),
    )
    for session, asked in _by_session(sessions, times):
        for sha256, mine in _by_version(store, universe, features, session, known, asked):
            rows = store.read(universe, features, session, sha256)
            # The earliest that this row or a later one could be read at: it never falls, and the last one that is not behind t is the last
            # row that could be read at t, though an earlier row may have come later.
            readable = np.minimum.accumulate(rows.available_at[::-1])[::-1]
            row = np.searchsorted(readable, times[mine], "right") - 1
            mine, row = mine[row >= 0], row[row >= 0]
            column = columns[mine]
            out.found[mine] = True
            out.x[mine] = rows.x[row, column]
            out.as_of[mine] = rows.as_of[row]
            out.age_ns[mine] = times[mine] - rows.as_of[row]
            out.valid[mine] = rows.valid[row, column]
            out.why[mine] = rows.why[row, column]
    return out


def _by_session(sessions: Sequence[Session], times: NDArray[np.int64]) -> Iterator[tuple[Session, NDArray[np.intp]]]:
    """The sessions in which a time lies, and which times those are."""
    ordered = sorted(sessions, key=lambda session: session.open)
    for before, after in zip(ordered, ordered[1:], strict=False):
        if after.open < before.close or after.open == before.open:
            raise InputError(
                f"The session {after.day} begins at {after.open}, before {before.day} ends at {before.close}.",
                hint="Expected sessions of one store, each once.",
            )
    if not ordered:
        return
    place = np.searchsorted(np.array([session.open for session in ordered]), times, "right") - 1
    inside = (place >= 0) & (times <= np.array([session.close for session in ordered])[place])
    for i in np.unique(place[inside]):
        yield ordered[i], np.flatnonzero(inside & (place == i))


def _by_version(
    store: FeatureStore, universe: Universe, features: FeatureSet, session: Session, known: NDArray[np.int64], asked: NDArray[np.intp]
) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """The versions that are needed, each once, and which of the asked times need it."""
    history = store.known(universe, features, session)
    if not history and not store.versions(universe, features, session):
        raise NotStored(f"No features of {session.day} are stored.", hint="Build them: `cift data-prep`.", session=session.day)
    place = np.searchsorted(np.array([one.known_at for one in history], np.int64), known[asked], "right") - 1
    versions = [one.ref.sha256 for one in history]
    for sha256 in dict.fromkeys(versions):
        # One that came back after another was the newest more than once.
        mine = asked[np.isin(place, [i for i, version in enumerate(versions) if version == sha256])]
        if len(mine):
            yield sha256, mine


def _instants(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and not np.can_cast(array.dtype, np.int64):
        raise InputError(f"{name} is {array.dtype}.", hint="Expected int64 ns UTC: a float cannot hold a nanosecond of today.")
    return array.astype(np.int64, copy=False)


def _as_many(name: str, values: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    if values.ndim and values.shape != (n,):
        raise InputError(f"{name} has shape {list(values.shape)}, and {n} times are asked.", hint="Expected one for all, or one for each.")
    return np.broadcast_to(values, n)


def _columns(universe: Universe, symbols: str | Sequence[str], n: int) -> NDArray[np.intp]:
    """Where the symbol of each question stands in the universe."""
    each = [symbols] if isinstance(symbols, str) else list(symbols)
    places = {symbol: i for i, symbol in enumerate(universe.symbols)}
    for symbol in each:
        if symbol not in places:
            raise UnknownSymbol(f"The universe does not know {symbol!r}.", hint=f"It knows {', '.join(universe.symbols)}.")
    if not isinstance(symbols, str) and len(each) != n:
        raise InputError(f"{len(each)} symbols are given, and {n} times are asked.", hint="Expected one for all, or one for each.")
    return np.broadcast_to(np.array([places[symbol] for symbol in each], np.intp), n)
