"""All torch fits of a run, one at a time, in one process of their own.

Threads of one process share torch's random numbers and its pool, and its imports take seconds: a spawned process starts with the run and
has them done when level 0 is. It is spawned, never forked: a fork after OpenMP hangs.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from cift_models.settings import get_settings
from tasks import progress
from tasks.threads import limit_threads

TORCH = ("gnn", "transformer")
"""Kinds whose fit needs torch."""

_pool: ProcessPoolExecutor | None = None


@contextmanager
def torch_process(wanted: bool) -> Iterator[None]:
    """Keep the process for the time of a run, if `wanted`."""
    global _pool
    if not wanted:
        yield
        return
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    _pool = ProcessPoolExecutor(1, context, _begin, (queue,))
    reader = threading.Thread(target=_forward, args=(queue,), daemon=True)
    reader.start()
    _pool.submit(_import)
    try:
        yield
    finally:
        _pool.shutdown(cancel_futures=True)
        _pool = None
        queue.put(None)
        reader.join(2)


def in_torch_process(kind: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a module-level function in the torch process if the kind needs torch and the process runs, else here."""
    if kind in TORCH and _pool is not None:
        return _pool.submit(function, *args).result()
    return function(*args)


def _begin(queue: Any) -> None:
    progress.listen(lambda step, what, share: queue.put((step, what, share)))


def _import() -> None:
    limit_threads(get_settings().threads)
    import pytorch_lightning  # noqa: F401
    import torch  # noqa: F401
    import torch_geometric  # noqa: F401


def _forward(queue: Any) -> None:
    while (item := queue.get()) is not None:
        progress.tell(*item)
