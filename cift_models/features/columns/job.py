"""Bars, order flow, z-scores and volume profile of one symbol, in one pass over its chunks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError, InputError
from cift_models.features.columns import bars as bar_columns
from cift_models.features.columns import order_flow
from cift_models.features.columns.bars import ROWS, Bars
from cift_models.features.columns.chunk import Chunk
from cift_models.features.columns.clocks import Clock, State, TimeClock
from cift_models.features.columns.volume_profile import Profile, VolumeProfile
from cift_models.features.columns.z_score import RollingZ

BLOCK = 2**16
"""Rows worked through family by family before the next, where levels are distances: each reads the best prices again, from L2."""

JobState = dict[str, State]
"""Memory of every part by its name: `job.start()` makes it, `job.fold` changes it and gives it back. Plain arrays."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a chunk completed.

    bars      K bars
    ofi       int64[L, K] lots: order flow imbalance of each level over the bar
    z_ofi     float64[L, K]: its rolling z-score over bars
    z_tick    float64[n], one for each row of the chunk: rolling z-score of the best level's increments; none without tick_z
    warm_up   the first so many of z_tick had less than a full window behind them
    profile   R bins of the stretches that ended
    """

    bars: Bars
    ofi: NDArray[np.int64]
    z_ofi: NDArray[np.float64]
    z_tick: NDArray[np.float64]
    warm_up: int
    profile: Profile

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of chunks that follow one another, as one; at least one part."""
        if not parts:
            raise InputError("No rows to join.", hint="Fold at least one chunk.")
        return cls(
            Bars(*(np.concatenate([getattr(p.bars, f.name) for p in parts]) for f in fields(Bars))),
            np.concatenate([p.ofi for p in parts], axis=1),
            np.concatenate([p.z_ofi for p in parts], axis=1),
            np.concatenate([p.z_tick for p in parts]),
            sum(p.warm_up for p in parts),
            Profile(*(np.concatenate([getattr(p.profile, f.name) for p in parts]) for f in fields(Profile))),
        )


@dataclass(frozen=True, slots=True)
class Job:
    """Bars of `clock`; order flow of the `levels` best levels by bar and its z-score over `bar_z`; the best level's increments scored row
    by row over `tick_z` (None: not at all); a volume profile. A value: the same job on the same rows gives the same bits, in any chunks.

    One stream is one symbol over one session: start again after a halt or a gap in the feed.
    """

    levels: int = 1
    clock: Clock = field(default_factory=TimeClock)
    bar_z: RollingZ = field(default_factory=lambda: RollingZ(300))
    tick_z: RollingZ | None = field(default_factory=lambda: RollingZ(1000))
    profile: VolumeProfile = field(default_factory=VolumeProfile)

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise InputError(f"A job over {self.levels} levels has no order flow.", hint="Choose at least one level.")

    def start(self) -> JobState:
        """Memory before the first row."""
        state = {"clock": self.clock.start(), "bars": bar_columns.start(), "profile": self.profile.start()}
        if self.tick_z:
            state["tick_z"] = self.tick_z.start()
        for level in range(self.levels):
            state[f"flow_{level:02d}"] = order_flow.start()
            state[f"bar_z_{level:02d}"] = self.bar_z.start()
        return state

    def fold(self, state: JobState, chunk: Chunk, z_tick: NDArray[np.float64] | None = None) -> tuple[Rows, JobState]:
        """What the next chunk completes, and the memory after it. `state` is changed and given back: fork it with `copy` first.

        `z_tick` float64[>= n] receives the row-by-row scores, for a caller that reads them before the next chunk (a fresh column of 4 MB
        costs as much as filling it); without it the rows own theirs. O(n levels), one thread, without the GIL; row i of z_tick uses rows
        up to i, a bar its own rows. Memory beside the output: the state, and 20 bytes a row of the chunk at most.

        Raises DataError where the chunk has fewer levels than the job, time goes back, a size or an increment is beyond what stays exact,
        or prices jump out of a profile. The state may not be used afterwards.
        """
        if len(chunk.levels) < self.levels:
            raise DataError(
                f"The chunk has {len(chunk.levels)} levels of the book, the job {self.levels}.",
                hint="Give a deeper book, or make the job of fewer levels.",
            )
        n = len(chunk) if self.tick_z else 0
        if z_tick is None:
            z_tick = np.empty(n)
        elif z_tick.dtype != np.float64 or z_tick.ndim != 1 or len(z_tick) < n or not z_tick.flags.c_contiguous:
            raise DataError(
                f"z_tick is {z_tick.dtype}{list(z_tick.shape)}. Expected a contiguous float64 vector of at least {n:,}.",
                hint="Make it as long as the longest chunk.",
            )
        near = any(level.is_near for level in chunk.levels[: self.levels])
        step = BLOCK if near else max(len(chunk), 1)
        parts = [self._fold(state, chunk[at : at + step], z_tick[at : min(at + step, n)]) for at in range(0, max(len(chunk), 1), step)]
        rows = parts[0] if len(parts) == 1 else Rows.join(parts)
        return replace(rows, z_tick=z_tick[:n], warm_up=self.tick_z.n_warm_up(state["tick_z"], n) if self.tick_z else 0), state

    def finish(self, state: JobState) -> Rows:
        """The bar and the stretch that are still open, as if they ended with the last row seen. `state` stays as it is."""
        bars = bar_columns.finish(state["bars"], self.clock.open_as_of(state["clock"]))
        ofi = np.empty((self.levels, len(bars)), np.int64)
        z_ofi = np.empty(ofi.shape)
        for level in range(self.levels):
            ofi[level] = state[f"flow_{level:02d}"]["open"][: len(bars)]
            z_ofi[level] = self.bar_z.fold(_copy(state[f"bar_z_{level:02d}"]), ofi[level], f"Order flow of level {level:02d} in a bar")
        return Rows(bars, ofi, z_ofi, np.empty(0), 0, self.profile.finish(state["profile"]))

    def run(self, chunks: Iterable[Chunk]) -> Rows:
        """A whole stream at once, the open bar and stretch included: memory is the output and a chunk."""
        state, parts = self.start(), []
        for chunk in chunks:
            rows, state = self.fold(state, chunk)
            parts.append(rows)
        return Rows.join([*parts, self.finish(state)])

    def _fold(self, state: JobState, chunk: Chunk, z_tick: NDArray[np.float64]) -> Rows:
        """One block, family by family and level by level; its z_tick is written and left out of the rows."""
        ends, as_of = self.clock.ends(state["clock"], chunk)
        bars = bar_columns.fold(state["bars"], chunk, ends, as_of)
        profile = self.profile.fold(state["profile"], chunk)
        ofi = np.empty((self.levels, len(ends)), np.int64)
        z_ofi = np.empty(ofi.shape)
        rows = max(int(bars.n_rows.max(initial=0)), int(state["bars"]["bar"][ROWS]))
        for at in range(self.levels):
            name = f"{at:02d}"
            flow, level = state[f"flow_{name}"], chunk.levels[at]
            if at == 0 and self.tick_z:
                ofi[at] = order_flow.fold_scored(flow, level, ends, name, self.tick_z, state["tick_z"], z_tick)
            else:
                ofi[at] = order_flow.fold(flow, level, chunk.levels[0], ends, name)
            order_flow.check_exact(flow, rows, name)
            z_ofi[at] = self.bar_z.fold(state[f"bar_z_{name}"], ofi[at], f"Order flow of level {name} in a bar")
        return Rows(bars, ofi, z_ofi, z_tick[:0], 0, profile)


def copy(state: JobState) -> JobState:
    """A fork: folding one changes nothing of the other."""
    return {name: _copy(part) for name, part in state.items()}


def _copy(state: State) -> State:
    return {name: array.copy() for name, array in state.items()}
