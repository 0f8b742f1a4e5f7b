"""Out-of-fold stacking: which fit may teach which, and what a model was told about the models below it.

A model that reads others is fitted on what they said of rows that they had not seen: instant t of block b carries the outputs of the fits
that ended before b. When a fit predicts, the models below it are those of the same fold, over the whole session, so that what is judged is
what one pipeline, frozen at one moment, would have said live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import LeakError
from cift_models.models import REGISTRY, model_class
from cift_models.models.protocol import Outputs, Panel
from cift_models.splits import (
    PURGE_NS,
    STOP,
    BlockCalendar,
    Fold,
    Learned,
    level0_folds,
    level1_folds,
    level2_folds,
    level3_folds,
    training_rows,
)

UNPURGED = ("ridge_reference",)
"""A fixed recipe from the literature of the table: it fits on b0-b5 as they stand."""

HEAD_BLOCKS = (3, 4, 5)
"""Blocks whose rows teach a head: the direction where the model spoke out of fold, the activity all (methods.md section 1, level 2)."""


class Spoken(NamedTuple):
    """What one fit said of a whole session, and where it had not learned: values float64[T, S, C], ready bool[T, S].

    free_from   ns UTC: the first as_of that is out of fold for it and for all that it reads (see `free_from`)
    """

    values: NDArray[np.float64]
    ready: NDArray[np.bool_]
    free_from: int


Labelled = Callable[[int], Panel]
"""Opens a session's panel, with y, label_end and rows (every row whose label is known)."""


def depth(kind: str) -> int:
    """0 for a model that reads features alone, else one more than the deepest it reads."""
    return max((depth(need) + 1 for need in model_class(kind).needs), default=0)


def needed(kinds: Sequence[str]) -> list[str]:
    """`kinds` and everything they read, in an order in which each comes after what it reads (that of REGISTRY)."""
    wanted: set[str] = set()
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if kind not in wanted:
            wanted.add(kind)
            waiting += model_class(kind).needs
    return [kind for kind in REGISTRY if kind in wanted]


def folds(kind: str, readers: Sequence[str]) -> tuple[Fold, ...]:
    """The fits of a kind, in time order. `readers` are the kinds of the run: what none of them reads is fitted where heads learn only."""
    made = (level0_folds, level1_folds, level2_folds, level3_folds)[depth(kind)]()
    if any(kind in model_class(reader).needs for reader in readers):
        return made
    return tuple(fold for fold in made if fold.name == "final" or fold.predict[0] in HEAD_BLOCKS)


def head_blocks(fold_names: Sequence[str]) -> tuple[int, ...]:
    """Blocks whose rows teach the head of a kind that has these folds.

    One out-of-fold block alone makes a poor head (its direction slope fell to .56 on a recorded day): a kind with fewer than two, the
    ensemble, takes the stopping block's rows too, which the final fit has not learned from.
    """
    own = [block for block in HEAD_BLOCKS if f"k{block}" in fold_names]
    return HEAD_BLOCKS if len(own) > 1 else (*HEAD_BLOCKS, STOP)


def fold_of(calendar: BlockCalendar, session: int, as_of: NDArray[np.int64]) -> NDArray[np.int8]:
    """The block whose fold speaks at each instant of a session, int8[T]; 6 stands for the final fit, -1 for a session without rows.

    Between two blocks and before a session's first row it is the block that comes, after its last row the block that was.
    """
    spans = [(span.last, min(block, STOP)) for block, parts in enumerate(calendar.blocks) for span in parts if span.session == session]
    if not spans:
        return np.full(len(as_of), -1, np.int8)
    ends = np.array([last for last, _ in spans])
    blocks = np.array([block for _, block in spans], np.int8)
    return blocks[np.minimum(np.searchsorted(ends, as_of, "left"), len(blocks) - 1)]


def told(panel: Panel, calendar: BlockCalendar, outputs: Mapping[str, Mapping[str, Spoken]]) -> Panel:
    """`panel` with the out-of-fold outputs of the models below: outputs[kind][fold name], each over the whole session.

    An instant whose fold a kind does not have is not ready; `base_oof` marks the instants that every kind has. Raises LeakError where a
    decision row would be told what a fit says that has learned from it, or from less than the purge before it.
    """
    block = fold_of(calendar, panel.session, panel.as_of)
    base: dict[str, NDArray] = {}
    ready: dict[str, NDArray] = {}
    oof = np.ones(len(panel), bool)
    decisions = calendar.mask(panel.session, panel.as_of, range(len(calendar.blocks)))
    for kind, by_fold in outputs.items():
        some = next(iter(by_fold.values()))
        base[kind], ready[kind] = np.zeros_like(some.values), np.zeros_like(some.ready)
        has = np.zeros(len(panel), bool)
        for name, out in by_fold.items():
            own = block == (STOP if name == "final" else int(name[1:]))
            _refuse_in_sample(kind, name, panel, own & decisions & (panel.as_of < out.free_from), out.free_from)
            base[kind][own], ready[kind][own] = out.values[own], out.ready[own]
            has |= own
        oof &= has
    return replace(panel, base=base, base_ready=ready, base_oof=oof)


def _refuse_in_sample(kind: str, fold: str, panel: Panel, bad: NDArray[np.bool_], free_from: int) -> None:
    if bad.any():
        t = int(np.argmax(bad))
        raise LeakError(
            f"{kind} {fold} speaks of {int(panel.as_of[t])} in session {panel.session}, and is out of fold from {free_from} on "
            f"({int(bad.sum()):,} such rows).",
            hint="Expected rows behind all that it has learned from, and the purge: look for a fold that holds them.",
            row=t,
        )


def free_from(kind: str, own: Learned, below: Iterable[int] = ()) -> int:
    """The first as_of that is out of fold for a fit that has learned `own`, and for the fits that it reads (theirs: `below`), ns UTC."""
    return max([own.free_from(None if kind in UNPURGED else PURGE_NS), *below])


class TrainingPanels(Sequence[Panel]):
    """The sessions of a fit, opened one at a time, each cut after its last training row and marked.

    `outputs(session)` gives outputs[kind][fold name] of the models below (empty for a model that reads none).
    """

    def __init__(
        self,
        kind: str,
        calendar: BlockCalendar,
        blocks: Sequence[int],
        open_panel: Labelled,
        outputs: Callable[[int], Mapping[str, Mapping[str, Spoken]]],
    ) -> None:
        self.kind = kind
        self.calendar = calendar
        self.blocks = tuple(blocks)
        self.open_panel = open_panel
        self.outputs = outputs
        self.sessions = calendar.sessions(blocks) if blocks else ()

    def __len__(self) -> int:
        return len(self.sessions)

    def __getitem__(self, i: int) -> Panel:  # type: ignore[override]
        if not 0 <= i < len(self):
            raise IndexError(i)
        panel = self.open_panel(self.sessions[i])
        assert panel.rows is not None and panel.label_end is not None
        margin = {"purge_ns": None} if self.kind in UNPURGED and STOP not in self.blocks else {}
        marked = panel.rows & training_rows(self.calendar, panel.session, panel.as_of, panel.label_end, self.blocks, **margin)
        last = max(span.last for block in self.blocks for span in self.calendar.blocks[block] if span.session == panel.session)
        panel = replace(panel, rows=marked).until(int(np.searchsorted(panel.as_of, last, "right")))
        n = len(panel)
        below = {
            kind: {name: Spoken(out.values[:n], out.ready[:n], out.free_from) for name, out in by_fold.items()}
            for kind, by_fold in self.outputs(panel.session).items()
        }
        return told(panel, self.calendar, below) if below else panel

    def __iter__(self) -> Iterator[Panel]:
        return (self[i] for i in range(len(self)))


def outputs_below(kind: str, same_fold: Mapping[str, Outputs | Spoken], panel: Panel) -> Panel:
    """`panel` as one frozen pipeline sees it: the models below are those of the same fold, at every instant."""
    needs = model_class(kind).needs
    return replace(panel, base={k: same_fold[k].values for k in needs}, base_ready={k: same_fold[k].ready for k in needs})
