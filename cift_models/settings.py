"""Settings say *where*: one frozen object, read once from CIFT_* variables of the environment, at the edge. Configs say *what*.

A misspelt CIFT_* variable is refused: pydantic-settings reads the names that it knows and never looks at the others, so the environment
itself is checked here.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from cift_models.errors import SettingsError

PREFIX = "CIFT_"
"""Every variable begins with it."""


class Settings(BaseSettings):
    """Where things are. Raises SettingsError (through `get_settings`) for a value out of range or one that contradicts another."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    home: Path = Field(Path(".cift"), description="folder of everything that is written: lake, models, releases; made absolute when read")
    app: Path = Field(Path(__file__).resolve().parent.parent, description="folder of the code, from which flows and the service start")
    test_data: Path | None = Field(None, description="folder of recorded market data for tests; without it they skip")
    image: str = Field("cift:latest", description="container image that work pools run")
    mlflow_uri: str = Field("", description="MLflow's store; empty: SQLite below the home")
    questdb_url: str | None = Field(None, description="QuestDB for ticks, as http://host:9000; empty: Parquet below the home")
    questdb_user: str = Field("", description="QuestDB's user")
    questdb_password: SecretStr = Field(SecretStr(""), description="QuestDB's password")
    clickhouse_url: str | None = Field(
        None, description="ClickHouse for features, as clickhouse://host:9000/database; empty: files below the home"
    )
    clickhouse_user: str = Field("", description="ClickHouse's user")
    clickhouse_password: SecretStr = Field(SecretStr(""), description="ClickHouse's password")
    redis_url: str | None = Field(
        None, description="Redis, Valkey or Dragonfly for live rows, as redis://host:6379/0; empty: memory of the process"
    )
    redis_password: SecretStr = Field(SecretStr(""), description="Redis' password")
    tls_ca: Path | None = Field(
        None, description="file of certificates (PEM) that stores behind https and the like are checked against; empty: the system's"
    )
    threads: int = Field(1, ge=1, le=1024, description="threads of one fit, for torch and BLAS; part of a fit's key")
    workers: int = Field(
        2,
        ge=1,
        le=256,
        description="files, sessions, and symbols of a single session, that ingest, data-prep and backfill work on side by side",
    )
    task_runner: Literal["threads", "processes"] = Field(
        "threads", description="what those workers are; processes where the work holds the interpreter (Binance's JSON)"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="what is logged")
    release: str = Field("champion", description="what the service serves: champion, challenger or a release's name")
    service_host: str = Field("127.0.0.1", description="address that the service listens on; 0.0.0.0 shows it to the network")
    service_port: int = Field(3000, ge=1, le=65535, description="port that the service listens on")

    @field_validator("home", "app", "test_data", "tls_ca", mode="after")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().resolve()

    @field_validator("questdb_url", "clickhouse_url", "redis_url", mode="after")
    @classmethod
    def _url(cls, url: str | None, info: Any) -> str | None:
        if not url:
            return None
        schemes = {
            "questdb_url": ("http", "https"),
            "clickhouse_url": ("clickhouse", "clickhouses"),
            "redis_url": ("redis", "rediss", "unix"),
        }[info.field_name]
        parts = urlsplit(url)
        if parts.scheme not in schemes or not (parts.hostname or parts.path):
            # Never the value: a URL may hold a password.
            raise ValueError(f"expected {schemes[0]}://HOST[:PORT]")
        if parts.password is not None or (parts.username and info.field_name != "redis_url"):
            raise ValueError(f"keep user and password out of the URL: set {PREFIX}{info.field_name[:-4].upper()}_PASSWORD")
        if parts.query and not (parts.scheme == "unix" and re.fullmatch(r"db=\d+", parts.query)):
            # A driver would read a password, or `do not check the certificate`, from there.
            raise ValueError("leave out what follows the question mark")
        if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"(/\d*)?", parts.path):
            # The driver takes any other path for database 0.
            raise ValueError(f"expected the number of a database, {parts.scheme}://HOST[:PORT]/0")
        return url

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        for store in ("questdb", "clickhouse", "redis"):
            if getattr(self, f"{store}_password").get_secret_value() and getattr(self, f"{store}_url") is None:
                raise ValueError(f"{PREFIX}{store.upper()}_PASSWORD is set without {PREFIX}{store.upper()}_URL")
        if not self.mlflow_uri:
            object.__setattr__(self, "mlflow_uri", f"sqlite:///{self.home / 'mlflow.db'}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment; no .env and no secret files: `env` shows what a process runs with."""
        return init_settings, env_settings


class Described(NamedTuple):
    """One setting, as the README's table shows it."""

    name: str
    type: str
    default: str
    meaning: str


def get_settings(**values: Any) -> Settings:
    """Read the settings: `values` first, then the environment. Call it once, at the edge, and pass the result on.

    Raises SettingsError for a CIFT_* variable that no setting has, a value that is refused, and settings that contradict one another.
    """
    refuse_misspelt(os.environ)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError(_first(error), hint="`cift doctor` prints every setting with its meaning.") from None


def refuse_misspelt(environment: Mapping[str, str]) -> None:
    """Raise SettingsError for the first CIFT_* variable that no setting has, naming the closest one."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    for variable in sorted(environment):
        if variable.upper().startswith(PREFIX) and variable.upper() not in known:
            close = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0.6)
            raise SettingsError(
                f"There is no setting {variable}.",
                hint=f"Did you mean {close[0]}?" if close else f"The settings are {', '.join(known)}.",
                variable=variable,
            )


def describe() -> Iterator[Described]:
    """Every setting in order: variable, type, default and meaning. The same on every machine."""
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        shown = "the code's folder" if name == "app" else "" if default is None else str(default)
        yield Described(f"{PREFIX}{name.upper()}", _type(field.annotation), shown, field.description or "")


def _type(annotation: Any) -> str:
    text = getattr(annotation, "__name__", None) or str(annotation)
    args = getattr(annotation, "__args__", ())
    if text == "Literal" or str(annotation).startswith("typing.Literal"):
        return " or ".join(args)
    if type(None) in args:
        return _type(next(a for a in args if a is not type(None)))
    return {"SecretStr": "secret", "Path": "path", "str": "text", "int": "integer"}.get(text, text)


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, without the value where it may be secret."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f"The settings contradict one another: {message}."
    name = str(first["loc"][0])
    if name not in Settings.model_fields:
        return f"There is no setting {name!r}."
    shown = "" if name.endswith(("_url", "_password", "_uri")) else f" is {first['input']!r}"
    return f"{PREFIX}{name.upper()}{shown}: {message}."
