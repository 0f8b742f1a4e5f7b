"""The rows of a fit as one long run of tokens: each symbol's usable steps of a session, one after the other, in a file that is mapped."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError
from cift_models.instruments import SECOND
from cift_models.models.protocol import Panel, Step, refuse_nan
from cift_models.models.residual_base import NEEDS, apply_base, base_is_ready, label_rows
from cift_models.models.transformer.channels import Channels, Moments, raw_channels, scaled_rows

TRAIN, HELD_OUT = 1, 2
BLOCK_NS = 10 * SECOND
PURGE_NS = 10 * SECOND


def usable_rows(at: Step | Panel) -> NDArray[np.bool_]:
    """Rows that are tokens, [S] of a step or [T, S] of a panel: valid, and the base speaks. Raises DataError for what is not finite."""
    usable = at.valid & base_is_ready(at.base_ready)
    refuse_nan(at.x, at.valid, "transformer")
    for kind in NEEDS:
        refuse_nan(at.base[kind], usable, f"transformer, outputs of {kind}")
    return usable


def panel_channels(panel: Panel, channels: Channels, usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Raw channels float64[T, S, channels], 0 where a row is not usable."""
    raw = np.zeros((*panel.x.shape[:2], channels.n_odd + channels.n_even))
    linear, hawkes = base_columns(panel.base)
    raw_channels(panel.x, linear, hawkes, usable, channels.columns(panel.features), channels.n_odd, raw)
    return raw


def base_columns(base: dict[str, NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outputs of linear and hawkes, [..., S, C]. Raises DataError where hawkes says less than mean_bps, n_buy, n_sell."""
    if base["hawkes"].shape[-1] < 3:
        raise DataError(
            f"The transformer reads mean_bps, n_buy and n_sell of hawkes. Found {base['hawkes'].shape[-1]} columns.",
            hint="Run the hawkes model of this version first.",
        )
    return base["linear"], base["hawkes"]


@dataclass(frozen=True, slots=True)
class HoldOut:
    """Which labelled rows teach and which judge: those of the validation panels, else of the last tenth of the labelled instants.

    begins_ns is the first instant of that tenth, None where validation panels are given.
    """

    begins_ns: int | None

    @classmethod
    def of(cls, train: Sequence[Panel], valid: Sequence[Panel]) -> HoldOut:
        if len(valid):
            return cls(None)
        instants = [panel.as_of[label_rows(panel).any(axis=1)] for panel in train]
        every = np.sort(np.concatenate(instants))
        return cls(int(every[int(0.9 * len(every))]) if len(every) else 0)

    def kinds(self, panel: Panel, is_valid: bool) -> NDArray[np.int8]:
        """int8[T, S]: TRAIN, HELD_OUT, or 0: no label, or one that ends within 10 s of the rows held out."""
        kind = np.where(label_rows(panel), HELD_OUT if is_valid else TRAIN, 0).astype(np.int8)
        if self.begins_ns is not None:
            late = panel.as_of >= self.begins_ns
            end = panel.as_of if panel.label_end is None else panel.label_end
            kind[late & (kind > 0).any(axis=1)] *= HELD_OUT
            kind[~late & (end + PURGE_NS > self.begins_ns)] = 0
        return kind


@dataclass(frozen=True, slots=True)
class Corpus:
    """Tokens of all sequences (one symbol, one session), in order; N of them.

    tokens    float32[N, channels], mapped from a file
    place     float64[N], steps of the clock since the sequence's first token
    target    float32[N], y - base in sd of its symbol
    label     int8[N], TRAIN, HELD_OUT or 0
    block     int64[N], the ten seconds a token lies in, for standard errors
    bounds    int64[sequences, 2], first token and last + 1
    size_bps  float64[S], that sd; centre, scale float64[S, channels]
    """

    tokens: NDArray[np.float32]
    place: NDArray[np.float64]
    target: NDArray[np.float32]
    label: NDArray[np.int8]
    block: NDArray[np.int64]
    bounds: NDArray[np.int64]
    size_bps: NDArray[np.float64]
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]

    def chunks(self, kind: int, length: int) -> NDArray[np.int64]:
        """int64[n, 3]: the bounds of its sequence and the first token of each chunk of `length` tokens that holds a label of this kind."""
        found = []
        for first, last in self.bounds:
            labelled = first + np.flatnonzero(self.label[first:last] == kind)
            while len(labelled):
                start = int(labelled[0])
                found.append((first, last, start))
                labelled = labelled[labelled >= start + length]
        return np.array(found, np.int64).reshape(-1, 3)

    def digest(self) -> str:
        """Hex sha256 of what is learnt from: a checkpoint of other data is not taken up."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.place, self.target, self.label, self.bounds):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def build(
    train: Sequence[Panel], valid: Sequence[Panel], channels: Channels, base_weights: NDArray[np.float64], folder: Path | None
) -> Corpus:
    """Read the panels, one at a time, for the scales and again for the tokens. Memory: one panel and 29 bytes a token; the tokens (4 bytes
    a channel) lie in an unnamed file in `folder`, or the system's temporary one."""
    hold_out = HoldOut.of(train, valid)
    symbols = len(base_weights)
    moments, count, square = Moments(symbols, channels), np.zeros(symbols), np.zeros(symbols)
    for panel in train:
        keep = hold_out.kinds(panel, False) == TRAIN
        moments.add(panel_channels(panel, channels, usable_rows(panel)), keep)
        left = np.where(keep, np.asarray(panel.y) - apply_base(base_weights, panel.base), 0.0)
        count, square = count + keep.sum(axis=0), square + (left**2).sum(axis=0)
    centre, scale = moments.centre_and_scale()
    size_bps = residual_size(count, square)

    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    parts: list[tuple[NDArray, ...]] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for panel, is_valid in both(train, valid):
            usable, kind = usable_rows(panel), hold_out.kinds(panel, is_valid)
            raw = panel_channels(panel, channels, usable)
            left = (np.asarray(panel.y) - apply_base(base_weights, panel.base)) / size_bps
            for s in range(symbols):
                rows = np.flatnonzero(usable[:, s])
                if len(rows) == 0:
                    continue
                tokens = np.empty((len(rows), raw.shape[-1]), np.float32)
                scaled_rows(raw[rows, s], centre[s], scale[s], tokens)
                file.write(tokens.data)
                place = (panel.as_of[rows] - panel.as_of[rows[0]]) / panel.features.clock_ns
                parts.append((place, left[rows, s].astype(np.float32), kind[rows, s], panel.as_of[rows] // BLOCK_NS))
        lengths = np.array([len(part[0]) for part in parts], np.int64)
        ends = np.cumsum(lengths)
        if parts:
            file.flush()
            tokens = np.memmap(file, np.float32, "r+", shape=(int(ends[-1]), centre.shape[1]))
            place, target, label, block = (np.concatenate(column) for column in zip(*parts, strict=True))
        else:
            tokens = np.empty((0, centre.shape[1]), np.float32)
            place, target, label, block = np.empty(0), np.empty(0, np.float32), np.empty(0, np.int8), np.empty(0, np.int64)
    return Corpus(tokens, place, target, label, block, np.column_stack([ends - lengths, ends]), size_bps, centre, scale)


def both(train: Sequence[Panel], valid: Sequence[Panel]) -> Iterator[tuple[Panel, bool]]:
    """Every panel once, with whether it is for validation."""
    for panel in train:
        yield panel, False
    for panel in valid:
        yield panel, True


def residual_size(count: NDArray[np.float64], square: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root mean square of what the base leaves, bps, a symbol; with fewer than 100 rows, or none that moved, that of all together."""
    pooled = np.sqrt(square.sum() / max(count.sum(), 1.0)) or 1.0
    own = np.sqrt(square / np.maximum(count, 1.0))
    return np.where((count < 100) | (own == 0), pooled, own)
