"""What the service counts, beside what Bento counts: shown at /metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("cift_events", "Events that were applied.")
LATE = Counter("cift_late_events", "Events that came late and were not applied.")
REFUSED = Counter("cift_refused_messages", "Messages that were refused.")
INSTANTS = Counter("cift_instants", "Instants that were decided.")
SWAPS = Counter("cift_swaps", "Releases that took over while the service ran.")
SWAP_FAILURES = Counter("cift_swap_failures", "Releases that were to take over and could not.")
WATERMARK = Gauge("cift_watermark_seconds", "Time that the stream has reached.", multiprocess_mode="livesum")
MIRROR_FAILED = Gauge("cift_mirror_failures", "Writes that the online store did not take.", multiprocess_mode="livesum")
STEP = Histogram(
    "cift_step_seconds",
    "One step of the live path: events in, decisions encoded.",
    buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5),
)
