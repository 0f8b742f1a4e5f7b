"""A verdict as a value: promoted or held, why, and every number that it rests on. The same inputs give the same bytes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cift_models.errors import StoreError
from cift_models.evaluation.certificate import CheapNulls
from cift_models.evaluation.significance import Estimate
from cift_models.files import canonical_json, sha256_bytes

FORMAT = 1


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(_Strict):
    """A number with its 95 % interval. value None: it does not apply; lo and hi None: no interval. `reason` says why."""

    value: float | None
    lo: float | None = None
    hi: float | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Figure:
        if (self.lo is None) != (self.hi is None) or (self.lo is not None and self.hi is not None and self.lo > self.hi):
            raise ValueError(f"lo and hi must be both null or in order; were {self.lo} and {self.hi}")
        if self.lo is None and not self.reason:
            raise ValueError("a null needs its reason")
        return self

    @classmethod
    def of(cls, estimate: Estimate) -> Figure:
        return cls(**estimate.as_json())


class Tested(Figure):
    """A gain that is tested one-sided. bound: its one-sided 99.75 % lower bound; p_value: chance of such a t where there is no gain."""

    t: float | None = None
    bound: float | None = None
    p_value: float | None = None


class Who(_Strict):
    """A contender: the release's sha256 (None: a model of the challenger's own run), and the model that decides."""

    release: str | None
    model: str


class Size(_Strict):
    """How often noise is promoted, at most: stated, and measured by the certificate."""

    one_sided: float
    over: str
    harm: float
    calibration: float


class OnSymbol(_Strict):
    """Everything about one symbol, on the rows where both contenders speak.

    rival           whom the challenger is compared with here
    rows, blocks    paired rows, and the blocks of 60 s that hold them
    r2              the challenger's R2 against zero
    r2_gain         of R2 over the rival
    p_holm          of the larger of the two p-values, Holm over symbols: the symbol carries a promotion where it is at most the size
    direction_gain  nats a move; timing_gain bps of a parent order: both above 0 where the challenger is better
    timing          what the challenger's own timing saves, bps; null_max the most that its shifted forecasts reached, of `shifts`
    slope           calibration, its interval at the gate's own level; ece_p_holm against near-perfect models, Holm over symbols
    gone_ms         the shortest delay at which the timing value is not above 0 any more; where it always is, the longest that was tried
    """

    rival: Who
    rows: int
    blocks: int
    r2: Tested
    r2_gain: Tested
    p_holm: float | None
    direction_gain: Figure
    timing_gain: Figure
    timing: Figure
    null_max: float | None
    shifts: int
    slope: Figure
    ece: float | None
    ece_p_holm: float | None
    gone_ms: float | None


class Switch(_Strict):
    """Whether a model of the stack is credited. `off` is a statement: what was judged is served as it is (docs/decisions.md).

    p_value   one-sided, the least after Holm over symbols and measures; None where nothing can be tested
    reason    why, with "gain in [lo, hi]" of every symbol
    """

    switch: Literal["on", "off"]
    p_value: float | None
    reason: str = Field(min_length=1)


class Vouched(_Strict):
    """The certificate that was shown."""

    sha256: str
    size: Literal["full", "test"]


class Card(_Strict):
    """A verdict. `reasons` is never empty: why it is held, or what speaks for it; `failed` names the clauses that hold it."""

    format: Literal[1] = FORMAT
    verdict: Literal["promoted", "held"]
    reasons: tuple[str, ...] = Field(min_length=1)
    clauses: dict[str, bool]
    challenger: Who
    champion: Who
    code: str
    config: str
    size: Size
    rows: dict[str, int]
    symbols: dict[str, OnSymbol]
    certificate: Vouched | None
    latency_ms: float | None
    audited: int
    nulls: CheapNulls | None = None
    switches: dict[str, Switch] = {}
    alarms: tuple[str, ...]

    @model_validator(mode="after")
    def _true(self) -> Card:
        if not self.clauses or (self.verdict == "promoted") != all(self.clauses.values()):
            raise ValueError(f"{self.verdict} is not what its clauses say")
        return self

    @property
    def first_reason(self) -> str:
        """What a line has room for."""
        return next(iter(self.reasons))

    @property
    def failed(self) -> tuple[str, ...]:
        """Clauses that hold it."""
        return tuple(name for name, kept in self.clauses.items() if not kept)

    @property
    def sha256(self) -> str:
        return sha256_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Card:
        """Raises StoreError for what is no card of this version, or one whose verdict contradicts its clauses."""
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the card"
            raise StoreError(f"This is no verdict: {where}: {first['msg']}.", hint="`cift gate` makes another.") from error
