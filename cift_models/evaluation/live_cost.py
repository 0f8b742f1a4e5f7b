"""What one live update of each model takes, measured on the machine and the session that are judged."""

from __future__ import annotations

import time

import numpy as np

from cift_models.engine import Decisions, Pipeline
from cift_models.models.protocol import Panel, Step

INSTANTS = 200
"""Updates that are timed: their median moves by a few per cent from run to run."""

FEWEST = 30


def live_ms(pipeline: Pipeline, panel: Panel, decided: Decisions, instants: int = INSTANTS) -> dict[str, float]:
    """Median ms of one `update` of each kind for the whole universe, over the first instants of a session at which every symbol is valid.

    Models are fed from the session's start, so that their memory is full; what they read is what the batch decided (the same bits). Empty
    where under FEWEST instants are valid. One pass over the session's beginning, O(instants). Not deterministic: it is a time.
    """
    good = np.flatnonzero(panel.valid.all(axis=1))[:instants]
    if len(good) < FEWEST:
        return {}
    out, timed = {}, frozenset(good.tolist())
    for kind, model in pipeline.models.items():
        state, spent = model.start(), []
        for t in range(int(good[-1]) + 1):
            at = panel.step(t)
            base = {k: decided.values[k][t] for k in model.needs}
            ready = {k: decided.ready[k][t] for k in model.needs}
            step = Step(at.as_of, at.session, at.x, at.valid, at.why, at.events, base, ready)
            began = time.perf_counter()
            state, _ = model.update(state, step)
            if t in timed:
                spent.append(time.perf_counter() - began)
        out[kind] = 1e3 * float(np.median(spent))
    return out
