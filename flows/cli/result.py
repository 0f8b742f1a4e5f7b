"""What a run ends with: the table, where things lie, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.runs import Run


def show(run: Run) -> None:
    """Print the result of a training run."""
    import orjson
    from rich.console import Console
    from rich.table import Column, Table

    from cift_models.errors import NotStored
    from cift_models.evaluation.report import table_for_terminal
    from cift_models.settings import get_settings
    from tasks.runs import REPORT, judged_step, read_card

    # Where the output is not a terminal, a table of twelve columns is still a table.
    console = Console() if Console().is_terminal else Console(width=150)
    judged = judged_step(run)
    if judged is None:
        raise NotStored(f"The metrics of run {run.number} are not there any more.", hint="`cift clean` removed them; train again.")
    metrics = orjson.loads((judged.directory / "metrics.json").read_bytes())
    for symbol in metrics["symbols"]:
        header, *rows = table_for_terminal(metrics, symbol)
        # A model is known by its whole name: "strong_line…" could be two of them.
        names = Column(header[0], min_width=max((len(row[0]) for row in rows), default=0))
        table = Table(names, *header[1:], title=f"{symbol}: {metrics['rows'][symbol]:,} test rows", title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if judged.facts["found"]:
        table = Table(
            "planted", "planted value", "found", "95 %", "verdict", title="What was planted, what was found", title_justify="left"
        )
        for row in judged.facts["found"]:
            band = "" if row["lo"] is None else f"{row['lo']:.4f} to {row['hi']:.4f}"
            table.add_row(row["name"], _text(row["planted"]), _text(row["found"]), band, row["verdict"])
        console.print(table)
    for alarm in metrics["alarms"]:
        console.print(f"[bold red]Leak alarm[/bold red] {alarm['symbol']} {alarm['model']}: {alarm['text']}")
    if not metrics["alarms"]:
        console.print("Leak alarms: silent.")
    if run.gated and (card := read_card(run.gated)):
        more = f" ({len(card.reasons) - 1} more reasons: cift gate {run.number})" if len(card.reasons) > 1 else ""
        print(f"Gate:     {card.verdict}: {card.first_reason}{more}")
    with_verdict = get_settings().home / run.gated / REPORT if run.gated else judged.directory / REPORT
    print(f"Report:   {with_verdict if with_verdict.is_file() else judged.directory / REPORT}")
    print(f"Metrics:  {judged.directory / 'metrics.json'}")
    print(f"Release:  {run.release}")
    print(f"MLflow:   run {run.mlflow_run}, model cift version {run.version}")


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"


def next_commands(stored: dict[str, Any]) -> None:
    """Three things to try after the demo."""
    print("Next:")
    print("  .venv/bin/cift serve --release challenger")
    print(f"  .venv/bin/cift replay stored {stored['end']}          (in another terminal, while it serves)")
    print("  .venv/bin/cift status")
