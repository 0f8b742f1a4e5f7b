"""`cift seed`"""

from __future__ import annotations

from typing import Annotated

import typer


def seed(
    seed: Annotated[int, typer.Option(help="The same seed gives the same market, byte for byte.")] = 0,
    symbols: Annotated[str, typer.Option(help="Names of the simulated instruments.")] = "AAA,BBB,CCC",
    sessions: Annotated[int, typer.Option(help="How many sessions.")] = 2,
    minutes: Annotated[int, typer.Option(help="Minutes a session.")] = 180,
    plant: Annotated[
        str, typer.Option(help="The signals: usual; clear: they show in two hours; nothing: nobody can forecast. To try a judge on.")
    ] = "usual",
) -> None:
    """Simulate a market with known truth, stored like recorded data.

    Self-exciting trades, regimes, a lead-lag edge, a linear signal and an interaction: what a fit finds can be held against what was
    planted.

    Example: cift seed --seed 3 --sessions 5
    """
    from flows.cli.options import parameters, split
    from flows.cli.terminal import watching
    from flows.parameters import SeedParameters

    params = parameters(SeedParameters, seed=seed, symbols=split(symbols), sessions=sessions, session_minutes=minutes, plant=plant)
    with watching(f"Simulating {sessions} sessions of {len(params.symbols)} symbols"):
        from flows.seed import seed as flow

        stored = flow(params)
    print(f"Stored {', '.join(stored['symbols'])}, {stored['start']} .. {stored['end']}: {stored['events']:,} events.")
    print(f"Next: cift train --symbols {','.join(stored['symbols'])} --start {stored['start']} --end {stored['end']}")
