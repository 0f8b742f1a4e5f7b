"""The job as cift_models.features.columns does it: one thread, integer columns, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
from numba import njit

from cift_models.features.columns import Bars, Chunk, Job, RollingZ, Rows
from cift_models.features.columns.volume_profile import VolumeProfile
from tests.benchmarks.peers import plain_columns
from tests.benchmarks.peers.job import BAR_WINDOW, PROFILE_NS, TICK_WINDOW, Columns, Contestant, Sums, names, sums_of

CHUNK = 2**18


def job(levels: int) -> Job:
    return Job(levels, bar_z=RollingZ(BAR_WINDOW), tick_z=RollingZ(TICK_WINDOW), profile=VolumeProfile(PROFILE_NS))


def load(columns: Columns, levels: int) -> Contestant:
    whole = Chunk.of_columns({name: columns[name] for name in names(levels)})
    made, z = job(levels), np.empty(CHUNK)

    def run():
        return fold(made, (whole[at : at + CHUNK] for at in range(0, len(whole), CHUNK)), z)

    return Contestant({"numba": run}, lambda result: sums(result, levels))


def fold(made: Job, chunks: Iterable[Chunk], z) -> tuple[list[Rows], float]:
    """Rows of every chunk and of what stays open, and the sum of |z_tick|, whose column is lent to the next chunk."""
    state, parts, total = made.start(), [], 0.0
    for chunk in chunks:
        rows, state = made.fold(state, chunk, z)
        total += magnitude(rows.z_tick)
        parts.append(rows)
    return [*parts, made.finish(state)], total


@njit(nogil=True, fastmath={"reassoc"})
def magnitude(z):
    """Sum of |z| in vectors: in any order, as every engine here adds it up."""
    total = 0.0
    for i in range(z.shape[0]):
        total += abs(z[i])
    return total


def from_parquet(files: list[Path], levels: int) -> Contestant:
    """The same from files of plain columns, which are read and worked on by one thread."""
    made, z = job(levels), np.empty(plain_columns.ROWS)
    return Contestant({"numba": lambda: fold(made, batches(files, levels), z)}, lambda result: sums(result, levels))


def batches(files: list[Path], levels: int) -> Iterator[Chunk]:
    """Their rows, lent a chunk at a time."""
    for file in files:
        for columns in plain_columns.read(file, names(levels)):
            yield Chunk.of_columns(columns)


def output_mb(result: tuple[list[Rows], float]) -> float:
    """MB that the result holds; the lent column of scores is not its own."""
    total = sum(part.ofi.nbytes + part.z_ofi.nbytes for part in result[0])
    for table in ("bars", "profile"):
        total += sum(getattr(getattr(part, table), f.name).nbytes for part in result[0] for f in fields(getattr(part, table)))
    return total / 1e6


def sums(result: tuple[list[Rows], float], levels: int) -> Sums:
    parts, z_tick = result
    bars = {f.name: np.concatenate([getattr(p.bars, f.name) for p in parts]) for f in fields(Bars)}
    for level in range(levels):
        bars[f"ofi_{level:02d}"] = np.concatenate([p.ofi[level] for p in parts])
        bars[f"z_{level:02d}"] = np.concatenate([p.z_ofi[level] for p in parts])
    # A stretch of the profile that ends in one chunk is whole there: nothing to add up over parts.
    return sums_of(bars, levels, z_tick, np.concatenate([p.profile.volume for p in parts]))
