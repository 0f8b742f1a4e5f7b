"""The certificate of the judge: whole runs on markets whose truth is known, each in a home of its own, and the cheap nulls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cift_models.errors import CiftError
from cift_models.evaluation.card import Card
from cift_models.evaluation.certificate import FEWEST_CHEAP, FEWEST_RUNS, Certificate, CertifiedRun, CheapNulls
from cift_models.evaluation.nulls import cheap_nulls, promoted
from cift_models.files import digest, write_atomic
from cift_models.settings import get_settings
from cift_models.stores.releases import Releases
from tasks.code import code_sha256
from tasks.gate import certificate_path
from tasks.runs import Run

NULL, PLANTED = "null", "planted"
ELSEWHERE = ("CIFT_QUESTDB_URL", "CIFT_CLICKHOUSE_URL", "CIFT_REDIS_URL", "CIFT_MLFLOW_URI", "MLFLOW_TRACKING_URI", "PREFECT_API_URL")
"""Settings that a run of a certificate does not see: it is a matter of this machine and of nobody's servers."""

Say = Callable[[str, float], None]


class Form(BaseModel):
    """How large the runs are, and how plain a planted market's signals.

    The default is the small form: a certificate takes under a quarter of an hour on two cores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: int = Field(FEWEST_RUNS, ge=1)
    cheap: int = Field(FEWEST_CHEAP, ge=0)
    symbols: tuple[str, ...] = ("AAA", "BBB")
    sessions: int = Field(1, ge=1)
    minutes: int = Field(120, ge=100)
    plant: Literal["clear", "usual"] = "clear"
    epochs: int = Field(8, ge=1)
    models: tuple[str, ...] = ()

    @property
    def size(self) -> str:
        """full, or test: made of fewer runs than vouch for anything."""
        return "full" if self.seeds >= FEWEST_RUNS and self.cheap >= FEWEST_CHEAP else "test"


def certify(form: Form, say: Say) -> Certificate:
    """Make the certificate of this code, and keep it where the gate looks. Goes on where a killed one stopped.

    Raises CiftError where a run fails: nothing is certified then.
    """
    cards: dict[str, list[tuple[int, Card]]] = {NULL: [], PLANTED: []}
    whole = 2 * form.seeds + (1 if form.cheap else 0)
    for k in range(2 * form.seeds):
        kind, seed = (NULL, PLANTED)[k % 2], k // 2
        say(f"{kind} market {seed}: the whole DAG", k / whole)
        cards[kind].append((seed, certified_run(kind, seed, form)))
    n = 0
    for i, (what, card) in enumerate(cheap_nulls(form.cheap, first_seed=1000)):
        say(f"cheap null {i + 1} of {form.cheap}: {what}", (2 * form.seeds + i / form.cheap) / whole)
        n += promoted(card)
    made = [card for told in cards.values() for _, card in told]
    if {(card.code, card.config) for card in made} != {(code_sha256(), made[0].config)}:
        raise CiftError("The code changed while it was certified.", hint="Give the command again.")
    certificate = Certificate(
        code=code_sha256(),
        config=made[0].config,
        nulls=tuple(CertifiedRun(seed=seed, verdict=said(card)) for seed, card in cards[NULL]),
        planted=tuple(CertifiedRun(seed=seed, verdict=said(card)) for seed, card in cards[PLANTED]),
        cheap=CheapNulls(n=form.cheap, promoted=n),
        size="full" if form.size == "full" else "test",
    )
    certificate.save(certificate_path(certificate.code, certificate.config))
    shutil.rmtree(_rooms(form), ignore_errors=True)
    return certificate


def said(card: Card):
    """What the gate would have said if it had had a certificate: nothing else may be missing."""
    return "promoted" if set(card.failed) <= {"certificate"} else "held"


def certified_run(kind: str, seed: int, form: Form) -> Card:
    """The verdict on a simulated market, planted or not, through the commands that a person gives."""
    room = _rooms(form) / f"{kind}-{seed}"
    kept = room / "card.json"
    if kept.is_file():
        return Card.from_bytes(kept.read_bytes())
    symbols = ",".join(form.symbols)
    shape = ("--sessions", str(form.sessions), "--minutes", str(form.minutes), "--plant", "nothing" if kind == NULL else form.plant)
    _cift(room, "seed", "--seed", str(seed), "--symbols", symbols, *shape)
    models = ["--models", ",".join(form.models)] if form.models else []
    dates = ["--start", "2024-01-01", "--end", "2024-12-31"]
    _cift(room, "train", "--symbols", symbols, *dates, "--epochs", str(form.epochs), "--seed", str(seed), *models)
    run = Run.model_validate_json(max((room / "runs").glob("*.json")).read_bytes())
    card = Releases(room).verdict(run.release)
    if card is None:
        raise CiftError(f"The run of {kind} market {seed} has no verdict.", hint=f"Look below {room}.")
    write_atomic(kept, card.to_bytes())
    return card


def _rooms(form: Form) -> Path:
    """Where the homes of a form's runs lie: by code and form, so that another one begins anew."""
    return get_settings().home / "certify" / f"{code_sha256()[:16]}-{digest(form.model_dump(mode='json', exclude={'cheap', 'seeds'}))[:16]}"


def _cift(home: Path, *arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE} | {"CIFT_HOME": str(home)}
    home.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, "-m", "flows.cli", *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise CiftError(f"cift {' '.join(arguments)} failed: {_last(done.stderr)}", hint=f"Run it with CIFT_HOME={home}.")


def _last(text: str) -> str:
    """The last words of a command that failed, without the lines of its progress."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("[")]
    return " ".join(lines[-3:]) or "it said nothing"
