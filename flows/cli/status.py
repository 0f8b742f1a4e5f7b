"""`cift status`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from cift_models.evaluation.card import Card
    from cift_models.settings import Settings

SHOWN = 5
"""Runs and releases that are listed; --json lists all."""


def status(json: Json = False) -> None:
    """Show what is stored, what ran and what is served.

    And what the last run found. Of a run the verdict that it ended with, of a release its last one (`cift gate` may have judged it again).
    Nothing is computed; only stores on a server need their server.

    Example: cift status --json
    """
    found = look()
    if json:
        import orjson

        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    print(f"Home        {found['home']}")
    _say("Stored", [f"{one['symbol']}: {_days(one)}, {one['rows']:,} rows of {one['table']}" for one in found["stored"]])
    _say("Runs", [_run(run) for run in found["runs"][-SHOWN:]], len(found["runs"]))
    _say("Releases", [_release(one, found) for one in found["releases"][-SHOWN:]], len(found["releases"]))
    champion = found["champion"]
    _say(
        "Champion",
        [f"{champion['release'][:12]} since {champion['since']} ({_age(champion['age_s'])}): {champion['note']}"] if champion else [],
    )
    _say("Challenger", [found["challenger"][:12]] if found["challenger"] else [])
    _say("Last run", [f"{line['symbol']}: {line['text']}" for line in found["verdicts"]])
    alarms = found["alarms"]
    _say("Alarms", ["silent"] if alarms == [] else [f"{a['symbol']} {a['model']}: {a['text']}" for a in alarms or []])


def look() -> dict[str, Any]:
    """Everything that `cift status` shows, as JSON values."""
    import time
    from datetime import UTC, datetime

    import orjson

    from cift_models.evaluation.report import verdicts
    from cift_models.settings import get_settings
    from cift_models.stores.releases import SERVED, Releases
    from tasks.runs import all_runs, read_card

    settings = get_settings()
    home = settings.home
    releases = Releases(home)
    served = releases.served()
    champion = None
    if served:
        moved = (home / SERVED).stat().st_mtime
        champion = {
            "release": served.release,
            "sequence": served.sequence,
            "note": served.history[-1].note,
            "since": datetime.fromtimestamp(moved, UTC).isoformat(timespec="seconds"),
            "age_s": round(time.time() - moved, 1),
            "history": [move.model_dump() for move in served.history],
        }
    runs: list[dict[str, Any]] = [
        run.model_dump(mode="json") | {"verdict": _verdict(read_card, run.gated) if run.gated else None} for run in all_runs()
    ]
    metrics = None
    if runs and (path := home / runs[-1]["judged"] / "metrics.json").is_file():
        metrics = orjson.loads(path.read_bytes())
    return {
        "home": str(home),
        "stored": _stored(settings),
        "runs": runs,
        "releases": [
            {
                "release": ref.sha256,
                "written": datetime.fromtimestamp((home / ref.key).stat().st_mtime, UTC).isoformat(timespec="seconds"),
                "verdict": _verdict(releases.verdict, ref.sha256),
            }
            for ref in releases.all()
        ],
        "champion": champion,
        "challenger": releases.challenger(),
        "verdicts": [{"symbol": v.symbol, "tone": v.tone, "text": v.text} for v in verdicts(metrics)] if metrics else [],
        "alarms": metrics["alarms"] if metrics else None,
    }


def _stored(settings: Settings) -> list[dict[str, Any]]:
    """Symbols with the days of their book, or of their trades where they have none; the manifests alone are read."""
    from cift_models.errors import InputError
    from cift_models.stores.ticks import open_ticks

    ticks = open_ticks(settings)
    found = []
    for symbol in ticks.instruments():
        for table in ("book", "trades"):
            try:
                refs = ticks.partitions(table, [symbol])
            except InputError:
                continue
            days = sorted({int(ref.key.split("/")[3]) for ref in refs})
            feed = ticks.facts(refs[-1])["source"].get("feed")
            rows = sum(ref.rows for ref in refs)
            found.append(
                {"symbol": symbol, "first": days[0], "last": days[-1], "sessions": len(days), "rows": rows, "table": table, "feed": feed}
            )
            break
    return found


def _verdict(read: Callable[[str], Card | None], name: str) -> dict[str, str] | None:
    """A card in short; None where nobody has judged, or the card is gone. A card that cannot be read says so and hides nothing else."""
    from cift_models.errors import StoreError

    try:
        card = read(name)
    except StoreError as error:
        return {"verdict": "unreadable", "reason": error.message}
    return {"verdict": card.verdict, "reason": card.first_reason} if card else None


def _say(title: str, lines: list[str], total: int = 0) -> None:
    from flows.cli.terminal import say

    more = f" (the last {len(lines)} of {total})" if total > len(lines) else ""
    for i, line in enumerate(lines or ["none"]):
        one, *below = line.split("\n")
        say(f"{one}{'' if i else more}", 14, f"{'' if i else title:<11} ")
        for said in below:
            say(said.lstrip(), 16, " " * (len(said) - len(said.lstrip())))


def _days(one: dict[str, Any]) -> str:
    text = f"{one['first']}" if one["first"] == one["last"] else f"{one['first']} .. {one['last']}"
    return f"{text} ({one['sessions']} day{'' if one['sessions'] == 1 else 's'}, {one['feed'] or 'unknown feed'})"


def _run(run: dict[str, Any]) -> str:
    days = str(run["days"][0]) if len(run["days"]) == 1 else f"{run['days'][0]} .. {run['days'][-1]}"
    what = f"{run['number']} {run['flow']}: {', '.join(run['symbols'])}, {days}, finished {run['finished']}, release {run['release'][:12]}"
    return what + _judged(run)


def _release(one: dict[str, Any], found: dict[str, Any]) -> str:
    champion = found["champion"]["release"] if found["champion"] else None
    roles = [name for name, of in (("champion", champion), ("challenger", found["challenger"])) if of == one["release"]]
    return f"{one['release'][:12]} written {one['written']}{f' ({chr(44).join(roles)})' if roles else ''}{_judged(one)}"


def _judged(one: dict[str, Any]) -> str:
    """What the gate said, on a line of its own."""
    said = one["verdict"]
    return f"\n{'':<13} {said['verdict']}: {said['reason']}" if said else f"\n{'':<13} no verdict"


def _age(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {unit}{'s' if n > 1 else ''}"
    return f"{int(seconds)} s"
