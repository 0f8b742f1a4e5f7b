"""What `cift doctor` looks at. Every check returns what it found; what is wrong is said with what to do."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from cift_models.settings import Settings

SHOWN = (
    "cift", "prefect", "mlflow", "bentoml", "torch", "pytorch-lightning", "torch-geometric", "xgboost-cpu", "xgboost", "hmmlearn",
    "scikit-learn", "numpy", "numba", "polars", "pyarrow", "questdb", "clickhouse-driver", "redis", "chdb",
    "fastapi", "sqlalchemy", "pydantic",
)  # fmt: skip
"""Packages whose versions are shown; every requirement of cift is checked."""

OWN = ("cift_models", "tasks", "flows", "serving")
"""Packages that must come from the code that runs: another package of one of these names would be imported in their place."""

ANSWER_S = 2.0
"""How long a server may take to accept a connection."""

LEAST_FREE_BYTES = 2 * 10**9
"""A training run on a recorded day of three symbols writes about 0.2 GB."""

Problem = Callable[[str, str], None]


def examine() -> dict[str, Any]:
    """Every check. JSON values."""
    from cift_models.errors import CiftError
    from cift_models.settings import get_settings

    problems: list[dict[str, str]] = []

    def problem(what: str, do: str) -> None:
        problems.append({"what": what, "do": do})

    report: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "code": str(Path(__file__).resolve().parents[2]),
        "packages": _packages(problem),
    }
    try:
        settings = get_settings()
    except CiftError as error:
        problem(error.message, error.hint)
        settings = None
    report["settings"] = _settings(settings)
    report["stores"] = _stores(settings, problem) if settings else []
    report["served"] = _served(settings, problem) if settings else "unknown: the settings cannot be read"
    report["problems"] = problems
    return report


def _packages(problem: Problem) -> list[dict[str, Any]]:
    """Versions, and whether each requirement of cift is met."""
    from packaging.requirements import Requirement

    notes: dict[str, str] = {}
    try:
        wanted = [Requirement(text) for text in metadata.requires("cift") or ()]
    except metadata.PackageNotFoundError:
        problem("cift itself is not installed.", "Run `make setup`.")
        wanted = []
    for requirement in wanted:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            problem(f"{requirement.name} is not installed.", "Run `make setup`.")
        elif not requirement.specifier.contains(version, prereleases=True):
            notes[requirement.name] = f"expected {requirement.specifier}"
            problem(f"{requirement.name} {version} is installed, cift needs {requirement.specifier}.", "Run `make setup`.")
    if _version("xgboost") and _version("xgboost-cpu"):
        problem("xgboost and xgboost-cpu are both installed: they are the same module.", "Remove one of them.")
    owners = metadata.packages_distributions()
    for name in OWN:
        others = sorted(set(owners.get(name, ())) - {"cift"})
        if others:
            problem(f"{', '.join(others)} also installs a package {name!r}, which may be imported in the place of ours.", "Remove it.")
    shown = [{"name": name, "version": _version(name), "note": notes.get(name, "")} for name in SHOWN]
    return [one for one in shown if one["version"] or one["name"] not in ("xgboost", "xgboost-cpu")]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _settings(settings: Settings | None) -> list[dict[str, str]]:
    """Every setting with its value (secrets hidden) and its meaning; without values where the settings cannot be read."""
    from pydantic import SecretStr

    from cift_models.settings import PREFIX, describe

    rows = []
    for one in describe():
        value: Any = one.default
        if settings is not None:
            value = getattr(settings, one.name.removeprefix(PREFIX).lower())
            if isinstance(value, SecretStr):
                value = "(set)" if value.get_secret_value() else ""
        origin = "environment" if os.environ.get(one.name) else "default"
        rows.append(
            {"name": one.name, "value": "" if value is None else str(value), "from": origin, "type": one.type, "meaning": one.meaning}
        )
    return rows


def _stores(settings: Settings, problem: Problem) -> list[dict[str, Any]]:
    """Home, ticks, features, live state, MLflow and Prefect: where each lies and whether it answers."""
    from cift_models.errors import CiftError
    from cift_models.stores.features import open_features
    from cift_models.stores.online import open_online
    from cift_models.stores.ticks import open_ticks

    rows: list[dict[str, Any]] = [{"role": "home", "where": str(settings.home), "state": _home(settings.home, problem)}]
    roles: list[tuple[str, Callable[..., Any], str | None, str]] = [
        ("ticks", open_ticks, settings.questdb_url, "QUESTDB"),
        ("features", open_features, settings.clickhouse_url, "CLICKHOUSE"),
        ("live state", open_online, settings.redis_url, "REDIS"),
    ]
    for role, opened, url, name in roles:
        where = _place(url) if url else "memory of the process" if role == "live state" else "Parquet below the home"
        state, lacks = "ready", []
        try:
            if url:
                state = _answers(url, f"Start it, or unset CIFT_{name}_URL.", problem)
            if state != "does not answer":
                store = opened(settings)
                lacks = _lacks(role, store, problem)
                if role == "ticks" and not lacks:
                    state = f"{state}, {len(store.instruments())} symbols stored"
        except CiftError as error:
            state = "not usable"
            problem(error.message, error.hint)
        rows.append({"role": role, "where": where, "state": state, "lacks": lacks})
    rows.append({"role": "MLflow", "where": _place(settings.mlflow_uri), "state": _mlflow(settings.mlflow_uri, problem)})
    api = os.environ.get("PREFECT_API_URL", "")
    state = _answers(api, "Start it with `prefect server start`, or unset PREFECT_API_URL.", problem) if api else "started when a flow runs"
    rows.append({"role": "Prefect", "where": _place(api) if api else "a server of the process", "state": state})
    return rows


def _lacks(role: str, store: Any, problem: Problem) -> list[str]:
    """What a connected server lacks. It is a problem where rows cannot be kept without it; what old ClickHouses lack is comfort."""
    if role == "live state":
        for flaw in store.flaws():
            problem(flaw.what, flaw.do)
        return []
    found = list(store.lacks()) if hasattr(store, "lacks") else []
    if role == "ticks":
        for sentence in found:
            problem(sentence, "Ticks cannot be kept there as it is.")
    if role == "features" and found:
        from cift_models.stores.clickhouse_tables import LACKS

        for sentence in found:
            if sentence not in LACKS.values():
                problem(f"ClickHouse: {sentence.rstrip('.')}.", "Features cannot be kept there as it is.")
    return found


def _home(home: Path, problem: Problem) -> str:
    import shutil

    existing = next(p for p in (home, *home.parents) if p.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        problem(f"{existing} cannot be written to.", "Set CIFT_HOME to a folder that can.")
        return "not writable"
    free = shutil.disk_usage(existing).free
    if free < LEAST_FREE_BYTES:
        problem(f"{existing} has {free / 1e9:.1f} GB free.", "Make room: `cift clean` removes what old runs left.")
    return f"{'writable' if existing == home else 'made at first use'}, {free / 1e9:,.0f} GB free"


def _mlflow(uri: str, problem: Problem) -> str:
    if uri.startswith("sqlite:///"):
        return "ready" if Path(uri.removeprefix("sqlite:///")).is_file() else "made at first use"
    return _answers(uri, "Start it, or unset CIFT_MLFLOW_URI.", problem)


def _answers(url: str, do: str, problem: Problem) -> str:
    """Whether something accepts a connection at a URL's host and port."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443, "clickhouse": 9000, "clickhouses": 9440, "redis": 6379, "rediss": 6379}.get(
        parts.scheme
    )
    if parts.scheme == "unix":
        if Path(parts.path).is_socket():
            return "there"
        problem(f"There is no socket {parts.path}.", do)
        return "does not answer"
    if not parts.hostname or not port:
        return "not checked"
    try:
        socket.create_connection((parts.hostname, port), ANSWER_S).close()
    except OSError as error:
        problem(f"Nothing answers at {parts.hostname}:{port} ({error}).", do)
        return "does not answer"
    return "answers"


def _place(url: str) -> str:
    """A URL without user and password."""
    parts = urlsplit(url)
    return url if not parts.hostname else parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _served(settings: Settings, problem: Problem) -> str:
    """What is served: whole, and the same as MLflow's alias."""
    from cift_models import release
    from cift_models.errors import CiftError
    from cift_models.stores.releases import Releases

    releases = Releases(settings.home)
    try:
        served = releases.served()
        if served is None:
            return "nothing yet"
        release.verify(releases.directory(served.release))
    except CiftError as error:
        problem(error.message, error.hint)
        return "damaged"
    if settings.mlflow_uri.startswith("sqlite:///") and not Path(settings.mlflow_uri.removeprefix("sqlite:///")).is_file():
        alias = None
    else:
        try:
            alias = _alias()
        except Exception as error:
            return f"{served.release[:12]}, every byte verified; MLflow cannot be asked ({type(error).__name__})"
    if alias == served.release:
        return f"{served.release[:12]}, every byte verified; MLflow's alias champion agrees"
    problem(
        f"MLflow's alias champion points at {alias[:12] if alias else 'nothing'}, served is {served.release[:12]}.",
        "What is served decides. Promote it again to move the alias; a release that came from elsewhere is not registered here.",
    )
    return f"{served.release[:12]}, every byte verified; MLflow's alias champion differs"


def _alias() -> str | None:
    if "mlflow" not in sys.modules:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from tasks.release import champion_alias

    return champion_alias()
