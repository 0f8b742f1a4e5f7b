"""Which columns of a feature set a fitted model reads, and where they stand: a step carries numbers without names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import ReleaseError, SchemaMismatch
from cift_models.features.feature_set import FeatureSet


@dataclass(frozen=True, slots=True)
class Columns:
    """`places` int64[K] of `names` in a row of `width` features."""

    names: tuple[str, ...]
    places: NDArray[np.int64]
    width: int

    @classmethod
    def of(cls, features: FeatureSet, names: Sequence[str]) -> Columns:
        """Raises SchemaMismatch for a name that the set lacks."""
        return cls(tuple(names), features.index(names), len(features.names))

    def check(self, features: FeatureSet) -> None:
        """Raise SchemaMismatch where the same names stand elsewhere in `features`."""
        if len(features.names) != self.width or not np.array_equal(features.index(self.names), self.places):
            raise SchemaMismatch(
                f"The features stand elsewhere than at the fit: {len(features.names)} columns, expected {self.width}.",
                hint="Predict with the feature set of the release, or fit again.",
            )

    def check_width(self, width: int) -> None:
        if width != self.width:
            raise SchemaMismatch(
                f"A row has {width} features; the fit had {self.width}.", hint="Predict with the feature set of the release."
            )

    def as_json(self) -> dict[str, Any]:
        return {"names": list(self.names), "places": [int(i) for i in self.places], "width": self.width}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Columns:
        """Raises ReleaseError where the places lie outside the row."""
        places = np.array(value["places"], np.int64)
        width = int(value["width"])
        if len(places) != len(value["names"]) or (places < 0).any() or (places >= width).any():
            raise ReleaseError(
                f"Columns {places.tolist()} do not fit {len(value['names'])} names in a row of {width}.", hint="The release is damaged."
            )
        return cls(tuple(value["names"]), places, width)
