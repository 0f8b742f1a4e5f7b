"""What is served: one small file that moves by compare-and-set, and the releases that it may point to.

    $CIFT_HOME/releases/<sha256 of manifest.json>/   written by cift_models.release, never changed
    $CIFT_HOME/served.json                           {release, sequence, history}: the champion
    $CIFT_HOME/challenger.json                       {release}: what was trained last
    $CIFT_HOME/verdicts/<sha256>.json                the card of a release's last verdict

Writers hold a lock and rename; readers read one whole file. A release is named by 64 hex digits.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from cift_models.errors import Conflict, InputError, NotStored, ReleaseError, StoreError
from cift_models.evaluation.card import Card
from cift_models.files import canonical_json, sha256_file, write_atomic
from cift_models.refs import ReleaseRef, Sha256
from cift_models.stores.lake import locked

SERVED = "served.json"
CHALLENGER = "challenger.json"
VERDICTS = "verdicts"
SHORTEST = 6
"""Digits of a release's name that may stand for it, if no other begins so."""


class Moved(BaseModel):
    """One move of what is served. `note` says why: promoted, forced with its reason, rolled back."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    release: Sha256
    sequence: int
    note: str = ""


class Served(BaseModel):
    """What is served now. `sequence` counts moves from 1; `history` holds them all, oldest first, this one included."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    release: Sha256
    sequence: int
    history: tuple[Moved, ...]


class _Pointer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    release: Sha256


Kind = TypeVar("Kind", bound=BaseModel)


class Releases:
    """The releases below a home, and which of them is served."""

    def __init__(self, home: Path) -> None:
        self.home = Path(home).resolve()
        self.root = self.home / "releases"

    def all(self) -> tuple[ReleaseRef, ...]:
        """Every release that lies there, oldest first."""
        found = [p for p in self.root.glob("*/manifest.json") if re.fullmatch(r"[0-9a-f]{64}", p.parent.name)]
        return tuple(ReleaseRef.of(p.parent.name) for p in sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.parent.name)))

    def directory(self, release: str) -> Path:
        """Folder of a release. Raises NotStored if it is not there, ReleaseError if its manifest is not the one that names it.

        The files that the manifest lists are verified by whoever loads them (release.verify, release.load).
        """
        if not re.fullmatch(r"[0-9a-f]{64}", release):
            raise InputError(f"{release!r} is not the name of a release.", hint="Expected 64 hex digits; resolve() takes short names.")
        folder = self.root / release
        if not (folder / "manifest.json").is_file():
            raise NotStored(f"No release {release[:12]}.", hint=self._have(), release=release)
        if sha256_file(folder / "manifest.json") != release:
            raise ReleaseError(
                f"The manifest of release {release[:12]} is not the one that names it.",
                hint="Train it again, or copy it again.",
                release=release,
            )
        return folder

    def resolve(self, name: str) -> str:
        """The 64 digits that a name stands for: champion, challenger, or the first digits of a release (at least 6).

        Raises NotStored where nothing is meant, InputError where two releases are.
        """
        if name == "champion":
            served = self.served()
            if served is None:
                raise NotStored("Nothing is served yet.", hint="Promote a release, or serve the challenger.")
            return served.release
        if name == "challenger":
            challenger = self.challenger()
            if challenger is None:
                raise NotStored("There is no challenger yet.", hint="Train one with `cift train`.")
            return challenger
        found = [ref.sha256 for ref in self.all() if len(name) >= SHORTEST and ref.sha256.startswith(name)]
        if len(found) > 1:
            raise InputError(f"{name!r} stands for {len(found)} releases.", hint="Give more digits.")
        if not found:
            raise NotStored(f"No release {name!r}.", hint=self._have(), release=name)
        return found[0]

    def served(self) -> Served | None:
        """What is served; None before the first promotion. Raises StoreError where the file is damaged."""
        return self._read(SERVED, Served)

    def challenger(self) -> str | None:
        """What was trained last; None before the first."""
        pointer = self._read(CHALLENGER, _Pointer)
        return pointer.release if pointer else None

    def set_challenger(self, release: str) -> None:
        """Point at what was trained last. Raises as `directory` does."""
        self.directory(release)
        write_atomic(self.home / CHALLENGER, canonical_json({"release": release}))

    def compare_and_set(self, expected_sequence: int, release: str, note: str = "") -> Served:
        """Serve a release if nothing has moved since `expected_sequence` was read (0: nothing is served yet).

        Raises Conflict where something has; NotStored or ReleaseError for a release that is not there or not itself.
        """
        with locked(self.root):
            self.directory(release)
            return self._move(self._current(expected_sequence), release, note)

    def set_verdict(self, card: Card) -> None:
        """Keep the card of a release; the one before it is gone. Raises as `directory` does, InputError for a card of no release."""
        name = card.challenger.release
        if name is None:
            raise InputError(f"The verdict on {card.challenger.model} is of no release.", hint="Judge a release.")
        self.directory(name)
        write_atomic(self.home / VERDICTS / f"{name}.json", card.to_bytes())

    def verdict(self, release: str) -> Card | None:
        """The last verdict on a release; None where it was never judged. Raises StoreError for a damaged card."""
        try:
            card = Card.from_bytes((self.home / VERDICTS / f"{release}.json").read_bytes())
        except FileNotFoundError:
            return None
        if card.challenger.release != release:
            raise StoreError(f"The verdict on {release[:12]} is that of another release.", hint="Judge it again: `cift gate`.")
        return card

    def promote(self, expected_sequence: int, card: Card, note: str) -> Served:
        """Serve what a card promotes, if it was judged against what is served now, and nothing has moved since `expected_sequence`.

        The rival is compared under the lock: a verdict against what was served before says nothing of what is served now, so of two
        challengers that both beat the champion the second to come must be judged against the first.
        Raises ReleaseError for a card that holds, or that a certificate of size `test` promotes; Conflict where it was judged against
        something else; and as `compare_and_set` does.
        """
        name = card.challenger.release
        if name is None or card.verdict != "promoted" or card.failed or card.certificate is None or card.certificate.size != "full":
            raise ReleaseError(f"The verdict does not promote it: {card.first_reason}.", hint='Read it (`cift gate`), or --force "why".')
        with locked(self.root):
            self.directory(name)
            now = self._current(expected_sequence)
            served = now.release if now else None
            if card.champion.release != served:
                raise Conflict(
                    f"It was judged against {_short(card.champion.release)}; what is served now is {_short(served)}.",
                    hint="Judge it again: `cift gate`.",
                )
            return self._move(now, name, note)

    def rollback(self, expected_sequence: int, release: str | None = None, note: str = "rolled back") -> Served:
        """Serve a release that was served before: the given one, or the last that is not served now.

        Raises InputError for one that never was served, Conflict as compare_and_set does.
        """
        with locked(self.root):
            now = self._current(expected_sequence)
            before = [m.release for m in now.history if m.release != now.release] if now else []
            if not before or (release is not None and release not in before):
                raise InputError(
                    f"{release[:12]} was never served." if release else "No other release was served before this one.",
                    hint=f"Served before: {', '.join(r[:12] for r in dict.fromkeys(before)) or 'none'}. Promote it instead.",
                )
            target = release or before[-1]
            self.directory(target)
            return self._move(now, target, note)

    def _current(self, expected_sequence: int) -> Served | None:
        now = self.served()
        found = now.sequence if now else 0
        if found != expected_sequence:
            raise Conflict(
                f"What is served has moved: sequence {found}, expected {expected_sequence}.",
                hint="Read what is served now, judge against it, and decide again.",
                sequence=found,
            )
        return now

    def _move(self, now: Served | None, release: str, note: str) -> Served:
        sequence = (now.sequence if now else 0) + 1
        history = (*(now.history if now else ()), Moved(release=release, sequence=sequence, note=note))
        served = Served(release=release, sequence=sequence, history=history)
        write_atomic(self.home / SERVED, canonical_json(served.model_dump(mode="json")))
        return served

    def _read(self, name: str, kind: type[Kind]) -> Kind | None:
        try:
            return kind.model_validate(orjson.loads((self.home / name).read_bytes()))
        except FileNotFoundError:
            return None
        except (ValidationError, ValueError) as error:
            raise StoreError(
                f"{self.home / name} is damaged: {str(error).splitlines()[0]}.",
                hint="Restore it, or remove it and promote a release again.",
            ) from error

    def _have(self) -> str:
        names = [ref.sha256[:12] for ref in self.all()]
        return f"There are {', '.join(names[-5:])}." if names else "Train one with `cift train`."


def _short(release: str | None) -> str:
    return release[:12] if release else "nothing"
