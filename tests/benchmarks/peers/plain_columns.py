"""Integer columns as a Parquet file that needs no decoding: any Parquet reader opens it, this one copies the values out of it.

Every column is required, PLAIN, uncompressed and one page a row group, so that its values lie in the file as they lie in memory, and any
rows of it are one read. Made rows of ten levels take 176 bytes each, against 28 under lz4 and 15 under zstd; to copy them takes a third
of the time of lz4's bare decompression, a sixth of zstd's. For a table that is passed over many times; what is kept lies packed
(packed_book.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import InputError, StoreError
from cift_models.files import replacing

if TYPE_CHECKING:
    import pyarrow.parquet

GROUP_ROWS = 2**18
"""Rows of one group of a file: the writer holds so many, and says where the columns of so many lie."""
ROWS = 2**16
"""Rows read at once: 12 MB at ten levels. Half as many cost the job a tenth more, for its calls; twice as many gain nothing."""
KINDS = {"INT32": np.dtype(np.int32), "INT64": np.dtype(np.int64)}
"""What a column may be, by the name that Parquet has for it."""
HEADER_BYTES = 64
"""What is read of a page's header, in which its type and size come first."""


def write(path: Path, parts: Iterable[Mapping[str, NDArray[Any]]]) -> int:
    """Write tables of int32 and int64 columns, one after another, as one file; how many rows that is. The file is whole or absent.

    Raises InputError without a part, where a column has another type, and where parts differ in their columns or a part in its lengths.
    O(cells); one part and a row group in memory.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, schema = 0, None
    with replacing(path) as temporary, ExitStack() as opened:
        writer = None
        for part in parts:
            found = pa.schema([pa.field(name, _type_of(name, values), nullable=False) for name, values in part.items()])
            lengths = {len(values) for values in part.values()}
            if len(lengths) != 1 or schema not in (None, found):
                raise InputError(
                    f"Part {rows:,} rows into {path.name} has columns {', '.join(map(str, found))} of {sorted(lengths)} rows. "
                    f"Expected one length, and the columns of the part before it.",
                    hint="Give every part the same columns, each as long as the others.",
                )
            if writer is None:
                schema = found
                # A page ends where either bound is met: never within a row group.
                bounds = {"data_page_size": 2**30, "max_rows_per_page": 2**30}
                writer = pq.ParquetWriter(temporary, found, compression="none", use_dictionary=False, write_statistics=False, **bounds)
                opened.enter_context(writer)
            if n := lengths.pop():
                writer.write_table(pa.table(dict(part), schema=found), row_group_size=GROUP_ROWS)
            rows += n
        if writer is None:
            raise InputError(f"No rows to write into {path.name}.", hint="Give at least one part, which may be of no rows.")
    return rows


def read(path: Path, names: Sequence[str] | None = None, rows: int = ROWS) -> Iterator[dict[str, NDArray[Any]]]:
    """The columns `names` (all where there are none named), some rows at a time: at most `rows`, and never of two groups.

    The arrays are lent: the next rows are written over them. One thread; memory is `rows` of what is read. Cost: a copy from the page
    cache, or what the disk takes.

    Raises StoreError where the file is none, is cut short or was written in another layout; InputError for a column that it lacks.
    """
    with _opened(path) as (file, metadata):
        schema = metadata.schema
        places = {schema.column(at).path: at for at in range(metadata.num_columns)}
        wanted = list(places) if names is None else list(names)
        if missing := [name for name in wanted if name not in places]:
            raise InputError(f"{path} lacks the columns {', '.join(missing)}.", hint=f"It has {', '.join(places)}.")
        for name in wanted:
            column = schema.column(places[name])
            if column.physical_type not in KINDS or column.max_definition_level or column.max_repetition_level:
                raise _other(path, name, f"{column.physical_type} that may be absent or repeated")
        kinds = {name: KINDS[schema.column(places[name]).physical_type] for name in wanted}
        lent = {name: np.empty(min(rows, metadata.num_rows), kind) for name, kind in kinds.items()}
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            if not (n := group.num_rows):
                continue
            starts = {name: _values_at(file, path, group.column(places[name]), n * kinds[name].itemsize) for name in wanted}
            for first in range(0, n, rows):
                taken = {name: column[: min(rows, n - first)] for name, column in lent.items()}
                for name, column in taken.items():
                    if os.preadv(file, [column.data], starts[name] + first * column.itemsize) != column.nbytes:
                        raise StoreError(f"{path} ends within {name}.", hint="It was cut short: write it again.")
                yield taken


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, pyarrow.parquet.FileMetaData]]:
    """The handle and the metadata of one file, also where another takes its name in the meantime."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}.", hint="Write it, or look for where it lies.") from error
    with open(handle, "rb", buffering=0) as file:
        try:
            metadata = pq.read_metadata(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(f"{path} cannot be read as Parquet: {error}.", hint="Write it again.") from error
        yield handle, metadata


def _values_at(file: int, path: Path, column: pyarrow.parquet.ColumnChunkMetaData, size: int) -> int:
    """Where in the file the values of a column of a row group begin, `size` bytes of them. Raises StoreError for another layout."""
    name, begin, stored = column.path_in_schema, column.data_page_offset, column.total_compressed_size
    if column.compression != "UNCOMPRESSED" or column.has_dictionary_page or set(column.encodings) - {"PLAIN", "RLE"}:
        raise _other(path, name, f"{column.compression} {', '.join(column.encodings)}")
    if _page_bytes(os.pread(file, HEADER_BYTES, begin)) != size:
        raise _other(path, name, "in several pages, or of another kind")
    return begin + stored - size


def _page_bytes(header: bytes) -> int:
    """Bytes of values after a data page's header (its second field, a zigzag varint of Thrift's); -1 where it is no such header."""
    size, shift = 0, 0
    if header[:3] != b"\x15\x00\x15":
        return -1
    for byte in header[3:13]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return size >> 1
    return -1


def _type_of(name: str, values: NDArray[Any]) -> Any:
    import pyarrow as pa

    if values.dtype not in KINDS.values():
        raise InputError(f"Column {name} is {values.dtype}. Expected int32 or int64.", hint="Parquet stores no other integer as it is.")
    return pa.from_numpy_dtype(values.dtype)


def _other(path: Path, name: str, what: str) -> StoreError:
    return StoreError(
        f"{path}: column {name} is {what}. Expected required int32 or int64, PLAIN, uncompressed, one page a row group.",
        hint="Write it with plain_columns.write, or read it with any Parquet reader.",
    )
