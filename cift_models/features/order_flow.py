"""What one event adds to the order flow of a level: the increment under every order flow imbalance of the project."""

from __future__ import annotations

from cift_models.compiled import kernel


@kernel(inline="always")
def increment(bid_px, bid_sz, ask_px, ask_sz, new_bid_px, new_bid_sz, new_ask_px, new_ask_sz):
    """e = 1[b' >= b] q_b' - 1[b' <= b] q_b - 1[a' <= a] q_a' + 1[a' >= a] q_a, in lots: an integer.

    An empty level has the price EMPTY_BID or EMPTY_ASK and the size 0, and needs no case of its own (Cont, Kukanov and Stoikov 2014, eq. 3;
    level by level: Xu, Gould and Howison 2019).
    """
    # Products and no branches: half of the comparisons of real books go either way, and a wrong guess costs more than all of this.
    bid = (new_bid_px >= bid_px) * new_bid_sz - (new_bid_px <= bid_px) * bid_sz
    ask = (new_ask_px <= ask_px) * new_ask_sz - (new_ask_px >= ask_px) * ask_sz
    return bid - ask
