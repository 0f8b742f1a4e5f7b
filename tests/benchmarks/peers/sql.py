"""What the two SQL engines share: the columns of the job's tables as expressions."""

from __future__ import annotations

from tests.benchmarks.peers.job import BAR_WINDOW


def increment(level: int, lag: str) -> str:
    """`lag` is a pattern that makes the value of a column one row earlier."""
    at = f"{level:02d}"
    b, q, a, r = (f"{side}_{at}" for side in ("bid_px", "bid_sz", "ask_px", "ask_sz"))
    b0, q0, a0, r0 = (lag.format(column=column) for column in (b, q, a, r))
    return (
        f"case when {b} >= {b0} then {q} else 0 end - case when {b} <= {b0} then {q0} else 0 end"
        f" - case when {a} <= {a0} then {r} else 0 end + case when {a} >= {a0} then {r0} else 0 end"
    )


def score(x: str, n: str, s1: str, s2: str) -> str:
    spread = f"({n} * {s2} - {s1} * {s1})"
    return f"case when {spread} > 0 then ({n} * {x} - {s1}) / sqrt({spread}) else 0 end"


def bar_scores(levels: int, wide: str) -> str:
    """z_00, ... of a table with columns bar, ofi_00, ...: windows over few rows. `wide` is a pattern that makes a column wide enough."""
    window = f"over (order by bar rows between {BAR_WINDOW - 1} preceding and current row)"
    n = f"least(row_number() over (order by bar), {BAR_WINDOW})"
    columns = []
    for level in range(levels):
        x = wide.format(column=f"ofi_{level:02d}")
        columns.append(f"{score(x, n, f'sum({x}) {window}', f'sum({x} * {x}) {window}')} as z_{level:02d}")
    return ", ".join(columns)
