"""`cift clean`"""

from __future__ import annotations

from typing import Annotated

import typer


def clean(
    keep: Annotated[int, typer.Option(min=0, help="How many of the latest releases stay, with all that made them.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
) -> None:
    """Remove what old runs left behind.

    Their steps, checkpoints, features and releases, and the work folders of runs that were stopped.

    Stays: the last --keep releases, the champion, the one that `cift rollback` goes back to, the challenger, and the steps of their runs.
    Stored data, predictions, MLflow and Prefect are not touched. What is removed is made again when a run needs it.

    Example: cift clean --keep 2 --dry-run
    """
    from cift_models.settings import get_settings
    from tasks.clean import remove, unneeded

    home = get_settings().home
    found = unneeded(home, keep) if dry_run else remove(home, keep)
    total = 0
    for kind, paths in found.items():
        size = sum(paths.values())
        total += size
        print(f"{kind:<12} {len(paths):>6,} {'would go' if dry_run else 'removed'}, {_size(size)}")
    print(f"{'Would free' if dry_run else 'Freed'} {_size(total)} below {home}.")


def _size(n: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:,.1f} {unit}"
    return f"{n} B"
