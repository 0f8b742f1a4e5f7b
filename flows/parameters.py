"""What a person fills in: the parameters of the flows, checked by the form, by the command line and by the flow."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal[
    "prior", "activity", "last_move", "queue_imbalance", "ridge_reference", "trees", "linear",
    "strong_linear", "hmm", "hawkes", "gnn", "transformer", "meta_learner", "ensemble",
]  # fmt: skip
"""A model's name, as in cift_models.models.REGISTRY (a test compares them)."""

Symbol = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9._-]+$")]
Day = Annotated[date, Field(json_schema_extra={"pattern": r"^\d{4}-\d{2}-\d{2}$"})]
"""A session date. The server checks patterns and not formats: without one, "yesterday" would fail after the run has started."""

Symbols = Annotated[list[Symbol], Field(min_length=1, max_length=500)]


class Parameters(BaseModel):
    """Frozen, and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelParameters(Parameters):
    """What is fitted, and how."""

    models: list[Kind] = Field(default=[], title="Models", description="Which to train; what they read comes with them. Empty: all.")
    epochs: int | None = Field(
        default=None, ge=1, le=1000, title="Epochs", description="Of the Transformer and the GNN. None: their defaults."
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, title="Seed", description="Of every random draw of the fits.")
    latency_ms: Literal[0, 1, 10, 100, 1000] = Field(
        default=0, title="Latency, ms", description="How long after a decision its price is taken. Empty: 0."
    )
    offsets: Literal["few", "all"] = Field(
        default="few", title="Offsets", description="Judged at ten moments of the second: linear and ridge_reference, or all (minutes)."
    )


def _in_order(parameters: Any) -> Any:
    """Refuse a range that ends before it starts."""
    if parameters.end < parameters.start:
        raise ValueError(f"the range {parameters.start} .. {parameters.end} ends before it starts")
    return parameters


class RangeParameters(Parameters):
    """Which stored sessions."""

    symbols: Symbols = Field(title="Symbols", description="The universe, in order: AAPL, AMZN, GOOG.")
    start: Day = Field(title="First session", description="Its date, included.")
    end: Day = Field(title="Last session", description="Its date, included.")
    test_from: Day | None = Field(
        default=None, title="Test from", description="Date of the first session of the test blocks. None: the last three tenths."
    )
    _ends_after_it_starts = model_validator(mode="after")(_in_order)


class DataPrepParameters(RangeParameters):
    """Features and labels of a range of session dates."""

    again: bool = Field(default=False, description="Build what was built before too: mends a store that has lost rows.")


class TrainParameters(ModelParameters, RangeParameters):
    """A training run over a range of session dates."""


class NightlyUniverse(Parameters):
    """The latest stored sessions, as of the day for which the run was scheduled."""

    symbols: Symbols = Field(title="Symbols", description="The universe, in order: AAPL, AMZN, GOOG.")
    lookback_sessions: int = Field(
        default=20, ge=1, le=2000, title="Sessions", description="How many stored sessions, up to the scheduled date, to train on."
    )


class NightlyParameters(ModelParameters, NightlyUniverse):
    """A training run over the latest stored sessions."""


class PredictParameters(Parameters):
    """A release over a range of session dates."""

    release: str = Field(
        default="champion", min_length=6, max_length=64, title="Release", description="champion, challenger, or its first digits."
    )
    start: Day = Field(title="First session", description="Its date, included.")
    end: Day = Field(title="Last session", description="Its date, included.")
    symbols: Annotated[list[Symbol], Field(max_length=500)] = Field(
        default=[], title="Symbols", description="Whose rows to keep. Empty: every symbol that the release knows."
    )
    _ends_after_it_starts = model_validator(mode="after")(_in_order)


class GateParameters(Parameters):
    """The release of a run."""

    run: int | None = Field(default=None, ge=1, title="Run", description="Its number, as `cift status` says it. Empty: the last one.")


class SeedParameters(Parameters):
    """A simulated market with known truth, stored like any other."""

    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="The same seed gives the same market, byte for byte.")
    symbols: Symbols = Field(default=["AAA", "BBB", "CCC"], description="Names of the simulated instruments.")
    sessions: int = Field(default=2, ge=1, le=250, description="Trading sessions, one a weekday from 2024-01-08 on.")
    session_minutes: int = Field(default=180, ge=10, le=720, title="Minutes", description="Length of a session.")
    plant: Literal["usual", "clear", "nothing"] = Field(
        default="usual", description="The signals: clear ones show in two hours; nothing: a market that nobody can forecast."
    )


class FeedParameters(Parameters):
    """A feed, and what its files do not say. Empty: what the feed does by itself; an option that the feed does not have is refused."""

    feed: Literal["lobster", "binance", "lean", "canonical"] = Field(description="What the files are: checked, never guessed.")
    market: Literal["spot", "usdm", "coinm"] | None = Field(
        default=None, description="Of a Binance recording whose name does not say it: spot, usdm or coinm."
    )
    hours: Literal["regular", "extended"] | None = Field(default=None, description="Of LEAN's equities: regular or extended hours.")
    levels: int | None = Field(default=None, ge=1, le=1000, description="Levels of the book to keep, of a Binance recording.")
    tick_units: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        title="Tick, in 1/10000",
        description="Of LOBSTER and LEAN: 100 is a cent, 1 for a stock below a dollar.",
    )
    fee_bps: float | None = Field(default=None, ge=0, le=1000, title="Fee, bps", description="Of taking liquidity; no file says it.")
    instruments: str | None = Field(
        default=None, description="File of instruments: Binance's exchangeInfo, or instruments.csv of canonical files."
    )

    def options(self) -> dict[str, Any]:
        """What is said to the feed."""
        return self.model_dump(mode="json", include=set(FeedParameters.model_fields) - {"feed"}, exclude_none=True)


class IngestParameters(FeedParameters):
    """Files of one feed."""

    files: list[str] = Field(min_length=1, description="Paths on the machine where the run executes.")
    again: bool = Field(default=False, description="Read files that were stored before too: mends a store that has lost rows.")


class BackfillParameters(FeedParameters):
    """Every session of a range: its files, and its features if symbols are named. Only what is missing or changed is done."""

    files: list[str] = Field(
        min_length=1, description="Files or folders (every file below one) on the machine where the run executes; those of the range count."
    )
    start: Day = Field(title="First session", description="Its date, included.")
    end: Day = Field(title="Last session", description="Its date, included.")
    symbols: Annotated[list[Symbol], Field(max_length=500)] = Field(
        default=[], title="Symbols", description="Universe whose features to build, in order: AAPL, AMZN, GOOG. Empty: none."
    )
    dry_run: bool = Field(default=False, title="Preview", description="Say what would be done and why, and do nothing.")
    _ends_after_it_starts = model_validator(mode="after")(_in_order)
