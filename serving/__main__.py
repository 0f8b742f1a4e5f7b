"""`python -m serving`: start the Bento on this machine, on localhost unless told otherwise."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time

PATIENCE_S = 3.0


def main() -> None:
    """Check the release before anything starts: one that is damaged is one message and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve a release: what `cift serve` starts.")
    parser.add_argument("--release", default="champion", help="champion, challenger, or a release's name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    arguments = parser.parse_args()

    from cift_models import release
    from cift_models.errors import CiftError, InputError
    from cift_models.settings import get_settings
    from cift_models.stores.releases import Releases

    try:
        settings = get_settings()
        releases = Releases(settings.home)
        name = releases.resolve(arguments.release)
        manifest = release.verify(releases.directory(name))
        _free(arguments.host, arguments.port)
    except CiftError as error:
        print(f"cift serve: {error.message}\n      {error.hint}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    if arguments.release != "champion":
        print(f"HELD: {name[:12]} is not promoted; it predicts, and every action is Hold.", flush=True)
    symbols = ", ".join(i["symbol"] for i in manifest.universe)
    print(f"Serving {name[:12]} for {symbols} on http://{arguments.host}:{arguments.port} (WebSocket /ticks).", flush=True)
    os.environ |= {
        "CIFT_HOME": str(settings.home),
        "CIFT_RELEASE": "champion" if arguments.release == "champion" else name,
        "CIFT_SERVICE_PORT": str(arguments.port),
        "BENTOML_HOME": str(settings.home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "NUMBA_NUM_THREADS": "1",
    }
    app = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    options = ["--host", arguments.host, "--port", str(arguments.port), "--working-dir", app]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", "serving.service:Cift", *options])


def _free(host: str, port: int) -> None:
    """Raise InputError where another process listens there. A predecessor that was killed gets PATIENCE_S to leave."""
    from cift_models.errors import InputError

    until = time.monotonic() + PATIENCE_S
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                return probe.bind((host, port))
            except OSError as error:
                if time.monotonic() > until:
                    hint = "Stop what listens there, or use --port."
                    raise InputError(f"Cannot listen on {host}:{port}: {error.strerror}.", hint=hint) from None
        time.sleep(0.1)


if __name__ == "__main__":
    main()
