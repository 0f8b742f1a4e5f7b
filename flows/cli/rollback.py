"""`cift rollback`"""

from __future__ import annotations

from typing import Annotated

import typer


def rollback(
    release: Annotated[str | None, typer.Argument(help="First digits of a release that was served before. Default: the last one.")] = None,
) -> None:
    """Serve what was served before: a running service swaps back within a second.

    Only a release that has been served can be rolled back to; `cift status` shows the moves.

    Example: cift rollback
    """
    from flows.cli.served import say
    from tasks.release import rollback as move

    say(move(release))
