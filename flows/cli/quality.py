"""`cift quality`"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import Json

if TYPE_CHECKING:
    from cift_models.feeds.quality_summary import Summary

Symbol = Annotated[str | None, typer.Argument(help="A stored symbol; without it every one.", show_default=False)]
Day = Annotated[str | None, typer.Argument(help="One of its days: 2012-06-21; without it every one.", show_default=False)]


def quality(symbol: Symbol = None, day: Day = None, json: Json = False) -> None:
    """Show how sound the stored data are.

    Without arguments, or with a symbol: a line for each stored day. With a symbol and a day: everything about that day, by table and by
    reason, and where its picture lies.

    In quarantine are rows that no model sees: duplicate, off_session, out_of_order, non_positive, crossed, and what the feed itself could
    not use (no_snapshot, suspicious). They are kept, with the reason; locked books and a receive clock that runs behind are told, and kept
    in use. A gap is a stretch in which messages are missing; features and labels stop there.

    Reports and pictures lie below the home, in quality/SYMBOL/DAY.json and .svg, and are made again when the data change.

    Example: cift quality AAPL 2012-06-21
    """
    from cift_models.errors import NotStored
    from cift_models.settings import get_settings
    from cift_models.stores.ticks import open_ticks
    from flows.cli.options import day as date_of
    from flows.cli.stored import ticks_place
    from tasks.quality import examine, report_path, stored_days

    settings = get_settings()
    asked = int(f"{date_of(day, 'DAY'):%Y%m%d}") if day else None
    ticks = open_ticks(settings)
    found = stored_days(ticks, symbol, asked)
    if not found:
        raise NotStored(f"Nothing is stored {ticks_place(settings)}.", hint="Begin with `cift seed`, or `cift ingest lobster FILE...`.")
    reports = (examine(ticks, *which, refs) for which, refs in found.items())
    if asked is not None:
        (report,) = reports
        path = report_path(report["symbol"], report["day"])
        if json:
            _print_bytes(path.read_bytes())
        else:
            _show(report)
            print(f"{'Picture':<12}{path.with_suffix('.svg')}\n{'Report':<12}{path}")
        return
    _list(reports, json, max(6, *(len(name) for name, _ in found)))


def _list(reports: Iterable[dict[str, Any]], json: bool, width: int) -> None:
    """One line a symbol and day, each as soon as it is known."""
    from cift_models.feeds.quality_summary import summarise_report

    if json:
        import orjson

        _print_bytes(orjson.dumps([summarise_report(report)._asdict() for report in reports], option=orjson.OPT_INDENT_2) + b"\n")
        return
    print(f"{'symbol':<{width}} {'day':<10} {'rows':>12} {'quarantined':>12} {'gaps':>5} {'missing':>10}  clock of receipt")
    for report in reports:
        print(_line(summarise_report(report), width), flush=True)


def _line(one: Summary, width: int) -> str:
    from cift_models.feeds.quality_summary import clock_in_words, in_words
    from flows.cli.stored import iso

    apart = sum(n for reasons in one.quarantined.values() for n in reasons.values())
    missing = f"{one.gap_s:,.1f} s" if one.gaps else "-"
    said = clock_in_words(one.clock_ms, one.behind) + (f"; in quarantine {in_words(one.quarantined)}" if apart else "")
    return f"{one.symbol:<{width}} {iso(one.day).isoformat()} {one.rows:>12,} {apart:>12,} {one.gaps:>5,} {missing:>10}  {said}"


def _show(report: dict[str, Any]) -> None:
    """The report as a person reads it; times of day in the venue's zone."""
    from flows.cli.stored import iso

    zone = report["hours"]["zone"]

    def at(ns: int | None) -> str:
        return _time(ns, zone, report["day"])

    hours = ", ".join(f"{at(begin)} to {at(end)}" for begin, end in report["hours"]["stretches"])
    print(f"{report['symbol']} {iso(report['day']).isoformat()}, {hours} ({zone})")
    for note in report["notes"]:
        print(f"  {note}")
    print()
    print(f"{'Table':<12}{'rows':>12}{'quarantined':>13}{'a minute':>10}{'busiest':>10}{'ties':>8}{'late':>8}  {'first':<19}last")
    for name, one in report["tables"].items():
        rate = "".join(f"{_number((one['per_minute'] or {}).get(what)):>10}" for what in ("mean", "max"))
        shares = f"{_percent(one['ties']):>8}{_percent(one['late']):>8}"
        apart = sum(one["quarantined"].values())
        print(f"{name:<12}{one['rows']:>12,}{apart:>13,}{rate}{shares}  {at(one['first']):<19}{at(one['last'])}")
    _section(
        "Quarantine", [f"{q['table']}: {q['rows']:,} {q['reason']}, {at(q['first'])} to {at(q['last'])}" for q in report["quarantine"]]
    )
    gaps, silent = report["gaps"], report["silences"]
    _section("Gaps", [f"{g['kind']}: {at(g['from'])} to {at(g['to'])}, {g['seconds']:,.3f} s" for g in gaps["longest"][:10]])
    if len(gaps["longest"]) > 10:
        print(f"{'':<12}... {sum(gaps['kinds'].values()):,} in all")
    long = [s for s in silent["longest"] if s["seconds"] > silent["over_s"]]
    _section(
        "Silences",
        [f"{at(s['from'])} to {at(s['to'])}, {s['seconds']:,.1f} s" for s in long]
        or [f"none of more than {silent['over_s']:g} s; the longest lasts {silent['longest_s']:,.1f} s"],
    )
    for name, one in report["spread"].items():
        if not one["rows"]:
            _section("Spread", [f"{name}: no row with both sides"])
            continue
        _section("Spread", [f"{name}, {unit}: {_statistics(one[unit])}" for unit in ("ticks", "bps")])
        odd = (("locked", "locked (kept)"), ("crossed", "crossed (in quarantine)"), ("one_sided", "with one side only"))
        print(f"{'':<12}{', '.join(f'{one[key]:,} {said}' for key, said in odd)}")
    clock = report["clock"]
    _section("Clock", [_clock(name, one) for name, one in clock["tables"].items()] if clock else ["the feed has one time only"])
    if report["trades"]:
        _section("Trades", [_trades(report["trades"])])
    _section(
        "Sources",
        [
            f"{s.get('feed', '?')} {s.get('file', '')}, sha256 {s.get('sha256', '')[:12] or 'none'}: {', '.join(s['tables'])}"
            for s in report["sources"]
        ],
    )


def _section(title: str, lines: list[str]) -> None:
    for i, line in enumerate(lines or ["none"]):
        print(f"{'' if i else title:<12}{line}")


def _statistics(one: dict[str, float | None]) -> str:
    return ", ".join(
        f"{name} {_number(one[key])}" for name, key in (("median", "median"), ("95 %", "p95"), ("max", "max"), ("mean over time", "mean"))
    )


def _clock(name: str, one: dict[str, Any]) -> str:
    from cift_models.feeds.quality_summary import counted

    without = f"; {counted(one['without_exchange_time'], 'row')} without exchange time" if one["without_exchange_time"] else ""
    if not one["rows"]:
        return f"{name}: ts_recv only"
    figures = ", ".join(
        f"{said} {one[key]:,.3f}" for said, key in (("median", "median_ms"), ("99 %", "p99_ms"), ("min", "min_ms"), ("max", "max_ms"))
    )
    return f"{name}: ts_recv - ts_event in ms: {figures}; {one['behind']:.2%} below 0{without}"


def _trades(one: dict[str, Any]) -> str:
    sides = ", ".join(f"{name} {one[name]['volume']:,.10g}" for name in ("buy", "sell", "unknown", "hidden") if one[name]["rows"])
    prices = f", {one['low']:,.10g} to {one['high']:,.10g}, vwap {one['vwap']:,.10g}" if one["rows"] else ""
    return f"{one['rows']:,}, {one['volume']:,.10g} {one['unit']}" + (f" ({sides}){prices}" if one["rows"] else "")


def _time(ns: int | None, zone: str, day: int) -> str:
    """Time of day to the millisecond; with the date where it is another day's."""
    from datetime import UTC, datetime, timedelta
    from zoneinfo import ZoneInfo

    if ns is None:
        return "-"
    moment = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)).astimezone(ZoneInfo(zone))
    text = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"
    return text if int(f"{moment:%Y%m%d}") == day else f"{moment:%m-%d} {text}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _print_bytes(data: bytes) -> None:
    import sys

    sys.stdout.buffer.write(data)
    sys.stdout.flush()
