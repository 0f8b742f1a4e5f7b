"""`cift train`"""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import End, Start, Symbols, TestFrom


def train(
    symbols: Symbols,
    start: Start,
    end: End,
    test_from: TestFrom = None,
    models: Annotated[str, typer.Option(help="Models to train, with commas between (what they read comes with them), or all.")] = "all",
    epochs: Annotated[int | None, typer.Option(help="Epochs of the Transformer and the GNN.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random draw of the fits.")] = 0,
    latency_ms: Annotated[int, typer.Option(help="0, 1, 10, 100 or 1000: how long after a decision its price is taken.")] = 0,
    offsets: Annotated[str, typer.Option(help="Judged at ten moments of the second: few (linear, ridge_reference) or all.")] = "few",
) -> None:
    """Train, judge and release models on stored sessions.

    Features, labels, out-of-fold fits level by level, judgement on blocks that no fit has seen, release: the whole DAG.

    Ends with metrics.json, plots, a report, an MLflow run and a release (alias challenger). A run that was killed goes on where it
    stopped when the same command is given again.

    Example: cift train --symbols AAPL,AMZN,GOOG --start 2012-06-21 --end 2012-06-21
    """
    from flows.cli.options import day, parameters, split
    from flows.cli.result import show
    from flows.cli.stored import refuse_absent
    from flows.cli.terminal import watching
    from flows.parameters import TrainParameters

    params = parameters(
        TrainParameters,
        symbols=split(symbols),
        start=day(start, "--start"),
        end=day(end, "--end"),
        test_from=day(test_from, "--test-from") if test_from else None,
        models=[] if models == "all" else split(models),
        epochs=epochs,
        seed=seed,
        latency_ms=latency_ms,
        offsets=offsets,
    )
    refuse_absent(params.symbols, params.start, params.end)
    with watching(f"Training on {', '.join(params.symbols)}, {start} .. {end}"):
        from flows.train import train as flow

        run = flow(params)
    show(run)
