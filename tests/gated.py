"""A challenger that the gate promotes, and everything that it asks for: tests take one thing away at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cift_models.evaluation.causality import Audit
from cift_models.evaluation.certificate import Certificate, CertifiedRun, CheapNulls
from cift_models.evaluation.evaluated import Evaluated, Forecast
from cift_models.evaluation.gate import AUDITED, Contender, Evidence
from tests.evaluated import chances, forecast, market, with_forecasts

CODE, CONFIG = "c" * 64, "d" * 64
SKILL = 0.4
"""b of the market: R2 of the best forecast is .06, t 8 on 40 blocks."""


def certificate(size: str = "full", **changed) -> Certificate:
    """One that vouches; of size test it is made of a single seed."""
    seeds = range(3 if size == "full" else 1)
    made = Certificate(
        code=CODE,
        config=CONFIG,
        nulls=tuple(CertifiedRun(seed=seed, verdict="held") for seed in seeds),
        planted=tuple(CertifiedRun(seed=seed, verdict="promoted") for seed in seeds),
        cheap=CheapNulls(n=200, promoted=1) if size == "full" else CheapNulls(n=5, promoted=0),
        size=size,  # type: ignore[arg-type]
    )
    return made.model_copy(update=changed)


def audits() -> tuple[Audit, ...]:
    return tuple(Audit(what, 20231114, 100, 5, 1000, {"cut": 8}, {"event": 8}, ()) for what in AUDITED)


def evidence(**changed) -> Evidence:
    made = Evidence(
        code=CODE, alarms=(), nulls=CheapNulls(n=200, promoted=3), audits=audits(), certificate=certificate(), latency_ms=4.0, draws=500
    )
    return replace(made, **changed)


def rows(seed: int, symbol: str, skill: float = 1.0, count: int = 2400, base: float = 0.5, b: float = SKILL) -> Evaluated:
    """One symbol: `best` knows a share `skill` of what can be known, `linear` a share `base`, both calibrated."""
    data, x = market(seed, count, b=b, symbol=symbol)
    truth = 0.4 * b
    rng = np.random.default_rng(seed + 77)

    def share(of: float) -> Forecast:
        # z has correlation sqrt(of) with x, so E[y | z] = truth sqrt(of) z, and the sign is a probit of it with more noise.
        z = np.sqrt(of) * x + np.sqrt(1 - of) * rng.normal(size=count)
        mean = truth * np.sqrt(of) * z
        return replace(forecast(mean), p=chances(mean / np.sqrt(1 + b * b * (1 - of))))

    return with_forecasts(data, {"linear": share(base), "best": share(skill)})


def contender(parts: dict[str, Evaluated], model: str = "best", release: str | None = "a" * 64, **changed) -> Contender:
    return replace(
        Contender(model, parts, release, CODE, CONFIG, max_train_t1=min(int(part.as_of[0]) for part in parts.values()) - 1),
        **changed,
    )


def good(**changed) -> Contender:
    return contender({"S0": rows(0, "S0"), "S1": rows(1, "S1")}, **changed)
