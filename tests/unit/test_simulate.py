"""The simulated market holds what its manifest says, measured from its events alone."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import orjson
import pytest
from pydantic import ValidationError

from cift_models.errors import SettingsError
from cift_models.events import BOOK, TRADE, Events, check_order
from cift_models.files import canonical_json
from cift_models.instruments import SECOND
from cift_models.simulate import Market, SimulateConfig, simulate
from tests.market import small_market

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def default() -> Market:
    return simulate()


@pytest.fixture(scope="module")
def long() -> Market:
    """30 symbol-sessions of 3 h: 324,000 seconds, where an R2 of .03 has a standard error of about .001."""
    return simulate(SimulateConfig(seed=11, sessions=10))


def same_bytes(a: Events, b: Events) -> bool:
    return all(getattr(a, f.name).tobytes() == getattr(b, f.name).tobytes() for f in fields(Events))


def mids(market: Market, k: int, symbol: str) -> np.ndarray:
    """The mid in ticks at open, open + 1 s, ... close, float64[T + 1]: of the last event with ts <= the instant."""
    events, session = market.events[k][symbol], market.sessions[k]
    last = np.searchsorted(events.ts, np.arange(session.open, session.close + 1, SECOND), "right") - 1
    return (events.bid_px[last, 0].astype(np.int64) + events.ask_px[last, 0]) / 2


def moves(market: Market, k: int, symbol: str) -> np.ndarray:
    """float64[T - 1], bps: the move over the second that begins at each decision instant but the last."""
    mid = mids(market, k, symbol)
    return (1e4 * np.diff(mid) / mid[:-1])[1:]


def pooled(market: Market, name: str, symbols: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Moves and one component of some symbols, all sessions."""
    y, f = [], []
    for k in range(len(market.sessions)):
        for symbol in symbols:
            y.append(moves(market, k, symbol))
            f.append(market.paths[k][name][:-1, market.universe.index(symbol)])
    return np.concatenate(y), np.concatenate(f)


def columns(market: Market, k: int, symbol: str) -> dict[str, np.ndarray]:
    """What a linear model sees, float64[T - 1] each, by the definitions and not by the feature kernels."""
    e, session = market.events[k][symbol], market.sessions[k]
    bid, ask = e.bid_px[:, 0].astype(float), e.ask_px[:, 0].astype(float)
    bid_sz, ask_sz = e.bid_sz[:, 0].astype(float), e.ask_sz[:, 0].astype(float)
    ofi = np.zeros(len(e))
    ofi[1:] += np.where(bid[1:] >= bid[:-1], bid_sz[1:], 0) - np.where(bid[1:] <= bid[:-1], bid_sz[:-1], 0)
    ofi[1:] += np.where(ask[1:] >= ask[:-1], ask_sz[:-1], 0) - np.where(ask[1:] <= ask[:-1], ask_sz[1:], 0)
    flows = {"ofi": ofi, "signed_volume": e.side.astype(float) * e.trade_sz, "trades": (e.kind & TRADE > 0).astype(float)}
    at = np.arange(session.open + SECOND, session.close, SECOND)
    last = np.searchsorted(e.ts, at, "right") - 1
    mid, imbalance = (bid + ask) / 2, (bid_sz - ask_sz) / (bid_sz + ask_sz)
    out = {"queue_imbalance": imbalance[last], "queue_imbalance_x_spread": (imbalance * (ask - bid))[last], "spread": (ask - bid)[last]}
    for window_ms in (100, 500, 1000, 3000, 10_000, 30_000):
        before = np.searchsorted(e.ts, at - window_ms * 1_000_000, "right") - 1
        for name, flow in flows.items():
            total = np.concatenate([[0.0], np.cumsum(flow)])
            inside = total[last + 1] - total[before + 1]
            out[f"{name}_{window_ms}ms"] = inside
            out[f"log_{name}_{window_ms}ms"] = np.sign(inside) * np.log1p(np.abs(inside))
        out[f"move_{window_ms}ms"] = mid[last] - mid[np.maximum(before, 0)]
    return out


def ridge_r2(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], penalty: float = 300.0) -> float:
    """Out-of-sample R2 against zero of a ridge on standardised columns clipped at 5."""
    mean, sd = train[0].mean(0), train[0].std(0) + 1e-9
    z, v = (np.column_stack([np.ones(len(x)), np.clip((x - mean) / sd, -5, 5)]) for x in (train[0], test[0]))
    weights = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ train[1])
    return 1.0 - np.sum((test[1] - v @ weights) ** 2) / np.sum(test[1] ** 2)


def dataset(market: Market, sessions: range, only: tuple[str, ...] = (), extra: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Columns (some or all) and moves of all symbols of some sessions; `extra` names a component that is given away as one column more."""
    xs, ys = [], []
    for k in sessions:
        for s, symbol in enumerate(market.universe.symbols):
            seen = columns(market, k, symbol)
            x = [seen[name] for name in only or seen]
            xs.append(np.column_stack(x + [market.paths[k][extra][:-1, s]] if extra else x))
            ys.append(moves(market, k, symbol))
    return np.concatenate(xs), np.concatenate(ys)


def test_same_config_gives_the_same_bytes_and_another_seed_others():
    config = SimulateConfig(session_minutes=5)
    a, b, other = simulate(config), simulate(config), simulate(config.model_copy(update={"seed": 1}))
    for k in range(2):
        for symbol in config.symbols:
            assert same_bytes(a.events[k][symbol], b.events[k][symbol])
            assert not same_bytes(a.events[k][symbol], other.events[k][symbol])
        assert all(a.paths[k][name].tobytes() == b.paths[k][name].tobytes() for name in a.paths[k])
    assert canonical_json(a.truth) == canonical_json(b.truth)
    assert not same_bytes(a.events[0]["AAA"][:500], a.events[1]["AAA"][:500])


def test_more_sessions_or_symbols_leave_the_others_as_they_were():
    config = SimulateConfig(session_minutes=5, symbols=("AAA", "BBB"), sessions=1)
    few = simulate(config)
    many = simulate(SimulateConfig(session_minutes=5, symbols=("AAA", "BBB", "CCC"), sessions=3))
    for symbol in config.symbols:
        assert same_bytes(few.events[0][symbol], many.events[0][symbol])


def test_the_manifest_is_json(default):
    assert orjson.loads(canonical_json(default.truth)) == default.truth
    assert SimulateConfig.model_validate_json(canonical_json(default.truth["config"])) == default.config


def test_events_are_a_lawful_book(default):
    for k, session in enumerate(default.sessions):
        for e in default.events[k].values():
            check_order(e)
            assert e.ts[0] == session.open and e.ts[-1] <= session.close
            assert (np.diff(e.ts) > 0).all()
            assert (e.kind & BOOK > 0).all() and e.kind[0] == BOOK
            assert (e.bid_px[:, 0] < e.ask_px[:, 0]).all()
            assert (np.diff(e.bid_px, axis=1) < 0).all() and (np.diff(e.ask_px, axis=1) > 0).all()
            assert (e.bid_sz > 0).all() and (e.ask_sz > 0).all()
            spread = e.ask_px[:, 0] - e.bid_px[:, 0]
            assert set(np.unique(spread)) == {3, 4, 5, 6}


def test_trades_execute_at_the_touch_before_them_and_never_more_than_stood_there(default):
    units = default.universe.instruments[0].tick_units
    e = default.events[0]["AAA"]
    at = np.flatnonzero(e.kind & TRADE)
    buys, sells = at[e.side[at] == 1], at[e.side[at] == -1]
    assert len(buys) + len(sells) == len(at) and len(buys) > 1000 and len(sells) > 1000
    np.testing.assert_array_equal(e.trade_px[buys], e.ask_px[buys - 1, 0].astype(np.int64) * units)
    np.testing.assert_array_equal(e.trade_px[sells], e.bid_px[sells - 1, 0].astype(np.int64) * units)
    assert (e.trade_sz[at] >= 1).all()
    assert (e.trade_sz[buys] <= e.ask_sz[buys - 1, 0]).all() and (e.trade_sz[sells] <= e.bid_sz[sells - 1, 0]).all()
    quiet = np.setdiff1d(np.arange(len(e)), at)
    assert not e.side[quiet].any() and not e.trade_sz[quiet].any() and not e.trade_px[quiet].any()


def test_a_trade_without_impact_takes_its_size_from_the_queue():
    e = simulate(SimulateConfig(session_minutes=30, sessions=1, symbols=("AAA",), impact_r2=0)).events[0]["AAA"]
    at = np.flatnonzero(e.kind & TRADE)
    buys = at[(e.side[at] == 1)]
    left = e.ask_sz[buys - 1, 0] - e.trade_sz[buys]
    np.testing.assert_array_equal(e.ask_sz[buys, 0][left > 0], left[left > 0])
    np.testing.assert_array_equal(e.bid_px[buys], e.bid_px[buys - 1])
    assert (left > 0).sum() > 100 and (left == 0).sum() > 10


def test_stream_joins_the_symbols(default):
    stream = default.stream(1)
    check_order(stream)
    for s, part in enumerate(default.events[1].values()):
        mine = stream[stream.symbol == s]
        assert same_bytes(replace(mine, symbol=np.zeros(len(mine), np.int16)), part)


def test_size_and_shape_are_what_a_newcomer_is_told(default):
    total = sum(len(e) for session in default.events for e in session.values())
    assert 200_000 < total < 400_000
    assert [s.day for s in default.sessions] == [20240108, 20240109]
    path = default.paths[0]
    assert path["regime"].shape == path["linear"].shape == (10_800, 3) and path["regime"].dtype == np.int8
    assert 0.1 < default.truth["realised"]["all"]["zero_share"] < 0.6
    assert default.truth["half_spread_bps"] < default.truth["realised"]["all"]["strongest_decile_bps"] / 2


def test_a_weekend_is_skipped():
    config = SimulateConfig(session_minutes=2, symbols=("AAA",), sessions=4, first_day="2024-01-11")
    assert [s.day for s in simulate(config).sessions] == [20240111, 20240112, 20240115, 20240116]


@pytest.mark.parametrize(
    ("name", "nominal", "symbols"),
    [
        ("linear", 0.03, ("AAA", "BBB", "CCC")),
        ("interaction", 0.02, ("AAA", "BBB", "CCC")),
        ("impact", 0.005, ("AAA", "BBB", "CCC")),
        ("edge", 0.015, ("BBB",)),
    ],
)
def test_every_component_is_worth_what_was_asked(long, name, nominal, symbols):
    """R2 of the OLS of the move, measured from the events, on the component: within a fifth of nominal (of one symbol, 30 %).

    That is what the share of volatile regimes (18 visits of 10 minutes in 3 h) leaves free over 10 sessions, and 3 standard errors.
    """
    y, f = pooled(long, name, symbols)
    slope = (f @ y) / (f @ f)
    fitted = 1 - np.sum((y - slope * f) ** 2) / (y @ y)
    assert fitted == pytest.approx(nominal, rel=0.2 if len(symbols) > 1 else 0.3)
    label = "all" if len(symbols) > 1 else symbols[0]
    assert long.truth["realised"][label]["r2"][name] == pytest.approx(1 - np.sum((y - f) ** 2) / (y @ y), abs=1e-9)


def test_the_components_are_the_expectation_of_the_move(long):
    """OLS of the move on all components: every slope is 1 within 4 robust standard errors; and they are uncorrelated (|rho| < .03)."""
    names = ("linear", "interaction", "edge", "impact", "autoregressive")
    both = [pooled(long, name, long.config.symbols) for name in names]
    y, f = both[0][0], np.column_stack([b[1] for b in both])
    inverse = np.linalg.inv(f.T @ f)
    slopes = inverse @ f.T @ y
    residual = y - f @ slopes
    errors = np.sqrt(np.diag(inverse @ ((f * residual[:, None] ** 2).T @ f) @ inverse))
    assert (np.abs(slopes - 1) < 4 * errors).all()
    assert (errors < (0.02, 0.02, 0.04, 0.04, 0.05)).all()
    assert np.abs(np.corrcoef(f.T) - np.eye(len(names))).max() < 0.03


def test_components_are_functions_of_the_events_so_far(default):
    """Linear and interaction again from queue and trades at the instant; and cutting the future off changes nothing before it."""
    truth, config = default.truth, default.config
    e, session = default.events[0]["CCC"], default.sessions[0]
    signed = e.side.astype(np.int64) * e.trade_sz
    for i in range(0, 10_800, 371):
        t = session.open + (i + 1) * SECOND
        past = e.ts <= t
        bid, ask = int(e.bid_sz[past][-1, 0]), int(e.ask_sz[past][-1, 0])
        flow = int(signed[past & (e.ts > t - 10 * SECOND)].sum())
        imbalance = (bid - ask) / (bid + ask)
        assert default.paths[0]["linear"][i, 2] == pytest.approx(truth["linear"]["bps_per_unit"] * imbalance)
        product = np.sign(imbalance) * np.sign(flow) - truth["interaction"]["less_mean"]
        assert default.paths[0]["interaction"][i, 2] == pytest.approx(truth["interaction"]["bps_per_unit"] * product)
    assert config.linear_r2 > 0


def test_a_martingale_cannot_be_forecast():
    market = simulate(SimulateConfig(seed=3, sessions=6).martingale())
    assert market.truth["realised"]["all"]["r2"]["all"] == 0.0
    assert market.truth["impact"]["bps_per_trade"] == 0.0
    score = ridge_r2(dataset(market, range(4)), dataset(market, range(4, 6)))
    assert abs(score) < 0.0015
    assert market.truth["realised"]["all"]["volatility_bps"] == pytest.approx(2.0, rel=0.15)


def test_clear_signals_show_in_two_hours_and_keep_their_size():
    config = SimulateConfig(seed=5, symbols=("AAA", "BBB"), sessions=1, session_minutes=120)
    assert config.planting("usual") == config and config.planting("nothing") == config.martingale()
    usual, clear = (simulate(config.planting(what)).truth["realised"] for what in ("usual", "clear"))
    for symbol in config.symbols:
        was, is_ = usual[symbol]["r2"], clear[symbol]["r2"]
        assert is_["linear"] > 0.08 and is_["all"] > 2.5 * was["all"] > 0
        assert is_["interaction"] > 0.05
    assert clear["BBB"]["r2"]["edge"] > 0.03


def test_a_ridge_sees_the_linear_signal_and_not_the_interaction(long):
    """Beside what the columns tell, the interaction is worth its 2 % to who is given it, and nothing to a ridge without it."""
    train, test = range(7), range(7, 10)
    y = dataset(long, test)[1]
    oracle = {name: np.concatenate([long.paths[k][name][:-1].T.ravel() for k in test]) for name in ("linear", "interaction")}
    worth = {name: 1 - np.sum((y - f) ** 2) / (y @ y) for name, f in oracle.items()}
    seen = ridge_r2(dataset(long, train), dataset(long, test))
    assert seen > 0.9 * worth["linear"]
    given = ridge_r2(dataset(long, train, extra="interaction"), dataset(long, test, extra="interaction"))
    assert given - seen > 0.8 * worth["interaction"] > 0.012
    # A ridge towards the interaction itself: R2 of the component, times its worth, is what a linear model could gain from it.
    x = dataset(long, train)[0], np.concatenate([long.paths[k]["interaction"][:-1].T.ravel() for k in train])
    v = dataset(long, test)[0], oracle["interaction"]
    assert ridge_r2(x, v) * worth["interaction"] < 0.0005


def test_trees_see_the_interaction():
    from sklearn.ensemble import HistGradientBoostingRegressor

    market = simulate(SimulateConfig(seed=4, sessions=6, linear_r2=0, impact_r2=0, edge_r2=0, ar=(0, 0, 0)))
    pair = ("queue_imbalance", "signed_volume_10000ms")
    train, test = dataset(market, range(4), pair), dataset(market, range(4, 6), pair)
    trees = HistGradientBoostingRegressor(max_iter=60, max_leaf_nodes=8, learning_rate=0.2, random_state=0, early_stopping=False)
    forecast = trees.fit(*train).predict(test[0])
    gain = 1 - np.sum((test[1] - forecast) ** 2) / np.sum(test[1] ** 2)
    assert gain > 0.5 * market.truth["realised"]["all"]["r2"]["interaction"]
    assert abs(ridge_r2(train, test)) < 0.002


def lagged(market: Market, leader: str, follower: str) -> dict[int, float]:
    """Correlation of the follower's move with the leader's, that begins `lag` s earlier."""
    n = {lag: [] for lag in range(6)}
    for k in range(len(market.sessions)):
        a, b = moves(market, k, leader), moves(market, k, follower)
        for lag in n:
            n[lag].append(np.corrcoef(a[: len(a) - lag], b[lag:])[0, 1])
    return {lag: float(np.mean(r)) for lag, r in n.items()}


def test_the_follower_repeats_the_leader_two_seconds_later_and_not_the_reverse(long):
    forward, back, strangers = lagged(long, "AAA", "BBB"), lagged(long, "BBB", "AAA"), lagged(long, "AAA", "CCC")
    assert max(forward, key=forward.get) == 2
    assert forward[2] == pytest.approx(np.sqrt(long.config.edge_r2), rel=0.2)
    others = [abs(r) for lag, r in forward.items() if lag != 2] + [abs(r) for r in (back | {9: 0.0}).values()]
    assert max(others + [abs(r) for r in strangers.values()]) < 0.02


def test_a_lag_below_a_second_is_known_in_part_only():
    market = simulate(SimulateConfig(seed=2, sessions=4, edge_lag_ms=400))
    forward = lagged(market, "AAA", "BBB")
    assert sorted(forward, key=forward.get)[-2:] == [1, 0]
    # 40 % of the second's repetitions are known when it begins.
    assert market.truth["realised"]["BBB"]["r2"]["edge"] == pytest.approx(0.4 * 0.015, rel=0.4)
    assert np.std(market.paths[0]["edge"][:, 0]) == 0 == np.std(market.paths[0]["edge"][:, 2])


def bars(market: Market, k: int, symbol: str) -> tuple[np.ndarray, np.ndarray]:
    """Moves float64[n] in bps of the 30-s bars from the open, and their regimes."""
    mid = mids(market, k, symbol)[::30]
    regime = market.paths[k]["regime"][:, market.universe.index(symbol)]
    return 1e4 * np.diff(mid) / mid[:-1], regime[0::30][: len(mid) - 1]


def test_regimes_dwell_and_differ_as_planted():
    market = simulate(SimulateConfig(seed=6, sessions=20))
    x, previous, state, dwells, stays = [], [], [], [], []
    for k in range(20):
        for symbol in market.universe.symbols:
            move, regime = bars(market, k, symbol)
            x.append(move[1:])
            previous.append(move[:-1])
            state.append(regime[1:])
            change = np.flatnonzero(np.diff(regime))
            dwells.append(len(change))
            stays.append(len(regime) - 1)
    x, previous, state = (np.concatenate(v) for v in (x, previous, state))
    assert sum(stays) / sum(dwells) * 0.5 == pytest.approx(10.0, rel=0.12)
    phi = {}
    for s, nominal in enumerate(market.config.ar):
        rows = state == s
        phi[s] = (x[rows] @ previous[rows]) / (previous[rows] @ previous[rows])
        scale = np.sqrt(np.sum((previous[rows] * (x[rows] - phi[s] * previous[rows])) ** 2)) / (previous[rows] @ previous[rows])
        assert abs(phi[s] - nominal) < 4 * scale < 0.12
    y = np.concatenate([moves(market, k, s) for k in range(20) for s in market.universe.symbols])
    r = np.concatenate([market.paths[k]["regime"][:-1, s] for k in range(20) for s in range(3)])
    volatility = [np.sqrt(np.mean(y[r == s] ** 2)) for s in range(3)]
    np.testing.assert_allclose(volatility, market.truth["regimes"]["volatility_bps"], rtol=0.03)
    assert volatility[2] / np.mean(volatility[:2]) == pytest.approx(2.5, rel=0.03)
    assert np.sqrt(np.mean(y**2)) == pytest.approx(2.0, rel=0.06)


@pytest.mark.parametrize(
    "wrong",
    [
        {"symbols": ("AAA", "AAA")},
        {"edge": ("AAA", "ZZZ")},
        {"edge": ("AAA", "AAA")},
        {"tick_size": 0.00015},
        {"branching_60s": 0.97},
        {"ar": (0.3, -0.95, 0.0)},
        {"sesions": 3},
    ],
)
def test_impossible_configs_are_refused(wrong):
    with pytest.raises(ValidationError):
        SimulateConfig(**wrong)


def test_more_planted_than_the_market_moves_is_refused():
    with pytest.raises(SettingsError, match=r"take .* more than"):
        simulate(SimulateConfig(session_minutes=2, sessions=1, linear_r2=0.5))


@pytest.mark.parametrize("changes", [{"symbols": ("ONE",)}, {"levels": 1}, {"levels": 5}, {"session_minutes": 2}, {"edge": None}])
def test_odd_sizes_work(changes):
    config = SimulateConfig(**{"session_minutes": 4, "sessions": 1} | changes)
    market = simulate(config)
    assert market.universe.levels == config.levels == market.events[0][config.symbols[0]].levels
    assert (market.truth["edge"] is None) == (config.edge is None)
    assert len(config.symbols) > 1 or config.edge is None


def test_small_market_is_made_once():
    assert small_market() is small_market() and small_market(1) is not small_market()
    assert [s.close - s.open for s in small_market().sessions] == [1200 * SECOND] * 2
