"""Walking an XGBoost forest without XGBoost: one walker on both paths, and no foreign parser between a release and its answer.

XGBoost takes .5 ms for one row, this a few microseconds; and its parsers are not memory safe on damaged files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cift_models.compiled import kernel
from cift_models.errors import ReleaseError

LEAF = -1


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees laid end to end; a node is a place in the arrays.

    roots int32[n_trees]; feature, left, right int32[n] (left is LEAF at a leaf); value float32[n]: threshold, or weight at a leaf;
    default_left bool[n]: where a missing value goes; base_score float32: what is added where no margin is given.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    value: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    default_left: NDArray[np.bool_]
    base_score: float
    n_features: int

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The forest of an XGBoost JSON model (`Booster.save_raw("json")`) with one numeric output and squared error.

        Raises ReleaseError where it is another kind of model, or where a child, a feature or a number is not possible.
        """
        import orjson

        try:
            learner = orjson.loads(data)["learner"]
            model = learner["gradient_booster"]["model"]
            param = learner["learner_model_param"]
            # "5E-1" before version 3.1, "[5E-1]" since.
            base_score = float(np.float32(str(param["base_score"]).strip("[]")))
            n_features = int(param["num_feature"])
            objective = learner["objective"]["name"]
            if learner["gradient_booster"]["name"] != "gbtree" or objective != "reg:squarederror" or any(model["tree_info"]):
                raise ReleaseError(
                    f"Expected a gbtree forest of one squared-error output; was {objective}.", hint="The release is damaged."
                )
            sizes = [len(tree["left_children"]) for tree in model["trees"]]
            starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
            feature, value = _joined(model, "split_indices", np.int32), _joined(model, "split_conditions", np.float32)
            left, right = _joined(model, "left_children", np.int32), _joined(model, "right_children", np.int32)
            default_left = _joined(model, "default_left", np.int32).astype(bool)
            if any(any(tree["split_type"]) for tree in model["trees"]):
                raise ReleaseError("The forest has categorical splits.", hint="Expected numeric features.")
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ReleaseError(f"This is not an XGBoost JSON model: {error!r}.", hint="The release is damaged.") from error
        forest = cls._linked(starts, feature, value, left, right, default_left, base_score, n_features)
        return forest

    @classmethod
    def _linked(
        cls,
        starts: NDArray,
        feature: NDArray,
        value: NDArray,
        left: NDArray,
        right: NDArray,
        default_left: NDArray,
        base_score: float,
        n_features: int,
    ) -> Self:
        if not len(feature) == len(value) == len(left) == len(right) == len(default_left) == starts[-1]:
            raise ReleaseError("The forest's arrays differ in length.", hint="The release is damaged.")
        tree = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        place = np.arange(len(left), dtype=np.int32)
        inner = left != LEAF
        up, down = (np.where(inner, child + starts[tree], place) for child in (left, right))
        # A child that lies after its parent and inside its tree: no walk can leave the forest or go round in it.
        inside = (up > place) & (down > place) & (up < starts[tree + 1]) & (down < starts[tree + 1])
        sound = np.where(inner, inside & (feature >= 0) & (feature < n_features), right == LEAF)
        if not sound.all() or not np.isfinite(value).all() or not np.isfinite(base_score):
            raise ReleaseError(
                f"Node {int(np.argmin(sound))} of the forest has an impossible child, feature or number.", hint="The release is damaged."
            )
        left, right = (np.where(inner, child, LEAF).astype(np.int32) for child in (up, down))
        return cls(starts[:-1], feature, value, left, right, default_left, base_score, n_features)

    def predict(self, x: NDArray[np.float64], margin: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Sum of leaves over the margin (default: base_score), float64[n] of float32 sums in tree order. x float64[n, n_features].

        A NaN in x is missing and takes the default branch. O(n trees depth).
        """
        start = np.full(len(x), self.base_score, np.float32) if margin is None else margin.astype(np.float32)
        return walk(x, start, self.roots, self.feature, self.value, self.left, self.right, self.default_left).astype(np.float64)


def _joined(model: dict[str, Any], name: str, dtype: type) -> NDArray[Any]:
    parts = [np.array(tree[name], dtype) for tree in model["trees"]]
    return np.concatenate(parts) if parts else np.empty(0, dtype)


@kernel
def walk(x, start, roots, feature, value, left, right, default_left):
    """float32[n]: start + leaf of tree 0 + leaf of tree 1 + ..., in float32, as XGBoost adds. x [n, K] is cast to float32 first."""
    out = np.empty(x.shape[0], np.float32)
    row = np.empty(x.shape[1], np.float32)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            row[j] = np.float32(x[i, j])
        total = start[i]
        for root in roots:
            node = root
            while left[node] != LEAF:
                v = row[feature[node]]
                go_left = default_left[node] if np.isnan(v) else v < value[node]
                node = left[node] if go_left else right[node]
            total = np.float32(total + value[node])
        out[i] = total
    return out
