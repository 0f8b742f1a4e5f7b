"""The ledger of judged predictions, and its one invariant: nothing knew a label before it predicted.

    max_train_t1 < as_of <= available_at          on every judged row

`max_train_t1` is the time at which the last label was known that taught the prediction, over *all* its ancestors: the model, the models
it reads, their heads, normalisers and thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cift_models.errors import DataError, InputError, LeakError


def check(rows: Any) -> None:
    """Raise LeakError at the first row that breaks the invariant.

    `rows` maps names to columns of one length (arrays, or a polars frame): as_of, available_at, max_train_t1 (ns UTC), and where present
    in_sample (true rows are refused: they may be streamed, never judged), model and symbol (named in the message). O(n).
    """
    n = len(rows["as_of"])
    as_of, available, taught = (_times(rows, name) for name in ("as_of", "available_at", "max_train_t1"))
    _first(rows, taught >= as_of, "knew too early", lambda i: f"max_train_t1 {taught[i]} is not before as_of {as_of[i]}")
    _first(rows, available < as_of, "was available before its time", lambda i: f"available_at {available[i]} is before as_of {as_of[i]}")
    if "in_sample" in _names(rows):
        in_sample = np.asarray(rows["in_sample"]).astype(bool)
        if len(in_sample) != n:
            raise DataError(f"in_sample has {len(in_sample)} rows; expected {n}.", hint="Pass columns of one length.")
        _first(rows, in_sample, "is in sample", lambda i: f"as_of {as_of[i]} is marked in_sample")


def ancestors_t1(
    model: str,
    own_t1: Mapping[str, int],
    needs: Mapping[str, Sequence[str]],
    extra: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """`max_train_t1` of a model's predictions: the maximum of `own_t1` over it and everything it was made with, ns UTC.

    `needs` names the models each model reads; `extra` other things that were fitted and shape its output (heads, thresholds,
    normalisers), which have an `own_t1` too. Raises InputError for a name without one: what is unknown is not early.
    """
    latest: int | None = None
    seen: set[str] = set()
    waiting = [model]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in own_t1:
            raise InputError(f"{model}: nothing says when its ancestor {name!r} was taught.", hint="Record the max_train_t1 of every fit.")
        latest = own_t1[name] if latest is None else max(latest, own_t1[name])
        waiting += [*needs.get(name, ()), *(extra or {}).get(name, ())]
    assert latest is not None
    return int(latest)


def _names(rows: Any) -> Sequence[str]:
    return rows.columns if hasattr(rows, "columns") else list(rows)


def _times(rows: Any, name: str) -> np.ndarray:
    if name not in _names(rows):
        raise DataError(f"The rows lack {name!r}.", hint="Every judged prediction carries as_of, available_at and max_train_t1.")
    column = np.asarray(rows[name])
    if column.dtype.kind not in "iu":
        # A float would round 1e18 ns to a multiple of 128; a null arrives as NaN, and nothing compares with it.
        raise DataError(f"{name} is {column.dtype}; expected int64 ns without nulls.", hint="Give every row its times.")
    if len(column) != len(rows["as_of"]):
        raise DataError(f"{name} has {len(column)} rows; expected {len(rows['as_of'])}.", hint="Pass columns of one length.")
    return column.astype(np.int64)


def _first(rows: Any, bad: np.ndarray, what: str, why: Any) -> None:
    if not bad.any():
        return
    i = int(np.argmax(bad))
    who = " ".join(str(rows[name][i]) for name in ("model", "symbol") if name in _names(rows))
    raise LeakError(
        f"Prediction {i:,}{f' ({who})' if who else ''} {what}: {why(i)} ({int(bad.sum()):,} such rows).",
        hint="Expected max_train_t1 < as_of <= available_at over all ancestors; look for a fit that saw rows of the part it predicts.",
        row=i,
    )
