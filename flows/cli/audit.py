"""`cift audit`"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.cli.options import End, Json, Start, Symbols

SHOWN = 20
"""Leaks that are listed in words; one wrong line in a kernel changes a hundred columns at once."""


def audit(
    symbols: Symbols,
    start: Start,
    end: End,
    cuts: Annotated[int, typer.Option(min=1, help="Places at which each session is cut.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the places and of the noise; the same seed asks the same.")] = 0,
    release: Annotated[
        str | None, typer.Option(help="Audit the models of this release too: champion, challenger, or its first digits.")
    ] = None,
    json: Json = False,
) -> None:
    """Show that no feature, label or model knows its future.

    Each session is computed as it was recorded, then again with its future taken away or replaced, and every row from before the cut must
    be the same to the last bit. Needs ingested data, nothing else: features and labels are computed here, not read.

    The probes: cut (the stream ends there), noise (it goes on with other prices, sizes, sides, kinds and times), resume (it is stopped, and
    goes on from its memory in bytes), arrival (only what had been received by then: a late correction may not change what was known before
    it), reach (a label reads until latency + horizon and no further). Cuts lie at instants, at ties, before halts and gaps, at the open, at
    the close, and at random.

    With --release, all symbols of the release are audited, and what its models, their probabilities and the signal say.

    Exit 0 where it is clean, 1 where something leaks: then the column, the symbol, the first instant that changed and by how much.

    Example: cift audit --symbols AAPL,AMZN --start 2012-06-21 --end 2012-06-21

    Example: cift audit --symbols AAPL --start 2012-06-21 --end 2012-06-21 --release challenger --json
    """
    from cift_models.errors import InputError
    from flows.cli.options import day, split
    from flows.cli.terminal import showing
    from tasks.audit import audit_range

    chosen = list(dict.fromkeys(split(symbols)))
    if not chosen:
        raise InputError("--symbols names no symbol.", hint="Expected symbols with commas between: AAPL,AMZN,GOOG.")
    first, last = day(start, "--start"), day(end, "--end")
    reports: list[dict[str, Any]] = []
    with showing(f"Auditing {', '.join(chosen)}, {first} .. {last}"):
        for report in audit_range(chosen, first, last, cuts, seed, release):
            reports.append(report)
            if not json:
                _show(report)
    clean = all(report["clean"] for report in reports)
    if json:
        import orjson

        whole = {"clean": clean, "cuts": cuts, "seed": seed, "release": release, "sessions": reports}
        print(orjson.dumps(whole, option=orjson.OPT_INDENT_2).decode())
    else:
        print(f"Clean: nothing knows its future in {_counted(len(reports), 'session')}." if clean else "Not clean: see the leaks above.")
    if not clean:
        raise typer.Exit(1)


def _show(report: dict[str, Any]) -> None:
    """One session: a line a subject, and its leaks."""
    from flows.cli.stored import iso

    print(f"{iso(report['day']).isoformat()} {', '.join(report['symbols'])}: {report['events']:,} events")
    for one in report["audits"]:
        probes = ", ".join(f"{n} {name}" for name, n in one["probes"].items())
        verdict = "clean" if not one["leaks"] else _counted(len(one["leaks"]), "column") + " not"
        print(
            f"  {one['what']:<20} {one['rows']:>9,} rows of {one['columns']:>3} columns, {one['compared']:>13,} values compared "
            f"({probes}): {verdict}"
        )
        for leak in one["leaks"][:SHOWN]:
            print("\n".join(f"    {line}" for line in in_words(leak)))
        if len(one["leaks"]) > SHOWN:
            print(f"    ... and {len(one['leaks']) - SHOWN} more columns; --json lists all.")


def in_words(leak: dict[str, Any]) -> list[str]:
    """A leak as a person reads it, two lines."""
    who = f"{leak['column']} of {leak['symbol']}" if leak["symbol"] else leak["column"]
    change = "" if leak["largest"] is None else f", by {leak['largest']:.6g} at most"
    found = ", ".join(f"{name} ({n})" for name, n in leak["probes"].items())
    values = f"{_value(leak['was'])} with its future, {_value(leak['became'])} without"
    cause = f"what came from {_at(leak['cut'])} on was another"
    if leak["probes"].keys() == {"resume"}:
        values = f"{_value(leak['was'])} in one pass, {_value(leak['became'])} after a restart"
        cause = f"made again from {_at(leak['cut'])} on, out of a saved memory"
    elif leak["probes"].keys() == {"reach"}:
        values = f"it reads {leak['was']:,.0f} ns ahead, {leak['became']:,.0f} ns were said"
        cause = "nothing was changed"
    elif leak["probes"].keys() == {"past"}:
        values = f"{_value(leak['was'])} with all of its past, {_value(leak['became'])} with the state alone that it left"
        cause = f"of what came before {_at(leak['cut'])} only the books and halts stood"
    return [
        f"{who} differs first at {_at(leak['as_of'])}: {values}",
        f"  {cause}; found by {found} in {_counted(leak['rows'], 'row')}{change}",
    ]


def _at(ns: int) -> str:
    """An instant in UTC, to the nanosecond."""
    from datetime import UTC, datetime

    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09d}Z"


def _value(value: float | None) -> str:
    return "no row" if value is None else f"{value!r}"


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
