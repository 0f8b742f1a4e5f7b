"""`cift`: one file a command, each importing its room when it runs, so that `cift --help` answers at once."""

from __future__ import annotations


def main() -> None:
    """The command line."""
    from flows.cli.app import app
    from flows.cli.guard import guarded

    guarded(app)
