"""SQL over the Parquet lake: ClickHouse's engine in this process (chDB), which reads the lake's partitions and nothing else.

The engine never is a store: it sees links to the data files of whole partitions, in a folder of their own that goes when the question is
answered, and what a path says (symbol, day, scales) as columns, so that a query by symbol or day opens the files of those alone. Bytes are
not verified against the manifests' digests here; reading through the stores does that.
"""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cift_models.errors import InputError, StoreError
from cift_models.events import EMPTY_ASK, EMPTY_BID
from cift_models.instruments import Instrument
from cift_models.schema import BOOK, CLICKHOUSE, FEATURES, INSTRUMENTS, OUTPUTS, PREDICTIONS, TABLES, TICK_TABLES, Column, Table
from cift_models.stores import lake, packed_book
from cift_models.stores.clickhouse_server import literal, quoted
from cift_models.stores.ticks import ParquetPartitions

Form = Literal["table", "json", "csv"]
FORMATS: dict[Form, str] = {"table": "PrettyCompactMonoBlock", "json": "JSONEachRow", "csv": "CSV"}
"""What the engine calls the forms of an answer."""
TABLE_ROWS = 1_000
"""Rows that a table on the screen shows at most; the other forms give all."""

_FRAME = 2
"""Lines of a table that are no rows."""

DAY = Column("day", "int32", "yyyymmdd", "date of the session, as its venue writes it")
_SCALES = tuple(c for c in INSTRUMENTS.columns if c.name in ("price_scale", "tick_units", "lot_scale"))
_SYMBOL = INSTRUMENTS.columns[0]
_UNIVERSE = Column("universe", "str", "", "which symbols were built together: first 16 digits of the universe's digest")
_SET = Column("feature_set", "str", "", "which columns, windows and clock: first 16 digits of the feature set's digest")
_RUN = Column("run", "str", "", "what wrote the rows: a release and a session for `cift predict`")

ROOTS = ("SelectWithUnionQuery", "SelectIntersectExceptQuery", "DescribeQuery", "Show", "Explain")
"""What a statement may be, by how the engine's own parser calls it."""
FROM = {"numbers", "zeros", "generate_series", "generateSeries", "values", "view"}
"""What may stand behind FROM besides tables: what reads nothing."""
NEVER = re.compile(r"^(file|catboostEvaluate|hasColumnInTable|ai[A-Z]\w*)$", re.IGNORECASE)
"""Functions that read a file or ask another machine."""
_PARSE = "EXPLAIN AST "
"""Asks the engine's parser what a statement is, without running it."""
_HINT = (
    "`cift sql` runs one SELECT, WITH, DESCRIBE, SHOW or EXPLAIN over the tables that `cift sql --tables` lists, and touches nothing else."
)


class Part(NamedTuple):
    """One partition's data file, what its path says of every row, its number of rows, and whether it is a packed book."""

    data: Path
    path: tuple[str | int, ...]
    rows: int
    packed: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """A table as SQL sees it: columns of the path, then the table's own, then the scales of the path.

    absent   columns that some files lack: null there
    skipped  partitions that were written by another version of the table
    rows     the rows themselves, where they come from manifests and not from files
    """

    table: Table
    before: tuple[Column, ...] = ()
    after: tuple[Column, ...] = ()
    absent: frozenset[str] = frozenset()
    parts: tuple[Part, ...] = ()
    skipped: int = 0
    rows: tuple[tuple[Any, ...], ...] = ()

    @property
    def n_rows(self) -> int:
        return len(self.rows) + sum(part.rows for part in self.parts)

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.before + self.table.columns + self.after

    def sql_type(self, column: Column) -> str:
        kind = "Bool" if column.dtype == "bool" else CLICKHOUSE[column.dtype]
        return f"Nullable({kind})" if column.nullable or column.name in self.absent else kind


def names() -> tuple[str, ...]:
    """Every table that SQL may ask for."""
    return (*TICK_TABLES, INSTRUMENTS.name, FEATURES.name, OUTPUTS.name, PREDICTIONS.name)


def tables(home: Path) -> list[dict[str, Any]]:
    """Every table as JSON: partitions and rows that are stored, columns with their types, units and meanings. Reads manifests alone."""
    found = []
    for name in names():
        view = _view(home, name)
        found.append(
            {
                "table": name,
                "partitions": len(view.parts),
                "rows": view.n_rows,
                "columns": [{"name": c.name, "type": view.sql_type(c), "unit": c.unit, "meaning": c.meaning} for c in view.columns],
            }
        )
    return found


class Answer(NamedTuple):
    """What comes back: pieces of text, what a reader should know besides, and a way to leave before the end (`discard` the links)."""

    text: Iterator[str]
    notes: list[str]
    discard: Callable[[], None]


def query(home: Path, statement: str, form: Form = "table") -> Answer:
    """The answer to one statement over the lake below `home`, in pieces: what a table holds is never in memory as a whole.

    Prices and sizes are the integers that are stored; price_scale, tick_units and lot_scale beside them turn them into currency and units.
    A table shows at most TABLE_ROWS rows. The text has to be read to its end, or closed: then the engine stops and the links go.

    Raises InputError for what is no single question, reads or writes elsewhere, or cannot be run as it is; StoreError where a file of the
    lake cannot be read; SchemaMismatch and StoreError for damaged manifests.
    """
    statement = statement.strip().removesuffix(";").strip()
    if not statement:
        raise InputError("There is no statement.", hint=_HINT)
    if ";" in statement:
        # Where a text ends only the engine knows, and it would run what follows: a text with a semicolon is written with char(59).
        raise InputError("One statement at a time: there is a semicolon inside it.", hint=f"In a text write char(59). {_HINT}")
    views = {name: _view(home, name) if re.search(rf"\b{name}\b", statement) else None for name in names()}
    notes = [f"{name} is empty: nothing of it is stored below {home}." for name, view in views.items() if view and not view.n_rows]
    notes += [
        f"{view.skipped} partitions of {name} are of another version of the table and left out: ingest or build them again."
        for name, view in views.items()
        if view and view.skipped
    ]
    folder = Path(tempfile.gettempdir()) / f"cift-sql-{secrets.token_hex(8)}"
    if re.search(r"[*?{}]", str(folder)):
        raise InputError(f"{folder} holds a character that means more than itself in a path.", hint="Set TMPDIR to another folder.")
    return Answer(_run(statement, form, views, notes, folder), notes, lambda: shutil.rmtree(folder, ignore_errors=True))


def _run(statement: str, form: Form, views: dict[str, View | None], notes: list[str], folder: Path) -> Iterator[str]:
    from chdb.session import Session

    folder.mkdir(mode=0o700)
    try:
        with Session(str(folder / "engine")) as engine:
            _prepare(engine, folder, views, form)
            root = _allowed(engine, statement)
            if form == "table":
                text = _ask(engine, statement, FORMATS[form])
                if text.count("\n") >= TABLE_ROWS + _FRAME:
                    notes.append(f"A table shows {TABLE_ROWS:,} rows at most; --csv gives all.")
                yield text
            elif root.startswith("Select"):
                names = [row["name"] for row in _json_rows(_ask(engine, f"DESCRIBE ({statement})", FORMATS["json"]))]
                yield from _dressed(_pieces(engine, statement, form), form, names)
            else:
                # The engine streams nothing else; nothing else is long.
                shown = _ask(engine, statement, FORMATS["json"])
                names = list(next(iter(_json_rows(shown)), ()))
                yield from _dressed(iter([shown if form == "json" else _ask(engine, statement, FORMATS[form])]), form, names)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(engine: Any, folder: Path, views: dict[str, View | None], form: Form) -> None:
    """Make the tables, then let nothing be made, written or set any more."""
    _ask(engine, "CREATE DATABASE lake")
    _ask(engine, "USE lake")
    for name, view in views.items():
        for statement in _create(name, view, folder):
            _ask(engine, statement)
        if view and view.rows:
            _ask(engine, f"INSERT INTO {quoted(name)} VALUES {', '.join(_tuple(row) for row in view.rows)}")
    if form == "table":
        # The engine stops there, instead of computing what is not shown.
        _ask(engine, f"SET limit = {TABLE_ROWS}")
    for setting, value in (
        ("output_format_pretty_color", 0),
        ("output_format_pretty_row_numbers", 0),
        ("output_format_pretty_single_large_number_tip_threshold", 0),
        ("output_format_pretty_display_footer_column_names", 0),
        ("output_format_pretty_max_rows", TABLE_ROWS + 1),
        ("output_format_pretty_max_value_width", 1_000),
        ("format_csv_null_representation", "''"),
        ("readonly", 1),
    ):
        _ask(engine, f"SET {setting} = {value}")


def _create(name: str, view: View | None, folder: Path) -> Iterator[str]:
    """The statements that make a table over links to its partitions' files; an empty one where there are none, or nobody asks for it."""
    if view is None:
        view = _nothing(name)
    columns = ", ".join(
        f"{quoted(c.name)} {view.sql_type(c)} COMMENT {literal(f'{c.unit}: {c.meaning}' if c.unit not in ('', '1') else c.meaning)}"
        for c in view.columns
    )
    if not view.parts:
        yield f"CREATE TABLE {quoted(name)} ({columns}) ENGINE = Memory"
    elif not any(part.packed for part in view.parts):
        yield _files(name, columns, view, folder, view.parts)
    else:
        # A packed book is unpacked where it is asked for; rows that did not fit lie beside it as they are.
        selects = []
        for packed in (True, False):
            parts = [part for part in view.parts if part.packed == packed]
            if parts:
                own = f"{name}_{packed_book.ENCODING if packed else 'plain'}"
                raw = ", ".join(f"{quoted(c.name)} {_raw_type(view, c) if packed else view.sql_type(c)}" for c in view.columns)
                yield _files(own, raw, view, folder, parts)
                if packed:
                    shown = ", ".join(_unpacked(view, c) for c in view.columns)
                    selects.append(f"SELECT {shown} FROM (SELECT {', '.join(_renamed(c) for c in view.columns)} FROM {quoted(own)})")
                else:
                    selects.append(f"SELECT {', '.join(quoted(c.name) for c in view.columns)} FROM {quoted(own)}")
        yield f"CREATE VIEW {quoted(name)} ({columns}) AS {' UNION ALL '.join(selects)}"


def _files(name: str, columns: str, view: View, folder: Path, parts: Sequence[Part]) -> str:
    """The statement that makes a table over links to some partitions' files, which it makes."""
    keys = [c.name for c in view.before + view.after]
    for number, part in enumerate(parts):
        # Only whole partitions get a link; what their manifest does not name is not there for the engine.
        place = folder / name / "/".join(f"{key}={value}" for key, value in zip(keys, part.path, strict=True))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.parquet").symlink_to(part.data)
    pattern = f"{folder}/{name}/{'*/' * len(keys)}*.parquet"
    return f"CREATE TABLE {quoted(name)} ({columns}) ENGINE = File(Parquet, {literal(pattern)})"


def _raw_type(view: View, column: Column) -> str:
    """What a packed file holds: a price that is null, or a level that the file has not, is told by the size of its level."""
    return f"Nullable({CLICKHOUSE[column.dtype]})" if "_px_" in column.name else view.sql_type(column)


def _unpacked(view: View, column: Column) -> str:
    """A column of a packed book as it is in BOOK (packed_book.unpack)."""
    name = column.name
    if name == "ts_event":
        return "ts_recv + raw_ts_event AS ts_event"
    if "_px_" not in name:
        return quoted(name)
    best = {"bid": "raw_bid_px_00", "ask": "raw_ask_px_00 + ifNull(raw_bid_px_00, 0)"}[name[:3]]
    away = "-" if name.startswith("bid") else "+"
    value = best if name.endswith("_00") else f"{best} {away} raw_{name}"
    price = f"toInt32(ifNull({value}, {EMPTY_BID if name.startswith('bid') else EMPTY_ASK}))"
    # A level of deeper books than this file's.
    return f"if(isNull({name.replace('_px_', '_sz_')}), NULL, {price}) AS {name}" if name in view.absent else f"{price} AS {name}"


def _renamed(column: Column) -> str:
    """A column of a packed file under a name that is not the one to be made: the engine would take one for the other."""
    own = column.name == "ts_event" or "_px_" in column.name
    return f"{column.name} AS raw_{column.name}" if own else quoted(column.name)


def _tuple(row: tuple[Any, ...]) -> str:
    return f"({', '.join(literal(value) if isinstance(value, str) else repr(value) for value in row)})"


def _allowed(engine: Any, statement: str) -> str:
    """What kind of statement it is. Raises InputError for one that is none of ROOTS, or reads or writes past the tables."""
    tree = [(len(line) - len(line.lstrip()), line.strip()) for line in _ask(engine, f"{_PARSE}{statement}").splitlines() if line]
    asked = next(node for _, node in tree if not node.startswith("Explain"))
    if not asked.startswith(ROOTS):
        raise InputError(f"This is no question: {asked.split()[0]}.", hint=_HINT)
    if sum(not depth for depth, _ in tree) > 1:
        # A name that holds a line break would stand in the tree as lines of its own.
        raise InputError("A name in the statement holds a line break.", hint=_HINT)
    parents: list[tuple[int, str]] = []
    for depth, node in tree:
        while parents and parents[-1][0] >= depth:
            parents.pop()
        kind, *rest = node.split(maxsplit=2)
        parent = parents[-1][1] if parents else ""
        if kind == "Function" and (NEVER.match(rest[0]) or (parent == "TableExpression" and rest[0] not in FROM)):
            raise InputError(f"{rest[0]}() reads past the lake.", hint=_HINT)
        if parent == "SelectWithUnionQuery" and kind in ("Literal", "Identifier"):
            raise InputError(
                "INTO OUTFILE and FORMAT are not for here.", hint="Take --csv or --json, and send what is printed where you want it."
            )
        parents.append((depth, kind))
    return tree[0][1]


def _pieces(engine: Any, statement: str, form: Form) -> Iterator[str]:
    try:
        for piece in engine.send_query(statement, FORMATS[form]):
            yield piece.data()
    except RuntimeError as error:
        raise _ours(error) from error


def _dressed(pieces: Iterator[str], form: Form, names: list[str]) -> Iterator[str]:
    """Rows with what makes them one text: the brackets of an array, or a line of names; the engine would repeat those with every piece."""
    if form == "csv":
        yield ",".join('"' + name.replace('"', '""') + '"' for name in names) + "\n"
        yield from pieces
        return
    between = "[\n"
    for piece in pieces:
        if piece:
            yield between + piece.rstrip("\n").replace("\n", ",\n")
            between = ",\n"
    yield "[]\n" if between.startswith("[") else "\n]\n"


def _json_rows(text: str) -> list[dict[str, Any]]:
    import orjson

    return [orjson.loads(line) for line in text.split("\n") if line]


def _ask(engine: Any, statement: str, form: str = "TSVRaw") -> str:
    try:
        return engine.query(statement, form).data()
    except RuntimeError as error:
        raise _ours(error) from error


def _ours(error: Exception) -> InputError | StoreError:
    """What the engine says, on one line, with what to do."""
    code = int(found[1]) if (found := re.search(r"Code: (\d+)", str(error))) else 0
    said = str(error).rpartition("DB::Exception: ")[2].split("Expected one of")[0]
    said = re.sub(r"( In scope .*)?(: While executing \w+)*\.? \([A-Z_0-9]+\)( \(version .*)?$", "", " ".join(said.split())).rstrip(". :?")
    # It counts from the word that asks for its parser's opinion.
    said = re.sub(r"at position (\d+)", lambda at: f"at position {max(1, int(at[1]) - len(_PARSE))}", said)
    if "in file/uri" in said or code in (107, 117, 636):
        return StoreError(f"The lake cannot be read: {said[:400]}.", hint="`cift doctor` says more; ingest or build the partition again.")
    if code == 164:
        return InputError("`cift sql` only reads, and sets nothing.", hint=_HINT)
    hint = "`cift sql --tables` lists tables and columns with their units."
    return InputError(f"ClickHouse cannot run this: {said[:400]}.", hint=hint if code in (47, 60, 62, 81) else _HINT)


# Where the partitions of a table lie, and what their paths say


def _view(home: Path, name: str) -> View:
    """A table over what is stored of it now."""
    if name == INSTRUMENTS.name:
        return _instruments(home)
    if name == FEATURES.name:
        return _features(home)
    if name in (OUTPUTS.name, PREDICTIONS.name):
        return _judged(home, TABLES[name])
    return _ticks(home, name)


def _nothing(name: str) -> View:
    """A table of which nothing is looked up, with the columns that it always has."""
    return View(replace(TABLES[name], each=()), *_path_columns(name))


def _path_columns(name: str) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
    """What the path of a table's partitions says: columns before its own, and after."""
    if name == FEATURES.name:
        return (DAY, _UNIVERSE, _SET), ()
    if name in (OUTPUTS.name, PREDICTIONS.name):
        return (_RUN,), ()
    if name == INSTRUMENTS.name:
        return (DAY,), ()
    return (_SYMBOL, DAY), _SCALES


def _ticks(home: Path, name: str) -> View:
    """One tick table. Every part of a day is a file; books of fewer levels are null below them."""
    partitions = ParquetPartitions(home)
    parts, skipped, levels = [], 0, []
    for key in partitions.find(name):
        ref, facts = partitions.manifest(key)
        instrument = Instrument(**facts["instrument"])
        table = BOOK.with_levels(instrument.levels) if name == BOOK.name else TABLES[name]
        if ref.schema_hash != table.schema_hash:
            skipped += 1
            continue
        levels.append(instrument.levels)
        scales = tuple(getattr(instrument, c.name) for c in _SCALES)
        packed = facts.get("encoding") == packed_book.ENCODING
        parts.append(Part(home / key.path / lake.DATA, (key.symbol, key.day, *scales), ref.rows, packed))
    table = TABLES[name]
    absent: Sequence[str] = ()
    if name == BOOK.name:
        table = BOOK.with_levels(max(levels, default=1))
        absent = table.names[len(BOOK.columns) + len(BOOK.each) * min(levels, default=1) :]
    return View(table, *_path_columns(name), frozenset(absent), tuple(parts), skipped)


def _instruments(home: Path) -> View:
    """What every symbol was on every day, as the manifests of its books say, or of what else is stored of it."""
    partitions = ParquetPartitions(home)
    # Sorted stably: where there is a book, its last part is what stays.
    keys = {(key.symbol, key.day): key for key in sorted(partitions.find(), key=lambda key: key.table == BOOK.name)}
    found = {which: partitions.manifest(key)[1]["instrument"] for which, key in keys.items()}
    rows = tuple((day, *(facts[c.name] for c in INSTRUMENTS.columns)) for (_, day), facts in sorted(found.items()))
    return View(INSTRUMENTS, *_path_columns(INSTRUMENTS.name), rows=rows)


def _features(home: Path) -> View:
    """The newest version of every session of every feature set; a feature that a set lacks is null in its rows."""
    newest: dict[tuple[str, str, str], tuple[int, str]] = {}
    for key in lake.find_manifests(home, FEATURES.name, "*/*/*/*"):
        _, universe, feature_set, day, _ = key.split("/")
        known = max(lake.read_known(home, key), default=0)
        newest[universe, feature_set, day] = max(newest.get((universe, feature_set, day), (0, key)), (known, key))
    parts, skipped, columns = [], 0, []
    for (universe, feature_set, day), (_, key) in sorted(newest.items(), key=lambda item: -item[1][0]):
        ref, facts = lake.read_manifest(home, key)
        features = facts["features"]["names"]
        if ref.schema_hash != FEATURES.repeat(features).schema_hash:
            skipped += 1
            continue
        columns.append(features)
        parts.append(Part(home / key / lake.DATA, (int(day), universe, feature_set), ref.rows))
    every = list(dict.fromkeys(name for features in columns for name in features))
    table = FEATURES.repeat(every) if every else replace(FEATURES, each=())
    absent = frozenset(name for name in every if any(name not in features for features in columns))
    return View(table, *_path_columns(FEATURES.name), absent, tuple(parts), skipped)


def _judged(home: Path, table: Table) -> View:
    """What models said, of every run."""
    parts, skipped = [], 0
    for key in lake.find_manifests(home, table.name, "*/*/*"):
        ref, _ = lake.read_manifest(home, key)
        if ref.schema_hash != table.schema_hash:
            skipped += 1
            continue
        parts.append(Part(home / key / lake.DATA, (key.split("/")[1],), ref.rows))
    return View(table, *_path_columns(table.name), frozenset(), tuple(parts), skipped)
