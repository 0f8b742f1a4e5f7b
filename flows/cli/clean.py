"""`cift clean`"""

from __future__ import annotations

from typing import Annotated

import typer


def clean(
    keep: Annotated[int, typer.Option(min=0, help="How many of the latest releases stay, with all that made them.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    orphans: Annotated[
        bool,
        typer.Option("--orphans", help="Also features on ClickHouse that no run of this home made: only if no other home uses it."),
    ] = False,
) -> None:
    """Remove what old runs left behind.

    Their steps, checkpoints, features and releases, and the work folders of runs that were stopped.

    Stays: the last --keep releases, the champion, the one that `cift rollback` goes back to, the challenger, and the steps of their runs.
    Stored data, predictions, MLflow and Prefect are not touched. What is removed is made again when a run needs it.

    On QuestDB and ClickHouse go rows that were replaced or never finished, and features of removed runs. QuestDB removes whole days only:
    of a day, the rows in use are copied aside and back, and reading it fails meanwhile. What was written in the last hour stays.

    Example: cift clean --keep 2 --dry-run
    """
    from cift_models.settings import get_settings
    from tasks.clean import remove, server_leftovers, unneeded

    home = get_settings().home
    # Servers first: which features a removed run made is said by its steps.
    servers = server_leftovers(home, keep, orphans, removing=not dry_run)
    found = unneeded(home, keep) if dry_run else remove(home, keep)
    total = 0
    for kind, paths in found.items():
        size = sum(paths.values())
        total += size
        print(f"{kind:<12} {len(paths):>6,} {'would go' if dry_run else 'removed'}, {_size(size)}")
    print(f"{'Would free' if dry_run else 'Freed'} {_size(total)} below {home}.")
    for server, leftovers in servers.items():
        for one in leftovers:
            fate = f"stay: {one.stays}" if one.stays else "would go" if dry_run else "removed"
            print(f"{server} {one.where}: {one.rows:,} rows {one.why}, about {_size(one.size)}, {fate}")
        total, rows = (sum(getattr(one, field) for one in leftovers if not one.stays) for field in ("size", "rows"))
        print(f"{'Would free' if dry_run else 'Freed'} about {_size(total)} ({rows:,} rows) on {server}.")


def _size(n: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:,.1f} {unit}"
    return f"{n} B"
