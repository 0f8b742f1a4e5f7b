"""`cift`: one file a command, each importing its room when it runs, so that `cift --help` answers at once."""

from __future__ import annotations

import sys


def main() -> None:
    """The command line. A CiftError is one message and exit code 2 (nothing done) or 1 (something failed); never a stack trace."""
    from cift_models.errors import CiftError, InputError
    from flows.cli.app import app

    try:
        app()
    except CiftError as error:
        print(f"cift: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"      {error.hint}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        print("\ncift: stopped; the same command goes on where it was.", file=sys.stderr)
        sys.exit(130)
