"""Where the tasks of a data flow run: threads or processes of this machine, as the settings say when the run begins."""

from __future__ import annotations

from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from cift_models.settings import get_settings


class SettledTaskRunner(ThreadPoolTaskRunner):
    """Becomes the runner that the settings name. Prefect runs a flow on a duplicate of its runner, made when the run begins; a flow is
    decorated when it is imported, and nothing is read then."""

    def duplicate(self) -> Any:
        settings = get_settings()
        kinds: dict[str, type[TaskRunner[Any]]] = {"threads": ThreadPoolTaskRunner, "processes": ProcessPoolTaskRunner}
        return kinds[settings.task_runner](max_workers=settings.workers)  # type: ignore[call-arg]
