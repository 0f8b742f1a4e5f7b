"""Which side takes, over the look-backs of the flows: trade_imbalance_Wms = (bought - sold) / (bought + sold), visible executions, -1..1.

0 where nothing traded. Trades of unknown side count below the line alone. Integer sums of the flows' ring, one division at the end.
"""

from __future__ import annotations

from cift_models.compiled import kernel
from cift_models.features.feature_set import FeatureSet
from cift_models.features.flows import MOVES_NS, since
from cift_models.features.memory import RING_EXTRA, RING_SIGNED, RING_VOLUME


def names(features: FeatureSet) -> tuple[str, ...]:
    """Columns of the family, in order."""
    return tuple(f"trade_imbalance_{w // 1_000_000}ms" for w in features.windows_ns)


@kernel
def row(m, ring, out, at):
    """Write the family's columns."""
    levels = ring.shape[1] - RING_EXTRA
    for w in range(m.n_windows - len(MOVES_NS)):
        volume = since(m, ring, w, levels + RING_VOLUME)
        out[at + w] = since(m, ring, w, levels + RING_SIGNED) / volume if volume > 0 else 0.0
