"""From the R2s that were asked for to the coefficients that plant them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import SeedSequence
from numpy.typing import NDArray

from cift_models.errors import SettingsError
from cift_models.instruments import SECOND
from cift_models.simulate.config import SimulateConfig
from cift_models.simulate.draws import draw, news_hz, run_book
from cift_models.simulate.order_flow import expected_signed_count, trade_times
from cift_models.simulate.regimes import BAR_S, REGIMES

PILOT_ENTROPY = 7_261_994
"""Seed of the pilot: an arbitrary constant beside `config.seed`, so that every seed, session and symbol has the same coefficients."""

PILOT_S = 16 * 3600
"""Seconds of pilot market: 57,600 whole seconds leave about 1 % of error in a standard deviation, 2 % in an R2."""

IMPACT_SHARE_MOST = 0.1
"""Most of the variance that trades themselves may make: where they foretell each other little, impact_r2 is not reached."""

NO_MARKS = (np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True, slots=True)
class Calibration:
    """The coefficients of a market, the same in every session, and what the pilot measured to find them.

    imbalance_sd, product_mean, product_sd   of the queue imbalance and of sign(imbalance) sign(10-s signed volume), on whole seconds
    forecast_sd, signed_count_sd   of E[buys - sells in the next second | past], and of buys - sells in a second
    linear_bps        bps of expected move per unit of queue imbalance
    interaction_bps   bps per unit of (product - product_mean)
    impact_bps        move of the mid at a trade, its way
    edge_share        share of a leader's move that the follower repeats
    regime_bps        standard deviation of the 1-s move by regime, all causes together
    """

    imbalance_sd: float
    product_mean: float
    product_sd: float
    forecast_sd: float
    signed_count_sd: float
    linear_bps: float
    interaction_bps: float
    impact_bps: float
    edge_share: float
    regime_bps: tuple[float, ...]

    @property
    def scales(self) -> tuple[float, float, float]:
        """What `walk` takes under this name."""
        return self.linear_bps, self.interaction_bps, self.product_mean


def regime_volatility(config: SimulateConfig) -> NDArray[np.float64]:
    """float64[3], bps per sqrt(s): in the ratio that was asked for, with mean square volatility_bps^2 over the stationary thirds."""
    ratio = np.array([1.0, 1.0, config.volatility_ratio])
    return config.volatility_bps * ratio / np.sqrt(np.mean(ratio**2))


def calibrate(config: SimulateConfig) -> Calibration:
    """Measure a pilot market with nothing planted but impact, and scale each component to sqrt(R2) volatility_bps.

    Signals keep one coefficient in all regimes (a linear model can find all of it), so a component's R2 is a share of the long-run
    variance; over a finite stretch it rises and falls with the share of volatile regimes, which truth["realised"] reports.
    """
    seeds = SeedSequence(PILOT_ENTROPY).spawn(-(-PILOT_S // config.seconds))
    forecasts, counts, trades = [], [], []
    for seed in seeds:
        at_ns, sides = trade_times(config, np.random.default_rng(seed.spawn(1)[0]))
        trades.append((at_ns, sides))
        forecasts.append(expected_signed_count(config, at_ns, sides)[:-1])
        counts.append(np.bincount((at_ns - 1) // SECOND, weights=sides, minlength=config.seconds))
    forecast_sd = float(np.std(np.concatenate(forecasts)))
    signed_count_sd = float(np.std(np.concatenate(counts)))
    impact_bps = 0.0
    if config.impact_r2 > 0 and forecast_sd > 0:
        wanted, most = np.sqrt(config.impact_r2) / forecast_sd, np.sqrt(IMPACT_SHARE_MOST) / signed_count_sd
        impact_bps = float(min(wanted, most) * config.volatility_bps)

    measured = []
    for seed, flow in zip(seeds, trades, strict=True):
        draws = draw(config, seed.spawn(5), flow, NO_MARKS)
        noise_bps = regime_volatility(config) / np.sqrt(news_hz(config))
        measured.append(run_book(config, draws, noise_bps, (1.0, 1.0, 0.0), impact_bps, drifts=False, open_ns=0).components[:-1])
    imbalance, product = np.concatenate(measured)[:, :2].T
    imbalance_sd, product_sd = float(np.sqrt(np.mean(imbalance**2))), float(np.std(product))
    return Calibration(
        imbalance_sd=imbalance_sd,
        product_mean=float(np.mean(product)),
        product_sd=product_sd,
        forecast_sd=forecast_sd,
        signed_count_sd=signed_count_sd,
        linear_bps=float(np.sqrt(config.linear_r2) * config.volatility_bps / imbalance_sd),
        interaction_bps=float(np.sqrt(config.interaction_r2) * config.volatility_bps / product_sd),
        impact_bps=impact_bps,
        edge_share=float(np.sqrt(config.edge_r2)) if config.edge is not None else 0.0,
        regime_bps=tuple(float(v) for v in regime_volatility(config)),
    )


def noise_bps(config: SimulateConfig, found: Calibration, follows: bool) -> NDArray[np.float64]:
    """Standard deviation of one piece of news by regime, float64[3] bps: what the other causes leave of the regime's variance.

    `follows`: the symbol repeats another's moves. Raises SettingsError where the planted R2s leave nothing in a calm regime.
    """
    volatility = np.array(found.regime_bps)
    phi = np.array(config.ar)
    drift = (config.linear_r2 + config.interaction_r2) * config.volatility_bps**2 + volatility**2 * phi**2 / (BAR_S * (1.0 - phi**2))
    # A drift d on a Poisson number of pieces, d / rate each, has mean d and variance d^2 / rate.
    other = drift * (1.0 + 1.0 / news_hz(config))
    other += (config.edge_r2 if follows else 0.0) * config.volatility_bps**2 + (found.impact_bps * found.signed_count_sd) ** 2
    left = volatility**2 - other
    if left.min() <= 0:
        state = int(np.argmin(left))
        raise SettingsError(
            f"The planted components take {other[state]:.3f} bps^2 a second, more than the {volatility[state] ** 2:.3f} bps^2 that a "
            f"{REGIMES[state]} regime has "
            f"with volatility_bps {config.volatility_bps} and volatility_ratio {config.volatility_ratio}.",
            hint="Lower an R2 or the ratio, or raise moves_hz (few moves must carry the drift in large pieces).",
        )
    return np.sqrt(left / news_hz(config))
