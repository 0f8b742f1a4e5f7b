"""What a row of features is: names, windows, clock. A value, so that a release can refuse rows of another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import SchemaMismatch
from cift_models.files import digest
from cift_models.instruments import SECOND


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """The columns F of a panel, in order.

    levels       levels of the deepest book of the universe; a level that a symbol's book lacks gives 0
    clock_ns     distance of two decision instants
    windows_ns   look-backs of the flow features
    z_steps      decision instants under a rolling z-score
    profile_ns   look-back of the volume profile
    tick_bar     trades in one bar of the tick clock
    warm_up_ns   rows before session open + warm_up_ns are not valid (`why` is warm_up); after a halt or a gap nor those before
                 resumption + warm_up_ns
    """

    levels: int
    clock_ns: int = SECOND
    windows_ns: tuple[int, ...] = tuple(int(s * 1000) * SECOND // 1000 for s in (0.1, 0.5, 1, 3, 10, 30))
    z_steps: int = 60
    profile_ns: int = 60 * SECOND
    tick_bar: int = 100
    warm_up_ns: int = 60 * SECOND
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        from cift_models.features.families import FAMILIES

        names = tuple(name for family in FAMILIES for name in family.names(self))
        object.__setattr__(self, "names", names)

    @property
    def schema_hash(self) -> str:
        """Hex sha256 of everything above: another name, order, window or clock is another set."""
        return digest(asdict(self))

    def index(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Columns of some names. Raises SchemaMismatch for a name that the set lacks."""
        place = {name: i for i, name in enumerate(self.names)}
        missing = [n for n in names if n not in place]
        if missing:
            raise SchemaMismatch(
                f"The feature set lacks {missing[0]!r} (and {len(missing) - 1} more).", hint="Build the features again with this version."
            )
        return np.array([place[n] for n in names], np.int64)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FeatureSet:
        """The set that `as_json` described; SchemaMismatch if this version of the code would name its columns otherwise."""
        value = dict(value)
        names = tuple(value.pop("names"))
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        made = cls(**fields)
        if made.names != names:
            raise SchemaMismatch(
                "The stored feature set has other columns than this version of the code makes.", hint="Build the features again."
            )
        return made


def flow_names(features: FeatureSet, log: bool = False) -> list[str]:
    """Names of the flow features, raw or signed log1p: per level order flow imbalance and signed volume, per window."""
    prefix = "log_" if log else ""
    names = []
    for window in features.windows_ns:
        ms = window // 1_000_000
        names += [f"{prefix}ofi_{level:02d}_{ms}ms" for level in range(features.levels)] + [f"{prefix}signed_volume_{ms}ms"]
    return names
