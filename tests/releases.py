"""Releases and a service for tests: a pipeline fitted on the small market, written below a home, and `python -m serving` as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from cift_models import release
from cift_models.engine import Pipeline
from cift_models.events import Events
from cift_models.features import FeatureSet
from cift_models.instruments import SECOND, Session, Universe
from cift_models.labels import labels
from cift_models.models import model_class
from cift_models.models.head import Head
from cift_models.models.linear import Linear
from cift_models.models.protocol import FitContext, Panel
from cift_models.signals import SignalRule
from cift_models.splits import decision_rows
from cift_models.stores.releases import Releases
from cift_models.stores.ticks import ParquetTicks
from tests.market import small_market
from tests.processes import ROOT, environment, free_port

KINDS = ("prior", "last_move", "queue_imbalance", "trees", "linear", "hmm", "hawkes")
"""Kinds that read no other and need no torch; they fit on the small market in half a second."""

CONFIGS: dict[str, dict[str, Any]] = {"hmm": {"restarts": 2, "bar_s": 10}}


@cache
def training_panel() -> Panel:
    """The first session of the small market, with labels."""
    market = small_market()
    return labelled(market.universe, market.sessions[0], market.stream(0))


def labelled(universe: Universe, session: Session, events: Events) -> Panel:
    """A session's panel as a fit reads it."""
    features = FeatureSet(levels=universe.levels)
    unfitted = Pipeline(universe, features, {"linear": Linear.__new__(Linear)}, {}, SignalRule(), "linear")
    panel = unfitted.panel(session, events)
    y, known, end = labels(events, universe, session, panel.as_of, SECOND)
    rows = np.isin(panel.as_of, decision_rows(session, SECOND, SECOND)) & known.all(axis=1)
    return replace(panel, y=np.where(rows[:, None], y, 0.0), rows=rows, label_end=end, base_oof=rows.copy())


@cache
def pipeline(kinds: Sequence[str] = KINDS, decides: str = "linear", threshold_bps: float = -0.3, seed: int = 0) -> Pipeline:
    """A pipeline fitted on the first session. A rule below 0 trades often, so that signals are worth comparing."""
    return fitted(training_panel(), kinds, decides, threshold_bps, seed)


def fitted(panel: Panel, kinds: Sequence[str], decides: str, threshold_bps: float, seed: int = 0) -> Pipeline:
    """A pipeline fitted on one panel, heads and all in sample."""
    models, heads = {}, {}
    for kind in kinds:
        model, _ = model_class(kind).fit(model_class(kind).Config(**CONFIGS.get(kind, {})), [panel], [], FitContext(seed=seed))
        models[kind] = model
        if "mean_bps" in model.outputs and "p_up" not in model.outputs:
            values, ready = model.predict(panel)
            heads[kind], _ = Head.fit([(panel, values[:, :, model.outputs.index("mean_bps")], ready)])
    return Pipeline(panel.universe, panel.features, models, heads, SignalRule(threshold_bps=threshold_bps), decides)


def write_release(home: Path, made: Pipeline | None = None, panel: Panel | None = None) -> str:
    """Write a release below `home`; returns its name. Everything in it learned from the first session, or from `panel`."""
    made, panel = made or pipeline(), panel or training_panel()
    assert panel.label_end is not None and panel.rows is not None
    last = int(panel.label_end[panel.rows].max())
    directory = release.write(
        home / "releases", made, max_train_t1={**dict.fromkeys(made.models, last), "rule": last}, data={}, code="0" * 64, metrics={}
    )
    return directory.name


def make_home(home: Path, made: Pipeline | None = None) -> str:
    """A home with the small market stored, and one release that is champion and challenger; returns the release's name."""
    market = small_market()
    ticks = ParquetTicks(home)
    for session, by_symbol in zip(market.sessions, market.events, strict=True):
        for instrument in market.universe.instruments:
            ticks.write_events(instrument, session, by_symbol[instrument.symbol], {"feed": "simulated"})
    name = write_release(home, made)
    Releases(home).set_challenger(name)
    Releases(home).compare_and_set(0, name)
    return name


def second_session() -> tuple[Session, Events]:
    """The session that no model has seen."""
    return small_market().sessions[1], small_market().stream(1)


@dataclass
class Service:
    """`python -m serving` as a process of its own group, on a port that stays the same over restarts."""

    home: Path
    release: str = "champion"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None

    @property
    def log(self) -> Path:
        return self.home / f"service-{self.port}.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ticks(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ticks"

    def start(self, timeout_s: float = 120, after_pid: int = 0) -> None:
        """Start, and wait until it is ready. Raises AssertionError with the log's tail where it is not."""
        command = [sys.executable, "-m", "serving", "--release", self.release, "--port", str(self.port)]
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment(self.home), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.wait(timeout_s, after_pid)

    def wait(self, timeout_s: float = 120, after_pid: int = 0) -> None:
        """Wait until a process other than `after_pid` says 200 at /readyz."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200 and self.get("/model").json()["pid"] != after_pid:
                    return
            except httpx.HTTPError:
                pass
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"the service did not come up:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def kill(self, *also: int) -> None:
        """kill -9 of the supervisor, and of other processes (its worker's group is its own)."""
        assert self.process is not None
        for pid in (*also, self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """SIGINT, and SIGKILL for what does not listen; returns the exit code of the first."""
        assert self.process is not None
        code = None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                code = self.process.wait(15)
            except subprocess.TimeoutExpired:
                code = None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(5)
        return -9 if code is None else code

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30)


@contextmanager
def serving(home: Path, release: str = "champion") -> Iterator[Service]:
    """A service that is up, and is stopped at the end."""
    service = Service(home, release)
    try:
        service.start()
        yield service
    finally:
        if service.process is not None:
            service.stop()
