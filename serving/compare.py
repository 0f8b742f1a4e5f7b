"""Streamed against batch: which values were equal to the bit, which were not, and what never came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cift_models.engine import Decisions, Pipeline
from serving import wire

SHOWN = 20
"""Differences that are kept in words; all are counted."""


class Batch(NamedTuple):
    """What one release says of the whole session at once."""

    pipeline: Pipeline
    decisions: Decisions
    max_train_t1: int


@dataclass(slots=True)
class Comparison:
    """What was streamed against what batch says.

    batch      gives the batch result of a release by its name, computed when it is first asked for
    missing    instants of the session that no message came for; `repeated` came twice
    releases   instants by the release that spoke
    unequal    up to SHOWN differences in words, n_unequal counts all
    latency_ms from sending the message that decided an instant to having its decision, in order of arrival
    """

    batch: Callable[[str], Batch]
    session: int
    events: int = 0
    expected: int = 0
    repeated: int = 0
    in_sample: int = 0
    values: int = 0
    n_unequal: int = 0
    late: int = 0
    seconds: float = 0.0
    unequal: list[str] = field(default_factory=list)
    releases: Counter[str] = field(default_factory=Counter)
    signals: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    latency_ms: list[float] = field(default_factory=list)
    _place: dict[int, int] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)

    def expect(self, as_of: list[int]) -> None:
        """The instants that must come."""
        self.expected = len(as_of)
        self._place = {t: i for i, t in enumerate(as_of)}

    def add(self, said: Mapping[str, Any]) -> None:
        """Compare one message."""
        t = self._place.get(said["as_of"])
        if t is None or said["session"] != self.session:
            self._differs(1, [f"it is not an instant of session {self.session}"], said)
            return
        if t in self._seen:
            self.repeated += 1
        self._seen.add(t)
        self.releases[said["release"]] += 1
        batch = self.batch(said["release"])
        compared, bad = wire.differences(batch.pipeline, said, batch.decisions, t)
        in_sample = said["as_of"] <= batch.max_train_t1
        if said["in_sample"] is not in_sample:
            bad.append(f"in_sample: streamed {said['in_sample']!r}, the release says {in_sample!r}")
        self.in_sample += in_sample
        for symbol, one in said["symbols"].items():
            self.signals[one["signal"]] += 1
            self.actions[one["action"]] += 1
            allowed = "Hold" if said["held"] or in_sample else one["signal"]
            if one["action"] != allowed:
                bad.append(f"{symbol} action: streamed {one['action']!r}, allowed is {allowed!r}")
        self._differs(compared, bad, said)

    def _differs(self, compared: int, bad: list[str], said: Mapping[str, Any]) -> None:
        self.values += compared
        self.n_unequal += len(bad)
        self.unequal += [f"{said['as_of']} {text}" for text in bad][: max(0, SHOWN - len(self.unequal))]

    @property
    def instants(self) -> int:
        return len(self._seen)

    @property
    def missing(self) -> int:
        return self.expected - len(self._seen)

    @property
    def done(self) -> bool:
        """Whether the session's last instant has come."""
        return self.expected - 1 in self._seen

    @property
    def equal(self) -> bool:
        """Whether everything came, and everything was equal to the bit."""
        return self.n_unequal == 0 and self.missing == 0 and self.instants > 0

    def percentile_ms(self, share: float) -> float | None:
        """Of latency_ms; None before the first."""
        ordered = sorted(self.latency_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def as_json(self) -> dict[str, Any]:
        return {
            "equal": self.equal,
            "releases": dict(self.releases),
            "session": self.session,
            "events": self.events,
            "late": self.late,
            "expected": self.expected,
            "instants": self.instants,
            "missing": self.missing,
            "repeated": self.repeated,
            "in_sample": self.in_sample,
            "values": self.values,
            "values_equal": self.values - self.n_unequal,
            "values_unequal": self.n_unequal,
            "unequal": self.unequal,
            "signals": dict(self.signals),
            "actions": dict(self.actions),
            "seconds": self.seconds,
            "events_per_s": self.events / self.seconds if self.seconds else None,
            "latency_ms": {name: self.percentile_ms(share) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))},
        }

    def as_text(self) -> str:
        lines = [
            f"Session {self.session}: {self.events:,} events in {self.seconds:.1f} s "
            f"({self.events / max(self.seconds, 1e-9):,.0f} a second), {self.late:,} late.",
            f"{self.instants:,} of {self.expected:,} instants came, {self.missing:,} missing, {self.in_sample:,} in sample; by release "
            + ", ".join(f"{name[:12]} {n:,}" for name, n in self.releases.items())
            + ".",
            f"{self.values:,} predictions and signals compared: {self.values - self.n_unequal:,} equal to the bit, {self.n_unequal:,} not.",
            f"Signals: {_counts(self.signals)}. Actions: {_counts(self.actions)}.",
        ]
        if self.latency_ms:
            lines.append(
                f"From the message that decides an instant to its decision: p50 {self.percentile_ms(0.5):.2f} ms, "
                f"p99 {self.percentile_ms(0.99):.2f} ms, longest {self.percentile_ms(1.0):.2f} ms."
            )
        return "\n".join(lines + [f"  {text}" for text in self.unequal])


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {counter[name]:,}" for name in ("Buy", "Sell", "Hold"))
