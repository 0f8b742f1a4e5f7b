"""`kernel`: numba's njit, without the GIL, with a cache on disk that knows every file a kernel is made of.

Numba's own cache asks whether the file of a function has changed, not whether the files have from which the function calls others: with the
callee compiled in, yesterday's numbers come out of today's code, and nothing says so. Here the stamp of a kernel is the content of its file
and of every file of the package that it imports, directly or through others.

Where neither the package nor the user's cache can be written (a read-only image without NUMBA_CACHE_DIR), kernels are compiled in each
process. Compiling that takes more than a second says so on the log `cift.compiled`.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from numba import njit
from numba.core import caching, event

from cift_models.files import syntax_tree

log = logging.getLogger("cift.compiled")

PACKAGE = Path(__file__).parent
PATIENCE_S = 1.0
"""How long the first compilation may take before a word is said."""
WORD = "compiling kernels: once, about ten seconds; kept on disk for the next time"


def kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Decorator of a kernel; `options` as njit's (inline, error_model; nogil=False where a call is too short to let others in)."""
    if function is None:
        return lambda found: kernel(found, **options)
    options.setdefault("nogil", True)
    dispatcher: Any = njit(**options)(function)
    try:
        dispatcher._cache = _Cache(function)
    except RuntimeError:  # numba found no place to write
        log.info("%s is compiled in each process: neither the package nor the user's cache can be written", function.__qualname__)
    return dispatcher


@cache
def stamp(path: Path) -> str:
    """Hex sha256 over the bytes of a file of the package and of all that it imports of the package, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(_made_of(path)):
        digest.update(str(file.relative_to(PACKAGE)).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _made_of(path: Path) -> set[Path]:
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imports(file)
    return found


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    """Files of the package that a file imports by name, `from package.module import name` and `from package import module` alike."""
    found = []
    for node in ast.walk(syntax_tree(path)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            head, _, tail = name.partition(".")
            if head == PACKAGE.name and tail:
                base = PACKAGE.joinpath(*tail.split("."))
                found += [file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()]
    return tuple(found)


class _Stamped:
    """What the locators of numba lack: a stamp of more than one file."""

    _py_file: str

    def get_source_stamp(self) -> str:
        return stamp(Path(self._py_file).resolve())


class _UserProvided(_Stamped, caching.UserProvidedCacheLocator):
    pass


class _InTree(_Stamped, caching.InTreeCacheLocator):
    pass


class _UserWide(_Stamped, caching.UserWideCacheLocator):
    pass


class _Impl(caching.CompileResultCacheImpl):
    _locator_classes: ClassVar = [_UserProvided, _InTree, _UserWide]


class _Cache(caching.FunctionCache):
    _impl_class = _Impl


class _Word(event.Listener):
    """Says once in a process that kernels are compiled, if that takes long enough to be asked about."""

    def __init__(self) -> None:
        self._depth = 0
        self._timer: threading.Timer | None = None

    def on_start(self, event: Any) -> None:
        self._depth += 1
        if self._depth == 1 and self._timer is None:
            self._timer = threading.Timer(
                PATIENCE_S, log.warning, ["compiling kernels: once, about ten seconds; kept on disk for the next time"]
            )
            self._timer.daemon = True
            self._timer.start()

    def on_end(self, event: Any) -> None:
        self._depth -= 1
        if self._depth == 0 and self._timer is not None and self._timer.is_alive():
            self._timer.cancel()
            self._timer = None


event.register("numba:compile", _Word())
