"""`cift eval`"""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import Json


def evaluate(
    split: Annotated[str, typer.Option(help="Which blocks are judged: test, the only ones that no fit has seen.")] = "test",
    symbols: Annotated[str | None, typer.Option(help="The universe of the run, with commas between.")] = None,
    start: Annotated[str | None, typer.Option(help="First session date of the run, included: 2012-06-21.")] = None,
    end: Annotated[str | None, typer.Option(help="Last session date of the run, included.")] = None,
    json: Json = False,
) -> None:
    """Show the metrics of the latest run, or of a range.

    With a range: of the latest run on exactly its sessions; where there is none, it is trained and judged first.

    --json prints metrics.json, byte for byte, and nothing else.

    Example: cift eval --split test --json | python -m json.tool
    """
    import sys

    from cift_models.errors import InputError, NotStored
    from cift_models.settings import get_settings
    from flows.cli.result import show
    from tasks.runs import judged_step

    if split != "test":
        raise InputError(
            f"There is no split {split!r} to judge on.", hint="Expected test: every other block has taught a fit, a head or a threshold."
        )
    run = _on_range(symbols, start, end) if symbols or start or end else _latest()
    judged = judged_step(run)
    if judged is None:
        raise NotStored(f"The metrics of run {run.number} are not there any more.", hint="`cift clean` removed them; train again.")
    path = get_settings().home / judged.key / "metrics.json"
    if json:
        sys.stdout.buffer.write(path.read_bytes())
        sys.stdout.flush()
        return
    print(f"Run {run.number} ({run.flow}), finished {run.finished}: {', '.join(run.symbols)}, {run.days[0]} .. {run.days[-1]}")
    show(run)


def _latest():
    """The last run, whose steps are run again where `cift clean` has removed them."""
    from cift_models.errors import NotStored
    from cift_models.settings import get_settings
    from tasks.runs import all_runs, judged_step

    runs = all_runs()
    if not runs:
        raise NotStored(f"Nothing has been trained below {get_settings().home}.", hint="Begin with `cift train`, or `cift demo`.")
    if judged_step(runs[-1]) is not None:
        return runs[-1]
    from flows.cli.stored import iso

    last = runs[-1]
    # A nightly run means the sessions of its night, so it is run again as the range that it was.
    taken = {name: last.params[name] for name in ("models", "epochs", "seed", "latency_ms", "test_from") if name in last.params}
    return _train({"symbols": last.symbols, "start": iso(last.days[0]), "end": iso(last.days[-1]), **taken})


def _on_range(symbols: str | None, start: str | None, end: str | None):
    """The last run on exactly the stored sessions of a range, or a new one."""
    from cift_models.settings import get_settings
    from cift_models.stores.ticks import open_ticks
    from flows.cli.options import day, parameters, split
    from flows.cli.stored import fill
    from flows.parameters import RangeParameters
    from tasks.runs import all_runs, judged_step

    chosen, first, last = fill(
        split(symbols) if symbols else None, day(start, "--start") if start else None, day(end, "--end") if end else None
    )
    params = parameters(RangeParameters, symbols=chosen, start=first, end=last)
    days = [session.day for session in open_ticks(get_settings()).sessions(params.symbols, int(f"{first:%Y%m%d}"), int(f"{last:%Y%m%d}"))]
    for run in reversed(all_runs()):
        if run.symbols == params.symbols and run.days == days and judged_step(run) is not None:
            return run
    return _train({"symbols": params.symbols, "start": first, "end": last})


def _train(values: dict):
    from flows.cli.options import parameters
    from flows.cli.terminal import watching
    from flows.parameters import TrainParameters

    params = parameters(TrainParameters, **values)
    with watching(f"Judging {', '.join(params.symbols)}, {params.start} .. {params.end}"):
        from flows.train import train

        return train(params)
