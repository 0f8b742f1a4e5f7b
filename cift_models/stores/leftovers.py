"""What lies on a server and is in nobody's use: rows that were replaced, or never became a partition, or whose runs are gone.

Files leave nothing like it: a writer removes what it replaces, and what a killed one left. On a server, rows lie under the version that
their manifest names, so those of another version are passed over by every reader, and take room for ever.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol, runtime_checkable

YOUNG_S = 3600.0
"""What nothing refers to and was written within it is left: its writer may be about to say what it is."""


class Leftover(NamedTuple):
    """Rows that nothing refers to.

    where  the table, and of QuestDB the day
    rows   how many
    size   about how many bytes they take: their share of what the server says of the table or day
    why    what they are: "replaced or never finished", or "of removed runs"
    stays  why they cannot be removed now; "" where they can
    """

    where: str
    rows: int
    size: int
    why: str
    stays: str = ""


REPLACED = "replaced or never finished"
REMOVED = "of removed runs"


@runtime_checkable
class KeepsLeftovers(Protocol):
    """A store on a server. What it holds is found by what its manifests name."""

    def session_keys(self) -> list[str]:
        """Keys that may be `unneeded`, of every home that uses the server, sorted."""
        ...

    def leftovers(self, unneeded: Collection[str] = (), *, remove: bool = False, young_s: float = YOUNG_S) -> list[Leftover]:
        """What nothing refers to; with `remove` it is removed, but for what `stays`.

        unneeded  keys of partitions that are to go though a manifest names them; others keep what a manifest names
        young_s   what was written within so many seconds stays, except for what is unneeded
        Killed at any point and called again, it leaves what one call leaves; what a manifest names is never lost, but see the store.
        Raises StoreUnavailable, StoreError (a right that is missing, a damaged manifest).
        """
        ...
