"""What a fit looks at: decision rows with their lag features, and the binned moves for the prior, copied out of one session at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from cift_models.models.gnn.config import LeadLagConfig
from cift_models.models.gnn.kernel import FEATURES, describe_session, memory
from cift_models.models.gnn.lead_lag import binned_moves
from cift_models.models.protocol import Panel
from cift_models.models.residual_base import apply_base, label_rows
from cift_models.splits import PURGE_NS


@dataclass(frozen=True, slots=True)
class Rows:
    """n decision rows in time order.

    x float32[n, S, L + 1, F] (raw), present bool[n, S] (nodes), label bool[n, S] (targets), residual and y float64[n, S] (bps; residual
    is y less the base), as_of and label_end int64[n] (ns).
    """

    x: NDArray[np.float32]
    present: NDArray[np.bool_]
    label: NDArray[np.bool_]
    residual: NDArray[np.float64]
    y: NDArray[np.float64]
    as_of: NDArray[np.int64]
    label_end: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.as_of)

    def __getitem__(self, part: slice | NDArray) -> Rows:
        return Rows(*(getattr(self, f.name)[part] for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Moves:
    """Binned moves of one session, float64[n, S], first bin from `open_ns` on."""

    open_ns: int
    moves: NDArray[np.float64]

    def until(self, end_ns: int, bin_ns: int) -> Moves:
        """The bins that end by `end_ns`."""
        return replace(self, moves=self.moves[: max((end_ns - self.open_ns) // bin_ns, 0)])


def gather(panels: Iterable[Panel], config: LeadLagConfig, base_weights: NDArray[np.float64]) -> tuple[Rows, list[Moves]]:
    """The most recent `max_rows` labelled rows of the panels, and their binned moves (the most recent sessions up to `max_bins`).

    Raises DataError for a panel that is not made for fitting. One panel in memory at a time.
    """
    kept: list[Rows] = []
    binned: list[Moves] = []
    for panel in panels:
        label = label_rows(panel)
        assert panel.y is not None and panel.label_end is not None
        keep = np.any(label, axis=1)
        x = np.zeros((int(keep.sum()), len(panel.universe), len(config.bucket_bins) + 1, FEATURES))
        e = panel.events
        describe_session(
            memory(len(panel.universe), config.bucket_bins[-1]), config.bin_ns, np.array(config.bucket_bins), panel.as_of, panel.why,
            panel.offsets, e.ts, e.symbol, e.kind, e.side, e.trade_sz, e.bid_px, e.bid_sz, e.ask_px, e.ask_sz, keep, x,
        )  # fmt: skip
        # Where a base is not ready its value means nothing: 0 there, so that no NaN reaches a masked sum.
        y = np.where(label, panel.y, 0.0)[keep]
        residual = y - np.where(label, apply_base(base_weights, panel.base), 0.0)[keep]
        kept.append(Rows(x.astype(np.float32), panel.valid[keep], label[keep], residual, y, panel.as_of[keep], panel.label_end[keep]))
        binned.append(Moves(panel.open, binned_moves(panel, config.bin_ns)))
        while len(kept) > 1 and sum(len(k) for k in kept[1:]) >= config.max_rows:
            kept.pop(0)
        while len(binned) > 1 and sum(len(b.moves) for b in binned[1:]) >= config.max_bins:
            binned.pop(0)
    joined = Rows(*(np.concatenate([getattr(k, f.name) for k in kept]) for f in fields(Rows)))
    return joined[-config.max_rows :], binned


def split(rows: Rows, share: float) -> tuple[Rows, Rows]:
    """The last `share` of the rows to judge on, and those before whose labels ended PURGE_NS earlier to learn from."""
    cut = len(rows) - int(len(rows) * share)
    judged = rows[cut:]
    if not len(judged):
        return rows, judged
    return rows[:cut][rows.label_end[:cut] + PURGE_NS < judged.as_of[0]], judged
