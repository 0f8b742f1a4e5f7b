"""`cift promote`"""

from __future__ import annotations

from typing import Annotated

import typer


def promote(
    release: Annotated[str, typer.Argument(help="challenger, or the first digits of a release.")],
    force: Annotated[str | None, typer.Option(help="Why, where no verdict promotes it: recorded as forced.")] = None,
) -> None:
    """Serve a release that the gate promotes.

    Its last verdict (cift gate) must be promoted, by a full certificate, against what is served now; or --force says why not.

    A running service swaps to it within a second or two, and MLflow's alias champion follows.

    What is served moves by compare-and-set: of two people who promote at once, one is told to look again.

    Example: cift promote challenger

    Example: cift promote challenger --force "first release, report read"
    """
    from flows.cli.served import say
    from flows.settings import prepare

    prepare()
    from tasks.release import promote as move

    say(move(release, force))
