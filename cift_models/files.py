"""Files that are whole or absent: atomic writes, digests, safe relative paths."""

from __future__ import annotations

import ast
import gc
import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cift_models.errors import InputError


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_one_tree = threading.Lock()


def syntax_tree(path: Path) -> ast.Module:
    """The syntax tree of a Python file, whichever threads parse at the same time. Raises what ast.parse raises."""
    # CPython 3.11 counts the depth of all threads' syntax trees in one place: where another thread parses in the middle of a parse, this
    # ends in "SystemError: AST constructor recursion depth mismatch". Threads change there only where the garbage collector runs
    # something of Python's; without it nobody comes between.
    raw = path.read_bytes()
    with _one_tree:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return ast.parse(raw)
        finally:
            if collecting:
                gc.enable()


def canonical_json(value: Any) -> bytes:
    """The one JSON encoding that is hashed: sorted keys, no NaN, two-space indent, a newline at the end."""
    import orjson

    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)


def digest(value: Any) -> str:
    """Hex sha256 of a JSON value: the key under which a step writes, the name of a feature set."""
    return sha256_bytes(canonical_json(value))


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that a reader sees the old file or the new one, never a part (temporary file, fsync, rename, fsync of the folder)."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`; on a clean exit it is fsynced and renamed over `path`, on an exception it is removed.

    Its mode is a new file's (0666 less the umask), whatever the old file's was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp: a file of mode 0600 could not be served, or backed up, by another user than the one who trained.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    temporary.touch(0o666, exist_ok=False)
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def fresh_folder(parent: Path, prefix: str) -> Path:
    """Make a folder of a name that none below `parent` has, with a new folder's mode (0777 less the umask)."""
    folder = parent / f"{prefix}{secrets.token_hex(8)}"
    folder.mkdir()
    return folder


def fsync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def safe_join(root: Path, relative: str) -> Path:
    """`root / relative`, refusing a path that is absolute or leaves `root`."""
    root = root.resolve()
    path = (root / relative).resolve()
    if path == root or root not in path.parents:
        raise InputError(f"The path {relative!r} leaves {root}.", hint="Expected a relative path below it.")
    return path
