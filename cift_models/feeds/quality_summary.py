"""The quality of some rows in one line, and of a day in a few sentences: what a person should know before using them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.feeds.day import FeedDay
from cift_models.feeds.quality import Checked
from cift_models.feeds.quality_time import seconds, stops

MS = 1_000_000
"""One millisecond in nanoseconds."""
QUOTED = {"book": ("bid_px_00", "ask_px_00"), "quotes": ("bid_px", "ask_px")}
"""Tables that hold a spread, and where."""


class Summary(NamedTuple):
    """The quality of some rows in one line (`str`).

    quarantined  rows kept apart, by table and reason
    gaps, gap_s  stretches in which messages are missing, and how long they are together; halts of the venue are not among them
    locked       rows of book and quotes with bid = ask, which are kept
    clock_ms     median of ts_recv - ts_event; None for a feed that has one time only
    behind       share of rows that were received before they were sent
    """

    symbol: str
    day: int
    rows: int
    quarantined: dict[str, dict[str, int]]
    gaps: int
    gap_s: float
    halts: int
    locked: int
    clock_ms: float | None
    behind: float | None

    def __str__(self) -> str:
        apart = sum(n for reasons in self.quarantined.values() for n in reasons.values())
        why = f"{apart:,} in quarantine ({in_words(self.quarantined)})" if apart else "none in quarantine"
        parts = [f"{counted(self.rows, 'row')}, {why}", f"{counted(self.gaps, 'gap')} ({self.gap_s:,.1f} s)" if self.gaps else "no gap"]
        parts += [counted(self.halts, "halt")] * (self.halts > 0) + [f"{self.locked:,} locked"] * (self.locked > 0)
        return "; ".join([*parts, clock_in_words(self.clock_ms, self.behind)])


def summarise(day: FeedDay, checked: Mapping[str, Checked]) -> Summary:
    """What ingest says of one file's rows of one symbol and day, from what quality made of them. O(rows)."""
    rows = {name: one.rows for name, one in checked.items()}
    every = [delays(rows[name]["ts_event"].to_numpy(), rows[name]["ts_recv"].to_numpy()) for name in rows if is_message(name)]
    clock = clock_facts(np.concatenate(every)) if every else None
    stopped = stops(rows["status"], day.session.close) if "status" in rows else []
    gaps = [gap for gap in stopped if gap.kind != "halt"]
    return Summary(
        day.instrument.symbol,
        day.session.day,
        sum(map(len, rows.values())),
        {name: dict(one.counts) for name, one in sorted(checked.items()) if one.counts},
        len(gaps),
        seconds(sum(gap.end - gap.start for gap in gaps)),
        len(stopped) - len(gaps),
        sum(int((rows[name][bid] == rows[name][ask]).sum()) for name, (bid, ask) in QUOTED.items() if name in rows),
        clock["median_ms"] if clock else None,
        clock["behind"] if clock else None,
    )


def summarise_report(report: Mapping[str, Any]) -> Summary:
    """The same line of a whole day, from quality_report.report."""
    clock = (report["clock"] or {}).get("all")
    kinds = report["gaps"]["kinds"]
    return Summary(
        report["symbol"],
        report["day"],
        report["rows"],
        {name: table["quarantined"] for name, table in report["tables"].items() if table["quarantined"]},
        sum(n for kind, n in kinds.items() if kind != "halt"),
        report["gaps"]["missing_s"],
        kinds.get("halt", 0),
        sum(one["locked"] for one in report["spread"].values()),
        clock["median_ms"] if clock else None,
        clock["behind"] if clock else None,
    )


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a person should know before using a day, in sentences."""
    out = []
    quarantined = {name: t["quarantined"] for name, t in report["tables"].items() if t["quarantined"]}
    if quarantined:
        out.append(f"In quarantine: {in_words(quarantined)}.")
    gaps, silent = report["gaps"], report["silences"]
    if gaps["kinds"]:
        kinds = ", ".join(
            counted(n, {"feed": "gap of the feed", "hole": "hole between files", "halt": "halt"}[k]) for k, n in gaps["kinds"].items()
        )
        out.append(f"{kinds}: {gaps['seconds']:,.1f} s together.")
    if silent["count"]:
        out.append(
            f"{counted(silent['count'], 'silence')} of more than {silent['over_s']:g} s; the longest lasts {silent['longest_s']:,.1f} s."
        )
    clock = (report["clock"] or {}).get("all")
    if clock and clock["median_ms"] < 0:
        out.append(f"The receive clock runs {span(-clock['median_ms'])} behind the exchange's: kept, never repaired.")
    elif clock and clock["behind"]:
        out.append(f"{clock['behind']:.3%} of rows were received before they were sent, by up to {span(-clock['min_ms'])}: kept.")
    for name, spread in report["spread"].items():
        if spread["locked"]:
            out.append(f"{counted(spread['locked'], 'row')} of {name} locked (bid = ask): kept.")
        if spread["one_sided"]:
            out.append(
                f"{counted(spread['one_sided'], 'row')} of {name} with one side only, {spread['one_sided_time'] or 0:.2%} of the time."
            )
    return out + [f"No row of {name} may be used." for name in ("book", "trades") if not report["tables"].get(name, {"rows": 1})["rows"]]


def is_message(table: str) -> bool:
    """Whether a table's rows are messages of the feed, each with times of its own: all but the state that a book was left in."""
    return table != "book_state"


def delays(event: NDArray[np.int64], recv: NDArray[np.int64]) -> NDArray[np.int64]:
    """ts_recv - ts_event in ns where they differ: a message without an exchange time carries the receive time twice."""
    delay = recv - event
    return delay[delay != 0]


def clock_facts(delay: NDArray[np.int64]) -> dict[str, Any] | None:
    """Statistics of some delays (ns) in milliseconds, and the share of them below zero; None where there are none."""
    if not len(delay):
        return None
    median, p99 = np.quantile(delay, (0.5, 0.99), method="inverted_cdf")
    found = {"min_ms": delay.min(), "median_ms": median, "p99_ms": p99, "max_ms": delay.max()}
    return {
        "rows": len(delay),
        **{name: round(float(ns) / MS, 6) for name, ns in found.items()},
        "behind": round(float((delay < 0).mean()), 6),
    }


def in_words(quarantined: Mapping[str, Mapping[str, int]]) -> str:
    """Rows kept apart, by table and reason, the most frequent first."""
    return "; ".join(
        f"{table}: {', '.join(f'{n:,} {reason}' for reason, n in sorted(reasons.items(), key=lambda item: (-item[1], item[0])))}"
        for table, reasons in quarantined.items()
    )


def clock_in_words(clock_ms: float | None, behind: float | None) -> str:
    """What the receive clock does. The delay is kept as it is, never repaired."""
    if clock_ms is None:
        return "no receive clock"
    if clock_ms < 0:
        return f"receive clock {span(-clock_ms)} behind the exchange's"
    return f"received {span(clock_ms)} after it was sent" + (f", {behind:.2%} before" if behind else "")


def counted(n: int, what: str) -> str:
    """`1 gap of the feed`, `2 gaps of the feed`."""
    noun, _, rest = what.partition(" ")
    return f"{n:,} {noun}{'' if n == 1 else 's'}{f' {rest}' if rest else ''}"


def span(ms: float) -> str:
    """A duration in the unit that a person would choose."""
    return f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms:.3g} ms"
