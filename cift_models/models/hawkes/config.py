"""What a Hawkes model of market orders is to be."""

from __future__ import annotations

from pydantic import Field

from cift_models.models.protocol import Config


class HawkesConfig(Config):
    """Grid of decays, baseline and stopping rule.

    min_decay_s, max_decay_s   shortest and longest mean life of an excitation; the longest is cut to a tenth of the observed session and
                               to two knots of the baseline, beyond which excitation and time of day cannot be told apart
    decay_ratio                of two neighbouring decays; 2.6 gives 15 decays from 1e-4 to 60 s
    knot_s                     distance of the baseline's knots (linear spline over the session)
    min_intervals              knots come closer where the observed session has fewer intervals than this
    horizon_s                  expected counts are over (as_of, as_of + horizon_s]
    min_events                 a symbol with fewer arrivals gets a constant-rate Poisson and no opinion on the move
    tolerance                  certified distance from the optimum, nats per event, at which a fit has converged
    max_passes                 over the events, after which it has not
    """

    min_decay_s: float = Field(default=1e-4, gt=0)
    max_decay_s: float = Field(default=60.0, gt=0)
    decay_ratio: float = Field(default=2.6, gt=1)
    knot_s: float = Field(default=1800.0, gt=0)
    min_intervals: int = Field(default=4, ge=1)
    horizon_s: float = Field(default=1.0, gt=0)
    min_events: int = Field(default=50, ge=2)
    tolerance: float = Field(default=1e-8, gt=0)
    max_passes: int = Field(default=100, ge=1)
