"""Which rows may teach which rows: decision rows, ten blocks, the folds of each level, and the purge.

Time goes one way: a block is predicted by a fit on earlier blocks alone. Look-back is not purged (the past is known), and live state
is carried across blocks; only labels that end too near the next part are dropped. Source: methods.md section 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import EmptyRange, InputError
from cift_models.instruments import SECOND, Session

BLOCKS = 10
TEST = (7, 8, 9)
"""Blocks that judge."""
STOP = 6
"""Block of early stopping and thresholds, and of nothing else."""
PURGE_NS = 10 * SECOND
"""A training label must end this long before the next part begins."""


@dataclass(frozen=True, slots=True)
class Span:
    """Decision rows of one session, from `first` to `last`, both included (as_of, ns UTC)."""

    session: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class BlockCalendar:
    """Ten blocks of decision rows, in time order; a block is a tuple of spans, at most one a session."""

    clock_ns: int
    horizon_ns: int
    blocks: tuple[tuple[Span, ...], ...]

    def mask(self, session: int, as_of: NDArray[np.int64], blocks: Iterable[int]) -> NDArray[np.bool_]:
        """Which instants of a session are decision rows of these blocks: bool[T]."""
        inside = np.zeros(len(as_of), bool)
        for block in blocks:
            for span in self.blocks[block]:
                if span.session == session:
                    inside |= (as_of >= span.first) & (as_of <= span.last)
        return inside

    def first(self, block: int) -> int:
        """as_of of the block's first row, ns UTC."""
        return self.blocks[block][0].first

    def last(self, block: int) -> int:
        """as_of of the block's last row, ns UTC."""
        return self.blocks[block][-1].last

    def n_rows(self, block: int) -> int:
        return sum((span.last - span.first) // self.clock_ns + 1 for span in self.blocks[block])

    def sessions(self, blocks: Iterable[int]) -> tuple[int, ...]:
        """Sessions (yyyymmdd) that hold a row of these blocks, in time order."""
        return tuple(dict.fromkeys(span.session for block in sorted(blocks) for span in self.blocks[block]))

    def as_json(self) -> dict[str, Any]:
        return {
            "clock_ns": self.clock_ns,
            "horizon_ns": self.horizon_ns,
            "blocks": [[asdict(span) for span in block] for block in self.blocks],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BlockCalendar:
        return cls(value["clock_ns"], value["horizon_ns"], tuple(tuple(Span(**span) for span in block) for block in value["blocks"]))


@dataclass(frozen=True, slots=True)
class Fold:
    """One fit and what it predicts. `stop` blocks are for early stopping alone; an out-of-fold fit has none, b6 lies in its future."""

    name: str
    train: tuple[int, ...]
    stop: tuple[int, ...]
    predict: tuple[int, ...]


def level0_folds() -> tuple[Fold, ...]:
    """Linear, Hawkes, HMM and baselines: b(k), k = 1..5, by a fit on b0..b(k-1); then b0-b5, the fit that is released."""
    return (*(Fold(f"k{k}", tuple(range(k)), (), (k,)) for k in range(1, 6)), Fold("final", tuple(range(6)), (STOP,), (6, *TEST)))


def level1_folds() -> tuple[Fold, ...]:
    """GNN and Transformer, on residuals of the level-0 base: b(k), k = 3..5, by a fit on b1..b(k-1); then b1-b5."""
    return (*(Fold(f"k{k}", tuple(range(1, k)), (), (k,)) for k in range(3, 6)), Fold("final", tuple(range(1, 6)), (STOP,), (6, *TEST)))


def level2_folds() -> tuple[Fold, ...]:
    """Meta-learner and head, on out-of-fold outputs of levels 0 and 1: b(k), k = 4, 5, by a fit on b3..b(k-1); then b3-b5."""
    return (*(Fold(f"k{k}", tuple(range(3, k)), (), (k,)) for k in range(4, 6)), Fold("final", tuple(range(3, 6)), (STOP,), (6, *TEST)))


def level3_folds() -> tuple[Fold, ...]:
    """Ensemble, which reads the meta-learner too, whose out-of-fold outputs begin at b4: b5 by a fit on b4; then b4-b5."""
    return (Fold("k5", (4,), (), (5,)), Fold("final", (4, 5), (STOP,), (6, *TEST)))


def decision_rows(session: Session, clock_ns: int, horizon_ns: int) -> NDArray[np.int64]:
    """Instants of a session that may be labels: from open + margin to close - margin, the label (at latency 0) inside.

    The latency knob does not move the rows, so that figures at two latencies are of the same rows; the margin holds the later labels.
    """
    instants = np.arange(session.open + clock_ns, session.close + 1, clock_ns, dtype=np.int64)
    return instants[(instants >= session.open + session.margin) & (instants + horizon_ns <= session.close - session.margin)]


def block_calendar(
    sessions: Sequence[Session], clock_ns: int = SECOND, horizon_ns: int = SECOND, test_from: date | int | None = None
) -> BlockCalendar:
    """The ten blocks of some sessions.

    Fewer than ten sessions: ten equal runs of decision rows, all sessions laid end to end. Ten or more: whole sessions, runs of
    `floor(i n / 10)`. `test_from` (a date or yyyymmdd): b7-b9 are three equal runs of the sessions from that day on, b0-b6 seven equal
    runs of those before. Raises EmptyRange where a block would have no row, InputError where sessions overlap or go back.
    """
    for before, after in pairwise(sessions):
        if after.open < before.close or after.day <= before.day:
            raise InputError(
                f"Session {after.day} follows {before.day} and does not begin after it.", hint="Pass sessions in time order, each once."
            )
    rows = [decision_rows(session, clock_ns, horizon_ns) for session in sessions]
    lengths = np.array([len(r) for r in rows], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if test_from is not None:
        day = test_from if isinstance(test_from, int) else int(test_from.strftime("%Y%m%d"))
        cut = int(starts[sum(session.day < day for session in sessions)])
        edges = np.concatenate([_equal(0, cut, 7), _equal(cut, int(starts[-1]), 3)[1:]])
    elif len(sessions) >= BLOCKS:
        edges = starts[_equal(0, len(sessions), BLOCKS)]
    else:
        edges = _equal(0, int(starts[-1]), BLOCKS)
    if (np.diff(edges) < 1).any():
        raise EmptyRange(
            f"{len(sessions)} sessions with {int(starts[-1])} decision rows do not fill ten blocks (edges {edges.tolist()}).",
            hint="Name a longer range, or a test_from with sessions on both sides of it.",
        )
    blocks = []
    for begin, end in pairwise(edges):
        spans = []
        for session, start, own in zip(sessions, starts[:-1], rows, strict=True):
            a, b = max(int(begin - start), 0), min(int(end - start), len(own))
            if a < b:
                spans.append(Span(session.day, int(own[a]), int(own[b - 1])))
        blocks.append(tuple(spans))
    return BlockCalendar(clock_ns, horizon_ns, tuple(blocks))


def _equal(begin: int, end: int, parts: int) -> NDArray[np.int64]:
    """Edges of `parts` runs of [begin, end) whose lengths differ by at most one."""
    return begin + (end - begin) * np.arange(parts + 1, dtype=np.int64) // parts


def training_rows(
    calendar: BlockCalendar,
    session: int,
    as_of: NDArray[np.int64],
    label_end: NDArray[np.int64],
    blocks: Sequence[int],
    purge_ns: int | None = PURGE_NS,
) -> NDArray[np.bool_]:
    """Which instants of a session may teach a fit on `blocks`: bool[T].

    The next part is the block after the last of `blocks`; a row whose label end + purge reaches its first row is dropped. Nothing is
    purged backwards. `purge_ns=None` purges nothing (`ridge_reference` alone, which is a fixed recipe). as_of, label_end int64[T].
    """
    rows = calendar.mask(session, as_of, blocks)
    following = max(blocks) + 1
    if purge_ns is not None and following < len(calendar.blocks):
        rows &= label_end + purge_ns < calendar.first(following)
    return rows


class Learned(NamedTuple):
    """How far the panels of a fit reach, as they were given, whatever the calendar meant to give.

    label   ns: when the last label was known that can have taught it
    row     ns: as_of of the last row that it was shown, marked or not; a normaliser asks for no label
    """

    label: int
    row: int

    @property
    def max_train_t1(self) -> int:
        """The fit's own `max_train_t1`, ns UTC."""
        return max(self.label, self.row)

    def free_from(self, purge_ns: int | None = PURGE_NS) -> int:
        """The first as_of that is out of fold, ns UTC. `purge_ns=None`: a label may end on that very instant (`ridge_reference`)."""
        return max(self.label if purge_ns is None else self.label + purge_ns + 1, self.row + 1)


def learned(panels: Iterable[Any], out_of_fold: bool = False) -> Learned:
    """What a fit on these panels can have seen; one pass over them.

    `out_of_fold`: for models with needs, whose labels lie inside `base_oof` too. Pass training and early-stopping panels alike: what chose
    the fit taught it. Raises EmptyRange where no row is marked.
    """
    label, row = None, 0
    for panel in panels:
        rows = panel.rows & panel.valid.any(axis=1)
        if out_of_fold:
            rows = rows & panel.base_oof
        row = max(row, int(panel.as_of[-1]))
        if rows.any():
            end = int(panel.label_end[rows].max())
            label = end if label is None else max(label, end)
    if label is None:
        raise EmptyRange("No training row is marked in these panels.", hint="Widen the range, or look at why the rows are not valid.")
    return Learned(label, row)
