"""`cift serve`"""

from __future__ import annotations

from typing import Annotated

import typer


def serve(
    release: Annotated[
        str, typer.Option(help="champion (what was promoted), challenger (what was trained last), or a release's name.")
    ] = "champion",
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: CIFT_SERVICE_HOST, 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: CIFT_SERVICE_PORT, 3000.")] = None,
) -> None:
    """Serve a release: WebSocket /ticks, GET /prediction/SYMBOL, GET /model, POST /predict, /healthz, /metrics.

    The champion follows `cift promote` and `cift rollback` without a restart. Any other release is HELD: it predicts, and every action is
    Hold.

    Example: cift serve --release challenger
    """
    import os
    import sys

    from cift_models.settings import get_settings

    settings = get_settings()
    arguments = [
        "-m",
        "serving",
        "--release",
        release,
        "--host",
        host or settings.service_host,
        "--port",
        str(port or settings.service_port),
    ]
    os.execv(sys.executable, [sys.executable, *arguments])
