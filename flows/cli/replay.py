"""`cift replay`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def replay(
    source: Annotated[str, typer.Argument(help="What the files are: lobster, or stored (then symbols and a date instead of files).")],
    files: Annotated[list[str], typer.Argument(help="Recorded files, or SYMBOL... DATE for stored sessions.")],
    to: Annotated[str, typer.Option(help="The service's WebSocket.")] = "ws://127.0.0.1:3000/ticks",
    packet: Annotated[int, typer.Option(help="Events in one message; 1 measures the latency of a live tick.")] = 500,
    in_flight: Annotated[int, typer.Option(help="Messages that may wait for their acknowledgement.")] = 8,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Feed recorded events to a running service, merged by time, and compare every prediction and signal with the batch ones, bit by bit.

    Prints how many were equal, to the bit, and which were not. Exit code 1 where one was not, or an instant never came.

    Example: cift replay lobster data/*.zip --to ws://127.0.0.1:3000/ticks
    """
    import os
    import sys

    arguments = ["-m", "serving.replay", source, *(str(Path(f).resolve()) if source != "stored" else f for f in files), "--to", to]
    arguments += ["--packet", str(packet), "--in-flight", str(in_flight)]
    os.execv(sys.executable, [sys.executable, *arguments, *(["--json"] if json else [])])
