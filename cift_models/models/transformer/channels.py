"""What a step shows to the network: which columns, how they are put on a scale, and how each behaves in a mirror."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet, flow_names

AS_IS, LOG, MOVE = 0, 1, 2
CLIP = 5.0
BASE_ODD = ("linear.mean_bps", "hawkes.mean_bps", "hawkes.n_buy-n_sell")
BASE_EVEN = ("hawkes.log_n",)


@dataclass(frozen=True, slots=True)
class Channels:
    """Columns and their transforms: `odd` change sign when bid and ask are swapped, `even` do not. A value with the columns' names.

    The base channels (BASE_ODD, BASE_EVEN) follow the columns in each group.
    """

    odd: tuple[tuple[str, int], ...]
    even: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, features: FeatureSet) -> Channels:
        """The channels of a feature set: signed-log flows, the quote, moves in bps; counts, ages, activity and volume on log scales."""
        counts = [f"log_count_{w // 1_000_000}ms" for w in features.windows_ns]
        odd = [(name, AS_IS) for name in flow_names(features, log=True)]
        odd += [(name, AS_IS) for name in ("queue_imbalance", "queue_imbalance_x_spread", "microprice_bps", "depth_imbalance")]
        odd += [(name, MOVE) for name in ("move_1000ms", "move_5000ms", "move_30000ms")]
        odd += [(name, AS_IS) for name in ("z_ofi_00", "z_signed_volume")]
        even = [
            (name, LOG)
            for name in ("spread_ticks", "half_spread_bps", "age_s", "volume", "n_trades", "realised_vol_60s", "realised_vol_300s")
        ]
        even += [(name, AS_IS) for name in (*counts, "activity_60s", "activity_600s", "session_share")]
        return cls(tuple(odd), tuple(even))

    @property
    def n_odd(self) -> int:
        return len(self.odd) + len(BASE_ODD)

    @property
    def n_even(self) -> int:
        return len(self.even) + len(BASE_EVEN)

    @property
    def names(self) -> tuple[str, ...]:
        """Odd channels, then even ones, in the order of a token."""
        return (*(n for n, _ in self.odd), *BASE_ODD, *(n for n, _ in self.even), *BASE_EVEN)

    def columns(self, features: FeatureSet) -> NDArray[np.int64]:
        """int64[1 + columns, 2]: the column and transform of each channel, `mid` first. Raises SchemaMismatch where one is missing."""
        pairs = (("mid", AS_IS), *self.odd, *self.even)
        return np.column_stack([features.index([n for n, _ in pairs]), np.array([code for _, code in pairs])])


@kernel
def channel_row(x, linear, hawkes, columns, n_odd, out):
    """One symbol's raw channels at one step. x float64[F], linear float64[C], hawkes float64[>= 3], out float64[channels]."""
    mid = x[columns[0, 0]]
    place = 0
    for i in range(1, columns.shape[0]):
        if place == n_odd - 3:
            out[place] = linear[0]
            out[place + 1] = hawkes[0]
            out[place + 2] = hawkes[1] - hawkes[2]
            place += 3
        value = x[columns[i, 0]]
        if columns[i, 1] == LOG:
            value = np.log1p(max(value, 0.0))
        elif columns[i, 1] == MOVE:
            value = 1e4 * value / mid
        out[place] = value
        place += 1
    out[place] = np.log1p(max(hawkes[1] + hawkes[2], 0.0))


@kernel
def raw_channels(x, linear, hawkes, usable, columns, n_odd, out):
    """Raw channels of a panel, out float64[T, S, channels]; rows that are not usable stay as they are."""
    for t in range(x.shape[0]):
        for s in range(x.shape[1]):
            if usable[t, s]:
                channel_row(x[t, s], linear[t, s], hawkes[t, s], columns, n_odd, out[t, s])


@kernel
def scaled_row(raw, centre, scale, out):
    """A token, float32[channels]: (raw - centre) * scale, clipped at CLIP. A channel that never varied has scale 0."""
    for i in range(raw.shape[0]):
        out[i] = np.float32(min(max((raw[i] - centre[i]) * scale[i], -CLIP), CLIP))


@kernel
def scaled_rows(raw, centre, scale, out):
    """Tokens of one symbol, out float32[T, channels] from raw float64[T, channels]."""
    for t in range(raw.shape[0]):
        scaled_row(raw[t], centre, scale, out[t])


class Moments:
    """Centre and scale of the channels of each symbol, from rows seen one panel at a time. Odd channels keep 0 as their centre: a mirror
    must not move it. A symbol with fewer than 100 rows takes the scale of all together."""

    def __init__(self, symbols: int, channels: Channels) -> None:
        self.n_odd = channels.n_odd
        self.count = np.zeros(symbols)
        self.mean = np.zeros((symbols, channels.n_odd + channels.n_even))
        self.spread = np.zeros_like(self.mean)

    def add(self, raw: NDArray[np.float64], keep: NDArray[np.bool_]) -> None:
        """raw float64[T, S, channels], keep bool[T, S] (Chan, Golub, LeVeque 1979, merging of means and sums of squares)."""
        for s in range(len(self.count)):
            rows = raw[keep[:, s], s]
            if len(rows) == 0:
                continue
            mean, n = rows.mean(axis=0), self.count[s] + len(rows)
            away = mean - self.mean[s]
            self.spread[s] += ((rows - mean) ** 2).sum(axis=0) + away**2 * self.count[s] * len(rows) / n
            self.mean[s] += away * len(rows) / n
            self.count[s] = n

    def centre_and_scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """float64[S, channels] each; scale is 1 / sd, 0 where the sd is 0 or lost in the rounding of the mean."""
        total = max(self.count.sum(), 1.0)
        share = self.count[:, None] / total
        pooled_mean = (share * self.mean).sum(axis=0)
        pooled = (self.spread.sum(axis=0) + (self.count[:, None] * (self.mean - pooled_mean) ** 2).sum(axis=0)) / total
        few = self.count < 100
        centre = np.where(few[:, None], pooled_mean, self.mean)
        variance = np.where(few[:, None], pooled, self.spread / np.maximum(self.count, 1.0)[:, None])
        variance[:, : self.n_odd] += centre[:, : self.n_odd] ** 2
        centre[:, : self.n_odd] = 0.0
        alive = variance > 1e-18 * (1.0 + centre**2)
        return centre, np.where(alive, 1.0 / np.sqrt(np.where(alive, variance, 1.0)), 0.0)
