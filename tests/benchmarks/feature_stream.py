"""What the live path of the features costs: one event pushed, one row formed, a tape replayed; beside numpy and NautilusTrader, in one run.

    python tests/benchmarks/feature_stream.py [--json] [--events N]

push      one event into the state of all families, from Python; peer: twenty features with numpy over windows (performance.md 5a)
row       all columns of one symbol at a decision instant
replay    a tape of quotes through the live state: compiled (`fold`), and event by event with a Python callback; peer: NautilusTrader's
          backtest with a strategy that counts quotes (.venv-bench; where it is absent, a note)
full      all columns of twenty symbols, batch, one thread and all cores
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from cift_models.events import BOOK, TRADE, Events
from cift_models.features import FeatureSet, stream
from cift_models.instruments import SECOND, Instrument, Session, Universe
from tests.benchmarks.peers.numpy_state import NumpyState

OPEN = 1_700_000_000 * SECOND
ROOT = Path(__file__).parents[2]


def tape(n: int, symbols: int = 1, levels: int = 1, rate_hz: float = 200.0) -> tuple[Universe, Session, Events]:
    """n events: a book that walks a tick at a time, a trade in every fifth."""
    rng = np.random.default_rng(7)
    universe = Universe(tuple(Instrument(f"S{s}", 10_000, 100, 1, "shares", 0.0, "simulated", levels) for s in range(symbols)))
    events = Events.empty(n, levels)
    events.ts[:] = OPEN + np.cumsum(rng.exponential(1e9 / rate_hz / symbols, n)).astype(np.int64)
    events.symbol[:] = rng.integers(0, symbols, n)
    events.sequence[:] = np.arange(n)
    traded = rng.uniform(size=n) < 0.2
    events.kind[:] = np.where(traded, BOOK | TRADE, BOOK)
    bid = 50_000 + np.cumsum(rng.integers(-1, 2, n))
    for level in range(levels):
        events.bid_px[:, level], events.ask_px[:, level] = bid - level, bid + 1 + level
    events.bid_sz[:], events.ask_sz[:] = rng.integers(1, 50, (n, levels)) * 100, rng.integers(1, 50, (n, levels)) * 100
    events.side[traded] = rng.choice([-1, 1], int(traded.sum()))
    events.trade_px[traded] = (bid * 100)[traded]
    events.trade_sz[traded] = 100
    seconds = int(events.ts[-1] - OPEN) // SECOND + 1
    return universe, Session(20231114, OPEN, OPEN + seconds * SECOND), events


def median_s(*runs: Callable[[], object], repeats: int = 5) -> list[float]:
    """Median wall seconds of each, taken in turn."""
    took: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, spent in zip(runs, took, strict=True):
            began = time.perf_counter()
            run()
            spent.append(time.perf_counter() - began)
    return [statistics.median(spent) for spent in took]


def line(job: str, ours: float, unit: str, peer: str = "", theirs: float = 0.0, note: str = "") -> dict[str, object]:
    ratio = (ours / theirs if "/s" in unit else theirs / ours) if theirs else None
    return {"job": job, "ours": ours, "unit": unit, "peer": peer, "peer_figure": theirs or None, "ratio": ratio, "note": note}


def push_lines(n: int) -> list[dict[str, object]]:
    universe, session, events = tape(n)
    features = FeatureSet(levels=1)
    book = np.stack([events.bid_px.astype(np.int64), events.bid_sz, events.ask_px.astype(np.int64), events.ask_sz], axis=1)
    columns = (events.ts, events.symbol, events.kind, events.side, events.trade_px, events.trade_sz)
    ticks = list(zip(*(column.tolist() for column in columns), book, strict=True))
    for_numpy = [
        (ts, side, px, sz, int(b[0, 0]), int(b[1, 0]), int(b[2, 0]), int(b[3, 0])) for ts, _, _, side, px, sz, b in ticks[: n // 10]
    ]

    def ours() -> None:
        push = stream.start(universe, features, session).push
        for tick in ticks:
            push(*tick)

    def with_numpy() -> None:
        update = NumpyState().update
        for tick in for_numpy:
            update(*tick)

    def nothing() -> None:
        def taken(ts: int, symbol: int, kind: int, side: int, px: int, sz: int, levels: object) -> None: ...

        for tick in ticks:
            taken(*tick)

    ours()
    pushed, peer, loop = median_s(ours, with_numpy, nothing)
    state = stream.start(universe, features, session)
    state.row(OPEN)
    spent = []
    for k in range(5000):
        began = time.perf_counter_ns()
        state.row(OPEN + k)
        spent.append(time.perf_counter_ns() - began)
    each = [spent[i : i + 500] for i in range(0, 5000, 500)]
    drift = statistics.median(each[-1]) / statistics.median(each[0])
    late = []
    state = stream.start(universe, features, session)
    for tick in ticks:
        began = time.perf_counter_ns()
        state.push(*tick)
        late.append(time.perf_counter_ns() - began)
    tenth = len(late) // 10
    p99 = [float(np.quantile(late[i : i + tenth], 0.99)) / 1e3 for i in (tenth, len(late) - tenth)]
    names = f"{len(features.names)} columns"
    return [
        line("push one event", 1e6 * (pushed - loop) / n, "us", "numpy, 20 features", 1e6 * peer / len(for_numpy), f"state of {names}"),
        line("p99 of a push, second and last tenth", p99[1], "us", note=f"second tenth {p99[0]:.2f} us"),
        line("form one row", statistics.median(spent) / 1e3, "us", note=f"{names}; last against first tenth x {drift:.2f}"),
    ]


def replay_lines(n: int) -> list[dict[str, object]]:
    universe, session, events = tape(n)
    features = FeatureSet(levels=1)
    as_of = np.array(session.instants(features.clock_ns), np.int64)
    offsets = stream.step_offsets(events, as_of)
    seen = [0]

    def on_event(i: int) -> None:
        seen[0] += 1

    def compiled() -> None:
        stream.fold(stream.start(universe, features, session), universe, features, events, offsets, as_of)

    def called() -> None:
        stream.replay(stream.start(universe, features, session), events, as_of, on_event)

    compiled()
    called()
    python = ROOT / ".venv-bench" / "bin" / "python"
    note = ""
    folds, calls, peer = [], [], []
    for _ in range(3):
        for spent, took in zip((folds, calls), median_s(compiled, called), strict=True):
            spent.append(took)
        if not python.exists():
            print("NautilusTrader is not there: `make bench` installs it into .venv-bench.", file=sys.stderr)
            break
        done = subprocess.run([python, ROOT / "tests/benchmarks/peers/nautilus_replay.py", str(n)], capture_output=True, text=True)
        if done.returncode:
            print(f"NautilusTrader did not run: {done.stderr[-300:]}", file=sys.stderr)
            break
        said = json.loads(done.stdout.splitlines()[-1])
        note = f"NautilusTrader {said['version']}, in turns"
        peer.append(said["ticks_per_s"] / 1e6)
    fold_s, call_s, theirs = statistics.median(folds), statistics.median(calls), statistics.median(peer or [0.0])
    return [
        line("replay, compiled, with the rows of every second", n / fold_s / 1e6, "M/s"),
        line("replay, a Python callback an event", n / call_s / 1e6, "M/s", "NautilusTrader" if theirs else "", theirs, note),
    ]


def full_lines(n: int) -> list[dict[str, object]]:
    universe, session, events = tape(n, symbols=20, levels=10, rate_hz=50)
    features = FeatureSet(levels=10)
    cores = os.cpu_count() or 1

    def on(threads: int) -> Callable[[], object]:
        return lambda: stream.build(universe, features, session, events, threads=threads)

    on(1)()
    one, all_cores = median_s(on(1), on(cores), repeats=3)
    rows = len(session.instants(features.clock_ns)) * len(universe)
    note = f"{len(features.names)} columns, {rows:,} rows, 10 levels"
    return [
        line("full set, one thread", n / one / 1e6, "M/s", note=note),
        line(f"full set, {cores} threads", n / all_cores / 1e6, "M/s", "one thread", n / one / 1e6, note),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--events", type=int, default=200_000, help="events of a tape (the replay takes five times as many)")
    said = parser.parse_args()
    lines: list[dict[str, object]] = []
    for name, part in (("push", push_lines), ("replay", lambda n: replay_lines(5 * n)), ("full", full_lines)):
        print(f"{name} ...", file=sys.stderr)
        lines += part(said.events)
    for one in lines:
        if said.json:
            print(json.dumps(one))
        else:
            peer = f"{one['peer']} {one['peer_figure']:.3g} {one['unit']}, x {one['ratio']:.1f}" if one["ratio"] else ""
            print(f"{one['job']:<50} {one['ours']:>8.3f} {one['unit']:<4} {peer:<48} {one['note']}")


if __name__ == "__main__":
    main()
