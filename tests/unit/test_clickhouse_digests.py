"""A column's digest says exactly which cells there are, however they come in pieces."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cift_models.stores.clickhouse_digests import Digests

COLUMNS = {
    "f": (pl.Float64, st.none() | st.floats(allow_nan=False)),
    "n": (pl.Int64, st.none() | st.integers(-(2**63), 2**63 - 1)),
    "s": (pl.String, st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)),
    "b": (pl.Boolean, st.none() | st.booleans()),
}


def digests(*frames: pl.DataFrame) -> dict[str, str]:
    made = Digests()
    for frame in frames:
        made.update(frame)
    return made.hex()


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    n = draw(st.integers(1, 12))
    return pl.DataFrame(
        {name: pl.Series(draw(st.lists(cells, min_size=n, max_size=n)), dtype=kind) for name, (kind, cells) in COLUMNS.items()}
    )


@given(frame=frames(), cuts=st.lists(st.integers(0, 12), max_size=3))
def test_pieces_make_no_difference(frame: pl.DataFrame, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(c, len(frame)) for c in cuts), len(frame)]
    pieces = [frame[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    assert digests(*pieces) == digests(frame) == digests(pl.concat([frame, frame])[len(frame) :])


@given(one=frames(), other=frames())
def test_other_cells_make_another_digest(one: pl.DataFrame, other: pl.DataFrame) -> None:
    a, b = digests(one), digests(other)
    for name in COLUMNS:
        # By repr: -0.0 is not 0.0 here.
        assert (a[name] == b[name]) == (repr(one[name].to_list()) == repr(other[name].to_list())), name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([0.0], [-0.0]),
        ([None, 0.0], [0.0, None]),
        ([0.0, 0.0], [0.0, None]),
        (["ab", "c"], ["a", "bc"]),
        (["", "a"], ["a", ""]),
        (["", None], [None, ""]),
        ([None, None], [None]),
        ([True, False], [False, True]),
    ],
)
def test_what_is_easily_taken_for_the_same(one: list, other: list) -> None:
    kind = next((pl.Series(v).dtype for v in (one, other) if any(c is not None for c in v)), pl.Float64)
    first, second = (digests(pl.DataFrame({"x": pl.Series(v, dtype=kind)})) for v in (one, other))
    assert first != second
