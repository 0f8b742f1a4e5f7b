"""One door to every feed: a name, a file, and what the file does not say."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cift_models.errors import FeedError, InputError
from cift_models.feeds.day import BookBefore, FeedDay, Identity

if TYPE_CHECKING:
    pass

FEEDS: dict[str, str] = {
    "lobster": "cift_models.feeds.lobster:read_lobster",
    "binance": "cift_models.feeds.binance:read_binance",
    "lean": "cift_models.feeds.lean:read_lean",
    "canonical": "cift_models.feeds.canonical_files:read_canonical",
}
"""A feed's name to its reader, as "module:function"; resolved on use. A reader takes a path, what its signature names, and `progress`."""


def options(feed: str) -> tuple[str, ...]:
    """What may be said to a feed beside the file. Raises InputError for an unknown feed."""
    names = inspect.signature(_reader(feed)).parameters
    return tuple(n for n in names if n not in ("path", "progress", "before"))


def read(
    feed: str,
    path: Path,
    said: Mapping[str, Any],
    before: BookBefore,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Iterator[FeedDay]:
    """Read one file, a symbol and a day at a time.

    said    options of the feed by name (`options`); those that are None count as not said
    before  where a recording of changes finds the book that it goes on from

    Raises InputError for an option that the feed has not, FeedError for a file that is damaged or not what it was said to be.
    """
    reader = _reader(feed)
    allowed = options(feed)
    given = {name: value for name, value in said.items() if value is not None}
    for name in given:
        if name not in allowed:
            raise InputError(
                f"The feed {feed} has no option {name.replace('_', '-')}.",
                hint=f"It has {', '.join(n.replace('_', '-') for n in allowed) or 'none'}.",
            )
    if "before" in inspect.signature(reader).parameters:
        given["before"] = before
    result = reader(path, progress=progress, **given)
    days = iter((result,)) if isinstance(result, FeedDay) else iter(result)
    first = next(days, None)
    if first is None:
        raise FeedError(f"{path.name} holds no rows.", hint=f"Expected a recording of {feed}.", path=path)
    yield first
    yield from days


def identify(feed: str, path: Path, said: Mapping[str, Any]) -> Identity:
    """Whose recording a file is and where it begins, from its names or its first lines. Raises as `read` does."""
    function = _module(feed).identify
    known = inspect.signature(function).parameters
    return function(path, **{name: value for name, value in said.items() if name in known and value is not None})


def recordings(feed: str, paths: Sequence[Path]) -> list[Path]:
    """Of some files those that are to be read: one of each recording that lies in several files, none that only says what others mean."""
    module = _module(feed)
    return module.one_each(paths) if hasattr(module, "one_each") else list(paths)


def files_of(feed: str, path: Path) -> tuple[Path, ...]:
    """Every file that reading one of them reads, itself first: what was made of it depends on the bytes of all."""
    module = _module(feed)
    return module.files_of(path) if hasattr(module, "files_of") else (path,)


def chains(feed: str, paths: Sequence[Path], said: Mapping[str, Any]) -> list[list[Path]]:
    """Files that may be read side by side, each list in its order: recordings of changes to one book follow one another in time."""
    paths = recordings(feed, paths)
    if "before" not in inspect.signature(_reader(feed)).parameters:
        return [[path] for path in paths]
    by_symbol: dict[str, list[tuple[int, Path]]] = {}
    for path in paths:
        who = identify(feed, path, said)
        by_symbol.setdefault(who.symbol, []).append((who.begins, path))
    return [[path for _, path in sorted(files)] for _, files in sorted(by_symbol.items())]


def _module(feed: str) -> ModuleType:
    if feed not in FEEDS:
        raise InputError(f"Unknown feed {feed!r}.", hint=f"Expected one of {', '.join(FEEDS)}.")
    return import_module(FEEDS[feed].partition(":")[0])


def _reader(feed: str) -> Callable[..., Any]:
    return getattr(_module(feed), FEEDS[feed].partition(":")[2])
