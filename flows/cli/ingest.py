"""`cift ingest`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ingest(
    feed: Annotated[str, typer.Argument(help="What the files are: lobster.")],
    files: Annotated[list[Path], typer.Argument(help="The files, any number.")],
) -> None:
    """Read, check and store recorded data.

    What the files are is checked, never guessed. Ingesting a file again changes nothing.

    Example: cift ingest lobster data/*.zip
    """
    from cift_models.errors import InputError
    from flows.cli.options import parameters
    from flows.cli.terminal import watching
    from flows.parameters import IngestParameters

    for file in files:
        if not file.is_file():
            raise InputError(f"There is no file {file}.", hint="Expected the path of a recorded file.")
    params = parameters(IngestParameters, feed=feed, files=[str(f.resolve()) for f in files])
    with watching(f"Ingesting {len(files)} files"):
        from flows.ingest import ingest as flow

        stored = flow(params)
    for one in stored:
        quarantined = sum(one["quarantined"].values())
        print(
            f"{one['symbol']} {one['day']}: {one['rows']:,} rows stored, {quarantined:,} in quarantine {one['quarantined'] or ''}".rstrip()
        )
