"""`cift rollback`"""

from __future__ import annotations

from typing import Annotated

import typer


def rollback(
    release: Annotated[str | None, typer.Argument(help="First digits of a release that was served before. Default: the last one.")] = None,
) -> None:
    """Serve what was served before.

    A running service swaps back within a second or two. Only a release that has been served can be rolled back to.

    Example: cift rollback
    """
    from flows.cli.served import say
    from flows.settings import prepare

    prepare()
    from tasks.release import rollback as move

    say(move(release))
