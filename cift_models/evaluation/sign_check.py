"""Fit again on labels that no honest model can learn: who still has skill has seen them.

The labels are multiplied by independent random signs a second, which keeps zeros and volatility and kills direction. The cheap models are
fitted on them as for a release and judged on the test rows; leak_alarms rings where one of them knows something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cift_models.evaluation.evaluated import Evaluated, Forecast
from cift_models.evaluation.leak_alarms import random_signs
from cift_models.models import model_class
from cift_models.models.protocol import FitContext, Panel
from cift_models.splits import TEST, BlockCalendar, level0_folds
from cift_models.stacking import TrainingPanels

KINDS = ("last_move", "queue_imbalance", "ridge_reference", "trees", "linear", "strong_linear")
"""Models that are fitted in seconds."""


def on_random_signs(
    kinds: Sequence[str], data: Sequence[Evaluated], calendar: BlockCalendar, open_panel: Callable[[int], Panel], seed: int = 0
) -> list[Evaluated]:
    """`data` (one a symbol, in the universe's order) with labels times random signs and the forecasts of models fitted on such labels."""

    def signed(day: int) -> Panel:
        panel = open_panel(day)
        assert panel.y is not None
        return replace(panel, y=panel.y * random_signs(panel.as_of, seed)[:, None])

    forecasts: list[dict[str, Forecast]] = [{} for _ in data]
    final = level0_folds()[-1]
    for kind in (k for k in KINDS if k in kinds):
        cls = model_class(kind)
        train, stop = (TrainingPanels(kind, calendar, blocks, signed, lambda day: {}) for blocks in (final.train, final.stop))
        model, _ = cls.fit(cls.Config(), train, stop, FitContext(seed=seed))
        means: list[list[np.ndarray]] = [[] for _ in data]
        ready: list[list[np.ndarray]] = [[] for _ in data]
        for day in calendar.sessions(TEST):
            panel = open_panel(day)
            said = model.predict(panel)
            for s, part in enumerate(data):
                own = np.isin(panel.as_of, part.as_of)
                means[s].append(said.values[own, s, model.outputs.index("mean_bps")])
                ready[s].append(said.ready[own, s])
        for s in range(len(data)):
            forecasts[s][kind] = Forecast(np.concatenate(ready[s]), np.concatenate(means[s]))
    return [
        replace(part, y=part.y * random_signs(part.as_of, seed), y_delay={}, forecasts=own)
        for part, own in zip(data, forecasts, strict=True)
    ]
