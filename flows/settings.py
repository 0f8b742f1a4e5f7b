"""How a flow runs in the terminal: Prefect without a server of its own to look after, everything below CIFT_HOME."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cift_models.settings import get_settings


def prepare() -> None:
    """Set Prefect's environment before its first import; what the user has set stays."""
    settings = get_settings()
    home = settings.home
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    for name, value in {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # A flow that fails raises here, and the command line says so in its own words; the server that Prefect starts beside us has
        # nothing to say at all (it complains of cancelled coroutines when it is stopped).
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
        # Before numpy is imported; tasks/threads.py says why.
        "OPENBLAS_NUM_THREADS": str(settings.threads),
        "OMP_NUM_THREADS": str(settings.threads),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }.items():
        os.environ.setdefault(name, value)


@contextmanager
def embedded() -> Iterator[None]:
    """Run flows in this process: without the heartbeat thread, whose last sleep costs each flow run a second."""
    prepare()
    # MLflow advises on logging models; whoever reads the terminal can do nothing about it.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"mlflow\.")
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
