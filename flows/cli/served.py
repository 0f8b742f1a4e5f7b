"""What is served now, in words."""

from __future__ import annotations

from typing import Any


def say(served: Any) -> None:
    """Print a move of what is served, and whether MLflow's alias followed it."""
    from tasks.release import champion_alias

    print(f"Serving {served.release} (move {served.sequence}: {served.history[-1].note}).")
    before = next((move.release for move in reversed(served.history[:-1]) if move.release != served.release), None)
    if before:
        print(f"Before it {before[:12]}; back to that one: cift rollback")
    if champion_alias() != served.release:
        print("MLflow's alias champion does not point at it: the release is not registered there (cift doctor says more).")
