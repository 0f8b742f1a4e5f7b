"""Atomic files: whole or absent, and open to whom a new file is open."""

from __future__ import annotations

import ast
import gc
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cift_models.errors import InputError
from cift_models.files import fresh_folder, replacing, safe_join, syntax_tree, write_atomic


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_and_folders_have_the_mode_of_new_ones(tmp_path, mask):
    with umask(mask):
        (tmp_path / "opened").write_bytes(b"x")
        write_atomic(tmp_path / "written", b"x")
        write_atomic(tmp_path / "written", b"y")
        folder = fresh_folder(tmp_path, ".made.")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("opened", "written")}
    assert modes == {0o666 & ~mask} and stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask
    assert (tmp_path / "written").read_bytes() == b"y" and folder.name.startswith(".made.")


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "folder" / "file"
    write_atomic(path, b"old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_bytes(b"a part")
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["file"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("relative", ["/etc/hosts", "../outside", "a/../../outside", "."])
def test_a_path_that_leaves_its_root_is_refused(tmp_path, relative):
    with pytest.raises(InputError, match="leaves"):
        safe_join(tmp_path, relative)


def test_a_tree_is_parsed_while_another_thread_parses(tmp_path: Path) -> None:
    """CPython 3.11 ends in a SystemError where two threads parse at once; without `syntax_tree` this test ends in it within a second."""
    path = tmp_path / "module.py"
    path.write_text("\n".join(f"def f{i}(a, b=({i}, [a for a in range({i})])):\n    return (a + b[0]) * (a - {i})" for i in range(200)))
    expected, done = ast.dump(ast.parse(path.read_bytes())), threading.Event()

    def disturb() -> None:
        while not done.is_set():
            with suppress(SystemError):
                ast.parse(path.read_bytes())

    # Threads change within a parse where the garbage collector runs something of Python's.
    def collected(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    other = threading.Thread(target=disturb)
    gc.callbacks.append(collected)
    other.start()
    try:
        assert all(ast.dump(syntax_tree(path)) == expected for _ in range(20))
    finally:
        done.set()
        other.join()
        gc.callbacks.remove(collected)
