"""One row of features straight from the definitions: loops over all events up to the instant. Slow and obvious, no line shared."""

from __future__ import annotations

import math

import numpy as np

from cift_models.events import BOOK, GAP, HALT, HIDDEN, RESUME, TRADE, Events
from cift_models.features import FeatureSet
from cift_models.features.clock_bars import VOLUME_BAR
from cift_models.features.signed_counts import HALF_LIVES_S
from cift_models.instruments import SECOND, Session, Universe


def slow_row(
    universe: Universe, features: FeatureSet, session: Session, events: Events, as_of: int, s: int
) -> tuple[dict[str, float], int]:
    """Every column by name, and why."""
    instrument = universe.instruments[s]
    past = [i for i in range(len(events)) if events.symbol[i] == s and events.ts[i] <= as_of]
    breaks = [i for i in past if events.kind[i] & (HALT | RESUME)]
    since, begin, halted = session.open, -1, 0
    for i in breaks:
        begin, since = i, int(events.ts[i])
        if events.kind[i] & HALT:
            halted = 2 if events.kind[i] & GAP else 3
        if events.kind[i] & RESUME:
            halted = 0
    gaps = [i for i in breaks if events.kind[i] & GAP]
    fresh = [i for i in past if i >= begin]  # what memory holds: the event that interrupts is its first
    book_events = [i for i in past if events.kind[i] & BOOK and (not gaps or i >= gaps[-1])]
    empty = ([0] * features.levels,) * 4

    def book(i: int | None) -> tuple[list[int], ...]:
        if i is None:
            return empty
        return tuple([int(v) for v in column[i]] for column in (events.bid_px, events.bid_sz, events.ask_px, events.ask_sz))

    def mid_at(i: int | None) -> float:
        b, q, a, r = book(i)
        return (b[0] + a[0]) / 2 * instrument.tick_size if q[0] > 0 and r[0] > 0 else 0.0

    def last_book(until: int) -> int | None:
        at = [i for i in book_events if events.ts[i] <= until]
        return at[-1] if at else None

    out: dict[str, float] = {}
    b, q, a, r = book(last_book(as_of))
    two_sided = q[0] > 0 and r[0] > 0
    mid = mid_at(last_book(as_of))
    quote = dict.fromkeys(
        ("mid", "spread", "spread_ticks", "half_spread_bps", "queue_imbalance", "queue_imbalance_x_spread", "microprice_bps",
         "depth_imbalance", "age_s", *(f"queue_imbalance_{k:02d}" for k in range(1, features.levels)), "bid_slope", "ask_slope",
         "slope_imbalance"), 0.0,
    )  # fmt: skip
    if two_sided:
        spread = (a[0] - b[0]) * instrument.tick_size
        micro = (b[0] * r[0] + a[0] * q[0]) / (q[0] + r[0]) * instrument.tick_size
        quote |= {
            "mid": mid, "spread": spread, "spread_ticks": a[0] - b[0], "half_spread_bps": 1e4 * spread / 2 / mid,
            "queue_imbalance": (q[0] - r[0]) / (q[0] + r[0]), "queue_imbalance_x_spread": (q[0] - r[0]) / (q[0] + r[0]) * spread,
            "microprice_bps": 1e4 * (micro - mid) / mid, "depth_imbalance": (sum(q) - sum(r)) / (sum(q) + sum(r)),
            "age_s": (as_of - int(events.ts[past[-1]])) / 1e9,
        }  # fmt: skip
        for k in range(1, features.levels):
            quote[f"queue_imbalance_{k:02d}"] = (q[k] - r[k]) / (q[k] + r[k]) if q[k] + r[k] else 0.0
        slopes = []
        for px, sz in ((b, q), (a, r)):
            d = np.array([abs((a[0] + b[0]) / 2 - px[k]) for k in range(features.levels) if sz[k] > 0])
            depth = np.cumsum([sz[k] for k in range(features.levels) if sz[k] > 0]) / instrument.lot_scale
            slopes.append(float(d @ depth / (d @ d)) if d @ d > 0 else 0.0)
        quote["bid_slope"], quote["ask_slope"] = slopes
        quote["slope_imbalance"] = (slopes[0] - slopes[1]) / sum(slopes) if sum(slopes) > 0 else 0.0
    out |= quote

    fresh_books = [i for i in fresh if events.kind[i] & BOOK]
    ofi = {}
    for before, i in zip(fresh_books, fresh_books[1:], strict=False):
        (b0, q0, a0, r0), (b1, q1, a1, r1) = book(before), book(i)
        ofi[i] = [
            (b1[k] >= b0[k]) * q1[k] - (b1[k] <= b0[k]) * q0[k] - (a1[k] <= a0[k]) * r1[k] + (a1[k] >= a0[k]) * r0[k]
            for k in range(features.levels)
        ]
    shown = [i for i in fresh if events.kind[i] & TRADE and not events.kind[i] & HIDDEN]
    signed = {i: int(events.side[i]) * int(events.trade_sz[i]) for i in shown}
    for w in features.windows_ns:
        ms = w // 1_000_000
        inside = [i for i in fresh if as_of - w < events.ts[i]]
        flows = {f"ofi_{k:02d}_{ms}ms": sum(ofi[i][k] for i in inside if i in ofi) for k in range(features.levels)}
        flows[f"signed_volume_{ms}ms"] = sum(signed[i] for i in inside if i in signed)
        volume = sum(int(events.trade_sz[i]) for i in inside if i in signed)
        out[f"trade_imbalance_{ms}ms"] = flows[f"signed_volume_{ms}ms"] / volume if volume else 0.0
        for name, lots in flows.items():
            out[name] = lots / instrument.lot_scale
            out[f"log_{name}"] = math.copysign(math.log1p(abs(out[name])), out[name])
        out[f"log_count_{ms}ms"] = math.log1p(len(inside))

    def known_mid(until: int) -> float:
        """The last mid of a two-sided book that an event since the interruption showed."""
        known = [mid_at(i) for i in fresh_books if events.ts[i] <= until and mid_at(i) > 0]
        return known[-1] if known else 0.0

    for w in (SECOND, 5 * SECOND, 30 * SECOND):
        then = known_mid(as_of - w)
        out[f"move_{w // 1_000_000}ms"] = known_mid(as_of) - then if then else 0.0

    for h in HALF_LIVES_S:
        terms = [int(events.side[i]) * 0.5 ** ((as_of - int(events.ts[i])) / (h * SECOND)) for i in shown]
        out[f"count_{int(h * 1000)}ms"] = math.fsum(terms)

    trades = [i for i in fresh if events.kind[i] & TRADE]
    px = {i: int(events.trade_px[i]) / instrument.price_scale for i in trades}
    sz = {i: int(events.trade_sz[i]) for i in trades}
    bar = [i for i in trades if as_of - features.clock_ns < events.ts[i] or as_of == session.open + features.clock_ns]
    standing = px[trades[-1]] if trades else mid
    out |= {
        "bar_open": px[bar[0]] if bar else standing, "bar_close": px[bar[-1]] if bar else standing,
        "bar_high": max((px[i] for i in bar), default=standing), "bar_low": min((px[i] for i in bar), default=standing),
        "bar_vwap": sum(px[i] * sz[i] for i in bar) / sum(sz[i] for i in bar) if bar else standing,
        "volume": sum(sz[i] for i in bar) / instrument.lot_scale, "n_trades": len(bar),
    }  # fmt: skip
    full = {"tick": lambda run: len(run) >= features.tick_bar}
    full["volume"] = lambda run: sum(sz[i] for i in run) >= VOLUME_BAR[instrument.unit] * instrument.lot_scale
    for clock, done in full.items():
        run: list[int] = []
        closed: list[int] = []
        for i in trades:
            run.append(i)
            if done(run):
                closed, run = run, []
        columns = dict.fromkeys(("return_bps", "range_bps", "vwap_bps", "imbalance", "s"), 0.0) | {"age_s": (as_of - since) / 1e9}
        if closed:
            lots = sum(sz[i] for i in closed)
            vwap = sum(px[i] * sz[i] for i in closed) / lots
            first = px[closed[0]]
            columns = {
                "return_bps": 1e4 * (px[closed[-1]] - first) / first,
                "range_bps": 1e4 * (max(px[i] for i in closed) - min(px[i] for i in closed)) / first,
                "vwap_bps": 1e4 * (vwap - mid) / mid if mid else 0.0,
                "imbalance": sum(int(events.side[i]) * sz[i] for i in closed) / lots,
                "s": (int(events.ts[closed[-1]]) - int(events.ts[closed[0]])) / 1e9,
                "age_s": (as_of - int(events.ts[closed[-1]])) / 1e9,
            }
        out |= {f"{clock}_bar_{name}": value for name, value in columns.items()}

    instants = [t for t in session.instants(features.clock_ns) if t <= as_of and (not breaks or t >= since)]
    mids = [mid_at((book_events_at(events, s, t) or [None])[-1]) for t in instants]
    returns: dict[int, float] = {}
    for k, (m0, m1) in enumerate(zip(mids, mids[1:], strict=False)):
        if m0 > 0 and m1 > 0:
            returns[k] = 1e4 * math.log(m1 / m0)
    for w in (10, 60, 300):
        known = list(returns)[-w:]
        moves = [returns[k] for k in known]
        out[f"realised_vol_{w}s"] = math.sqrt(sum(v * v for v in moves) / len(moves)) if moves else 0.0
        pairs = [abs(returns[k] * returns[k - 1]) for k in known if k - 1 in known]
        out[f"bipower_vol_{w}s"] = math.sqrt(math.pi / 2 * sum(pairs) / len(pairs)) if pairs else 0.0
    for h in (60, 600):
        d = 0.5 ** (features.clock_ns / (h * SECOND))
        moved, seen = 0.5, 1.0
        for m0, m1 in zip(mids, mids[1:], strict=False):
            if m0 > 0 and m1 > 0:
                moved, seen = d * moved + (m0 != m1), d * seen + 1
        out[f"activity_{h}s"] = min(max(moved / seen, 1e-4), 1 - 1e-4)

    profile: dict[int, int] = {}
    for i in trades:
        if as_of - features.profile_ns < events.ts[i]:
            price_bin = int(events.trade_px[i]) // instrument.tick_units
            profile[price_bin] = profile.get(price_bin, 0) + sz[i]
    out |= dict.fromkeys(("profile_poc_ticks", "profile_low_ticks", "profile_high_ticks", "profile_entropy"), 0.0)
    if profile and two_sided:
        bins = sorted(profile)
        volume = [profile[k] for k in bins]
        low = high = volume.index(max(volume))
        while sum(volume[low : high + 1]) < 0.7 * sum(volume):
            below = volume[low - 1] if low > 0 else -1
            above = volume[high + 1] if high + 1 < len(volume) else -1
            low, high = (low - 1, high) if below >= above else (low, high + 1)
        centre = (a[0] + b[0]) / 2
        out["profile_poc_ticks"] = bins[volume.index(max(volume))] - centre
        out["profile_low_ticks"], out["profile_high_ticks"] = bins[low] - centre, bins[high] - centre
        out["profile_entropy"] = -sum(v / sum(volume) * math.log(v / sum(volume)) for v in volume)

    for what, these in (("event", fresh), ("trade", trades)):
        times = [int(events.ts[i]) for i in these]
        found = np.array([min((t1 - t0) // 1000, 60_000_000) for t0, t1 in zip(times, times[1:], strict=False)][-32:], float)
        out[f"{what}_gap_s"] = found.mean() * 1e-6 if len(found) else 0.0
        out[f"{what}_gap_cv"] = found.std() / found.mean() if len(found) and found.mean() > 0 else 0.0
    out["trade_age_s"] = (as_of - (int(events.ts[trades[-1]]) if trades else since)) / 1e9

    per_row: list[list[int]] = []
    for t in instants:
        inside = [i for i in fresh if (t - features.clock_ns < events.ts[i] or t == instants[0]) and events.ts[i] <= t]
        per_row.append([sum(ofi[i][0] for i in inside if i in ofi), sum(signed[i] for i in inside if i in signed)])
    for c, name in enumerate(("z_ofi_00", "z_signed_volume")):
        v = np.array([row[c] for row in per_row[-features.z_steps :]], float)
        out[name] = (v[-1] - v.mean()) / v.std() if len(v) and v.std() > 0 else 0.0

    out["session_share"] = (as_of - session.open) / (session.close - session.open)
    warming = as_of < since + features.warm_up_ns
    return out, halted or (4 if not two_sided else 1 if warming else 0)


def book_events_at(events: Events, s: int, t: int) -> list[int]:
    """Events of a symbol up to t that set its book; none before a gap."""
    found: list[int] = []
    for i in range(len(events)):
        if events.symbol[i] != s or events.ts[i] > t:
            continue
        if events.kind[i] & GAP:
            found = []
        if events.kind[i] & BOOK:
            found.append(i)
    return found
