"""Panels of simulated markets as the lead-lag tests need them: real events and moves, a base that says nothing."""

from __future__ import annotations

import numpy as np

from cift_models.features import FeatureSet
from cift_models.instruments import SECOND
from cift_models.labels import labels
from cift_models.models.protocol import Panel, Why
from cift_models.simulate import Market


def silent_panels(market: Market) -> list[Panel]:
    """One panel a session: features all 0, valid from 60 s on, base 0, rows a margin away from both ends."""
    features = FeatureSet(levels=market.universe.levels)
    out = []
    for k, session in enumerate(market.sessions):
        events = market.stream(k)
        as_of = np.array(session.instants(SECOND))
        y, known, label_end = labels(events, market.universe, session, as_of, SECOND)
        rows = known.all(axis=1) & (as_of >= session.open + session.margin) & (as_of < session.close - session.margin)
        valid = np.repeat((as_of >= session.open + 60 * SECOND)[:, None], len(market.universe), axis=1)
        base = {kind: np.zeros((*valid.shape, 1)) for kind in ("linear", "hawkes")}
        out.append(
            Panel(
                market.universe,
                features,
                session.day,
                session.open,
                session.close,
                as_of,
                np.zeros((*valid.shape, len(features.names))),
                valid,
                np.where(valid, Why.OK, Why.WARM_UP).astype(np.int8),
                events,
                np.concatenate([[0], np.searchsorted(events.ts, as_of, "right")]).astype(np.int64),
                base=base,
                base_ready={kind: valid.copy() for kind in base},
                y=np.where(rows[:, None], y, 0.0),
                rows=rows,
                label_end=label_end,
                base_oof=rows.copy(),
            )
        )
    return out
