"""Where the table of trials lies between runs: one file a run under trials/, written once, never changed or removed (`cift clean` too)."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from cift_models.errors import StoreError
from cift_models.evaluation.trials import Trial, Trials
from cift_models.files import canonical_json, digest, write_atomic
from cift_models.settings import get_settings
from tasks.dataset import Dataset


def tested_on(dataset: Dataset) -> str:
    """Digest of what trials are judged on: the stored rows, the blocks and the latency."""
    return digest(
        {
            "partitions": {ref.key: ref.sha256 for refs in dataset.partitions.values() for ref in refs},
            "calendar": dataset.calendar,
            "latency_ns": dataset.latency_ns,
        }
    )


def known_trials() -> Trials:
    """Every trial whose test score was seen in this home. Raises StoreError, naming the file, where one cannot be read."""
    trials = Trials()
    for path in sorted((get_settings().home / "trials").glob("*.json")):
        try:
            trials = trials.add(*(Trial.from_row(row) for row in orjson.loads(path.read_bytes())))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is no table of trials: {error}.", hint="Put it back from a backup: trials must not be forgotten."
            ) from error
    return trials


def keep_trials(own: Sequence[Trial]) -> None:
    """Add a run's trials. The file is named by its content, so that judging the same run again adds nothing."""
    data = canonical_json([trial.as_row() for trial in own])
    path = get_settings().home / "trials" / f"{digest([list(trial.key) for trial in own])}.json"
    if own and not path.exists():
        write_atomic(path, data)
