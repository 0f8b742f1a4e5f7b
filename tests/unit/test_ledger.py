"""The ledger refuses what knew too early."""

import numpy as np
import pytest

from cift_models.errors import DataError, InputError, LeakError
from cift_models.ledger import ancestors_t1, check


def rows(n: int = 5) -> dict:
    as_of = 1_700_000_000_000_000_000 + 1_000_000_000 * np.arange(n)
    return {
        "as_of": as_of,
        "available_at": as_of + 5,
        "max_train_t1": np.full(n, as_of[0] - 1),
        "in_sample": np.zeros(n, bool),
        "symbol": np.array(["A"] * n),
        "model": np.array(["linear"] * n),
    }


def test_rows_in_order_pass():
    check(rows())
    check({k: v for k, v in rows().items() if k in ("as_of", "available_at", "max_train_t1")})
    check({name: column[:0] for name, column in rows().items()})


@pytest.mark.parametrize(
    ("column", "delta", "match"),
    [("max_train_t1", 2_000_000_001, "knew too early"), ("available_at", -6, "before its time"), ("in_sample", True, "in sample")],
)
def test_the_first_bad_row_is_named(column, delta, match):
    bad = rows()
    bad[column] = bad[column].copy()
    bad[column][2:4] = True if delta is True else bad[column][2:4] + delta
    with pytest.raises(LeakError, match=rf"Prediction 2 \(linear A\).*{match}") as caught:
        check(bad)
    assert caught.value.row == 2


def test_a_label_known_at_the_instant_itself_is_too_early():
    bad = rows()
    bad["max_train_t1"][0] = bad["as_of"][0]
    with pytest.raises(LeakError):
        check(bad)


def test_a_polars_frame_is_checked_like_arrays():
    import polars

    check(polars.DataFrame(rows()))
    with pytest.raises(LeakError):
        check(polars.DataFrame(rows() | {"max_train_t1": rows()["as_of"]}))


def test_what_is_missing_or_rounded_is_refused():
    with pytest.raises(DataError, match="lack 'max_train_t1'"):
        check({k: v for k, v in rows().items() if k != "max_train_t1"})
    with pytest.raises(DataError, match="float64"):
        check(rows() | {"max_train_t1": rows()["max_train_t1"].astype(float)})
    with pytest.raises(DataError, match="3 rows"):
        check(rows() | {"available_at": rows()["available_at"][:3]})


def test_ancestors_are_followed_to_the_root():
    needs = {"ensemble": ("gnn", "hmm"), "gnn": ("linear",)}
    own = {"ensemble": 5, "gnn": 3, "hmm": 9, "linear": 4, "head": 7}
    assert ancestors_t1("linear", own, needs) == 4
    assert ancestors_t1("gnn", own, needs) == 4
    assert ancestors_t1("gnn", own, needs, {"gnn": ("head",)}) == 7
    assert ancestors_t1("ensemble", own, needs) == 9
    with pytest.raises(InputError, match="'threshold'"):
        ancestors_t1("gnn", own, needs, {"linear": ("threshold",)})
