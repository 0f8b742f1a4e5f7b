"""Binance's book out of recordings that begin in the middle, lose messages and get snapshots late: never wrong, and there if it can be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.binance_made import Recording, apart, columns, run, tops

MARKETS = ("spot", "usdm", "coinm")
ops = st.lists(
    st.tuples(
        st.sampled_from(("diff", "diff", "diff", "diff", "diff", "lost", "snapshot", "snapshot", "ticker", "trade")), st.integers(-3, 6)
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(MARKETS), st.integers(0, 9), ops)
def test_a_row_is_always_the_venue_s_book(market: str, seed: int, script: list[tuple[str, int]]) -> None:
    """Each book row is the book that the venue had, whatever was lost; and it is there as soon as a snapshot and what follows it are."""
    made = Recording(market, seed, script)
    parts = run(made.text, market, symbol=made.venue.symbol)
    book, status = columns(parts, "book"), columns(parts, "status")
    rows = {(s & 0xFFFFFFFF): [book[name][i] for name in list(book)[3:]] for i, s in enumerate(book.get("sequence", []))}
    halts = dict(zip([s & 0xFFFFFFFF for s in status.get("sequence", [])], status.get("halted", []), strict=True))
    assert status.get("halted") == status.get("gap")
    known = {m["until"]: m["book"] for m in made.messages if "until" in m}
    whole, lost, live, newest, recorded = False, False, False, 0, 0
    for i, message in enumerate(made.messages):
        before, recorded = recorded, message["until"] if message["op"] == "diff" else recorded
        if message["op"] not in ("diff", "snapshot"):
            assert i not in rows and i not in halts
            continue
        if i in halts:
            assert not (halts[i] and lost)  # never said twice
            whole, lost = not halts[i], halts[i]
        if i in rows:
            assert whole
            # A snapshot's row holds what came before it and follows it.
            newest = message["until"] if message["op"] == "diff" else max([message["until"], *followers(made, i)])
            assert rows[i] == tops(known[newest])
        elif message["op"] == "diff":
            assert not whole or message["until"] <= newest
            if live and lost and message["after"] != before:
                # A snapshot that had come already holds what was lost: what it does not hold goes on from here.
                newest = max(message["until"], *(m["until"] for m in made.messages[:i] if m["op"] == "snapshot"))
        # Liveness: nothing that a snapshot does not hold was lost, so every later change must have a row.
        if message["op"] == "snapshot" and not any(until > message["until"] for until in made.lost):
            live = True
        if live and message["op"] == "diff" and message["until"] > newest:
            raise AssertionError(f"message {i} follows the snapshot and has no row")
    reasons = [reason for reason, _ in apart(parts, "book")]
    assert len(rows) + len(reasons) == sum(m["op"] in ("diff", "snapshot") for m in made.messages)


def followers(made: Recording, snapshot: int) -> list[int]:
    """Ends of the changes recorded before a snapshot that lie behind it."""
    return [m["until"] for m in made.messages[:snapshot] if m["op"] == "diff" and m["until"] > made.messages[snapshot]["until"]]
