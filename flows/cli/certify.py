"""`cift certify`"""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import Json


def certify(
    seeds: Annotated[int, typer.Option(min=1, help="Markets without a signal, and as many with one, through the whole DAG.")] = 3,
    cheap: Annotated[int, typer.Option(min=0, help="Fits of simple models on labels without direction.")] = 200,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions of a market.")] = 1,
    minutes: Annotated[int, typer.Option(min=100, max=720, help="Minutes of a session.")] = 120,
    plant: Annotated[str, typer.Option(help="The signals of the markets that have one: clear, or usual (for long markets).")] = "clear",
    models: Annotated[str, typer.Option(help="What is trained, as for cift train. Default: all.")] = "",
    json: Json = False,
) -> None:
    """Try the judge where the truth is known, and write down what it said: without this nothing is promoted.

    Simulated markets with nothing planted must be held, markets with a signal promoted, and of two hundred simple models on labels
    without direction at most three may pass. The certificate counts for this code and these models alone; a change of either asks for
    another. It is made on this machine, with no server; a certify that was killed goes on where it stopped.

    Fewer than 3 seeds or 200 cheap nulls make a certificate of size test, which promotes nothing. Exit 0 where it vouches, 1 where not.

    Example: cift certify
    """
    import sys

    from flows.cli.options import parameters, split
    from flows.cli.terminal import showing
    from tasks.certify import Form
    from tasks.certify import certify as make
    from tasks.progress import reporter

    trained = tuple(split(models)) if models else ()
    form = parameters(Form, seeds=seeds, cheap=cheap, sessions=sessions, minutes=minutes, plant=plant, models=trained)
    with showing(f"Certifying the judge: {2 * seeds} markets, {cheap} cheap nulls"):
        certificate = make(form, reporter("certify"))
    faults = certificate.faults()
    if json:
        sys.stdout.buffer.write(certificate.to_bytes())
        sys.stdout.flush()
    else:
        for what, runs in (("without a signal", certificate.nulls), ("with a signal", certificate.planted)):
            print(f"Markets {what}: {', '.join(f'{run.seed} {run.verdict}' for run in runs)}")
        print(f"Cheap nulls: {certificate.cheap.promoted} of {certificate.cheap.n} passed the clauses about forecasts")
        for fault in faults:
            print(f"  - {fault}")
        vouches = "It vouches for the gate" if not faults and certificate.size == "full" else "It vouches for nothing"
        print(f"{vouches}: certificate {certificate.sha256[:12]}, size {certificate.size}.")
    if faults or certificate.size != "full":
        raise typer.Exit(1)
