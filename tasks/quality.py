"""The quality report of a symbol and day out of the tick store, and where it lies: $CIFT_HOME/quality/<symbol>/<yyyymmdd>.{json,svg}."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from cift_models.errors import EmptyRange
from cift_models.feeds import quality_report
from cift_models.feeds.quality_plot import draw
from cift_models.feeds.quality_report import StoredTable, report
from cift_models.files import canonical_json, digest, sha256_file, write_atomic
from cift_models.refs import PartitionRef
from cift_models.schema import TICK_TABLES
from cift_models.settings import get_settings
from cift_models.stores.lake import folder_name
from cift_models.stores.ticks import Key, TickStore


def stored_days(ticks: TickStore, symbol: str | None = None, day: int | None = None) -> dict[tuple[str, int], list[PartitionRef]]:
    """What is stored of each symbol and day (yyyymmdd), sorted. Raises UnknownSymbol, and EmptyRange for a symbol without that day."""
    found: dict[tuple[str, int], list[PartitionRef]] = {}
    for table in TICK_TABLES:
        try:
            refs = ticks.partitions(table, [symbol] if symbol else None)
        except EmptyRange:
            continue
        for ref in refs:
            key = Key.of(ref.key)
            found.setdefault((key.symbol, key.day), []).append(ref)
    if day is None:
        return dict(sorted(found.items()))
    if (symbol, day) not in found:
        days = [str(d) for _, d in sorted(found)]
        more = f", ... {days[-1]} ({len(days)})" if len(days) > 8 else ""
        raise EmptyRange(
            f"Nothing of {symbol} is stored on {day}; stored days: {', '.join(days[:8])}{more}.",
            hint="Ask for one of them, or ingest that day first.",
        )
    return {(symbol, day): found[symbol, day]}  # type: ignore[dict-item]


def examine(ticks: TickStore, symbol: str, day: int, refs: list[PartitionRef]) -> dict[str, Any]:
    """The report on what `refs` hold: the one on disk if it is of these partitions and this code, otherwise made, drawn and written.

    Raises what the tick store raises for a partition that is damaged or was replaced meanwhile.
    """
    path = report_path(symbol, day)
    made_of = {"code": _code(), "partitions": [{"key": r.key, "sha256": r.sha256} for r in sorted(refs, key=lambda r: r.key)]}
    old = _read(path)
    if old is not None and path.with_suffix(".svg").is_file() and {name: old.get(name) for name in made_of} == made_of:
        return old
    facts = report(symbol, day, _tables(ticks, refs)) | {"code": made_of["code"]}
    write_atomic(path.with_suffix(".svg"), draw(facts).encode())
    write_atomic(path, canonical_json(facts))
    # As a reader of the file gets it: the same whether it was made now or before.
    return orjson.loads(canonical_json(facts))


def report_path(symbol: str, day: int) -> Path:
    """Where the report lies; the picture lies beside it, as .svg."""
    return get_settings().home / "quality" / folder_name(symbol) / f"{day:08d}.json"


@cache
def _code() -> str:
    """Digest of the code that makes a report of rows: the rest of the code decides what is stored, and that is in the references."""
    return digest({path.name: sha256_file(path) for path in sorted(Path(quality_report.__file__).parent.glob("quality_*.py"))})


def _tables(ticks: TickStore, refs: list[PartitionRef]) -> Iterator[StoredTable]:
    """One partition at a time: memory is bounded by the largest."""
    for ref in refs:
        yield StoredTable(ref, ticks.facts(ref), ticks.read(ref), ticks.quarantined(ref))


def _read(path: Path) -> dict[str, Any] | None:
    """A report that was written before; a damaged one is made again."""
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None
