"""`cift demo`"""

from __future__ import annotations


def demo() -> None:
    """Run everything on a simulated market, with no server.

    The default market of `cift seed`, the whole DAG of `cift train` on it, and what was found held against what was planted.

    Example: cift demo
    """
    from datetime import date

    from flows.cli.result import next_commands, show
    from flows.cli.terminal import watching
    from flows.parameters import SeedParameters, TrainParameters

    with watching("CIFT demo: a simulated market through the whole DAG"):
        from flows.seed import seed
        from flows.train import train

        stored = seed(SeedParameters())
        start, end = date.fromisoformat(stored["start"]), date.fromisoformat(stored["end"])
        run = train(TrainParameters(symbols=stored["symbols"], start=start, end=end))
    show(run)
    next_commands(stored)
