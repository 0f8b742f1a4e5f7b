"""The certificate of a judge: what this code, with this config, said of markets whose truth is known.

A gate that promotes is worth what it does on noise and on a planted signal. Both were tried before: a random walk through the whole DAG
(it must be held), a planted market (it must be promoted), and cheap nulls (a simple model on labels without direction, many seeds). The
certificate says what came of it, for one code and one config; for any other it says nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cift_models.errors import NotStored, StoreError
from cift_models.files import canonical_json, sha256_bytes, write_atomic
from cift_models.refs import Sha256

FEWEST_RUNS = 3
"""Null and planted runs through the whole DAG that a full certificate has, of each."""

FEWEST_CHEAP = 200
CHEAP_SHARE = 0.015
"""At most 3 of 200 cheap nulls may be promoted (1 in 67): a gate of size .0025 promotes more than 3 of 200 once in 570 certificates."""

Count = Field(ge=0)


class CertifiedRun(BaseModel):
    """One run through the whole DAG on a market whose truth is known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    seed: int
    verdict: Literal["promoted", "held"]


class CheapNulls(BaseModel):
    """How many labels without direction were judged (fits on them, or forecasts that stay as they are), and how many promoted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    n: int = Count
    promoted: int = Count

    @model_validator(mode="after")
    def _fits(self) -> CheapNulls:
        if self.promoted > self.n:
            raise ValueError(f"{self.promoted} of {self.n} were promoted")
        return self

    @property
    def too_many(self) -> bool:
        """Whether more were promoted than noise would be: more than 1.5 %, of 200 where there are fewer."""
        return self.promoted > CHEAP_SHARE * max(self.n, FEWEST_CHEAP)


class Certificate(BaseModel):
    """What the judge said of known truths. The same runs give the same bytes: nothing in it is a time.

    code, config   digests of what was tried; `config` is that of what is fitted and how it is judged, without universe, range and epochs
    nulls          runs on a market without a signal
    planted        runs on a market with one
    size           full: may promote. test: made of fewer runs, for tests; no command takes it
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    format: Literal[1] = 1
    code: Sha256
    config: Sha256
    nulls: tuple[CertifiedRun, ...]
    planted: tuple[CertifiedRun, ...]
    cheap: CheapNulls
    size: Literal["full", "test"]

    def matches(self, code: str, config: str) -> bool:
        """Whether it was made with this code and this config."""
        return self.code == code and self.config == config

    def faults(self) -> tuple[str, ...]:
        """Why it does not vouch for the gate, in words; empty where it does: a full one tried enough, and all passed."""
        found = []
        for what, runs, due in (("null", self.nulls, "held"), ("planted", self.planted, "promoted")):
            wrong = [run.seed for run in runs if run.verdict != due]
            if wrong:
                found.append(f"{what} seed {wrong[0]} was {'promoted' if due == 'held' else 'held'} ({len(wrong)} of {len(runs)})")
            if len({run.seed for run in runs}) < (FEWEST_RUNS if self.size == "full" else 1):
                found.append(f"{len({run.seed for run in runs})} {what} seeds, {FEWEST_RUNS} are needed")
        if self.cheap.too_many:
            found.append(f"{self.cheap.promoted} of {self.cheap.n} cheap nulls were promoted")
        if self.size == "full" and self.cheap.n < FEWEST_CHEAP:
            found.append(f"{self.cheap.n} cheap nulls, {FEWEST_CHEAP} are needed")
        return tuple(found)

    @property
    def sha256(self) -> str:
        """Its name: digest of its bytes."""
        return sha256_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        write_atomic(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> Certificate:
        """Raises NotStored where there is none, StoreError for a file that is no certificate."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise NotStored(f"There is no certificate at {path}.", hint="`cift certify` makes one.") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise StoreError(
                f"{path} is no certificate: {where}: {first['msg']}.", hint="Remove it; `cift certify` makes another."
            ) from error
