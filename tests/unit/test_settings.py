"""Settings: read once, refused when misspelt, and silent about secrets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cift_models.errors import SettingsError
from cift_models.settings import Settings, describe, get_settings


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CIFT_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_defaults_need_no_environment(tmp_path: Path) -> None:
    settings = get_settings()
    assert settings.home == tmp_path / ".cift" and settings.mlflow_uri == f"sqlite:///{tmp_path}/.cift/mlflow.db"
    assert (settings.questdb_url, settings.clickhouse_url, settings.redis_url) == (None, None, None)
    assert settings.service_host == "127.0.0.1" and (settings.app / "cift_models").is_dir()
    assert not settings.home.exists()  # reading settings creates nothing


def test_environment_and_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CIFT_HOME", "elsewhere")
    monkeypatch.setenv("CIFT_THREADS", "3")
    monkeypatch.setenv("CIFT_LOG_LEVEL", "")
    settings = get_settings(threads=2)
    assert (settings.home, settings.threads, settings.log_level) == (tmp_path / "elsewhere", 2, "INFO")
    with pytest.raises(ValueError, match="frozen"):
        settings.threads = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "right"), [("CIFT_HOEM", "CIFT_HOME"), ("CIFT_QUEST_DB_URL", "CIFT_QUESTDB_URL"), ("cift_thread", "CIFT_THREADS")]
)
def test_misspelt_variable_names_the_closest(wrong: str, right: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(wrong, "x")
    with pytest.raises(SettingsError, match=f"no setting {wrong}") as caught:
        get_settings()
    assert f"Did you mean {right}?" in str(caught.value)


def test_unlike_variable_lists_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFT_ZZZZZZZZ", "x")
    with pytest.raises(SettingsError, match="The settings are CIFT_HOME"):
        get_settings()


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("CIFT_THREADS", "0", "CIFT_THREADS is '0'"),
        ("CIFT_SERVICE_PORT", "70000", "CIFT_SERVICE_PORT is '70000'"),
        ("CIFT_LOG_LEVEL", "LOUD", "CIFT_LOG_LEVEL is 'LOUD'"),
        ("CIFT_REDIS_URL", "http://host", "expected redis://HOST"),
        ("CIFT_QUESTDB_URL", "host:9000", "expected http://HOST"),
        ("CIFT_REDIS_PASSWORD", "hush", "set without CIFT_REDIS_URL"),
        ("CIFT_REDIS_URL", "redis://host:6379/0?password=hush", "leave out what follows the question mark"),
        ("CIFT_REDIS_URL", "rediss://host/0?ssl_cert_reqs=none", "leave out what follows the question mark"),
        ("CIFT_REDIS_URL", "unix:///run/redis.sock?password=hush", "leave out what follows the question mark"),
        ("CIFT_REDIS_URL", "redis://host:6379/one", "expected the number of a database"),
        ("CIFT_QUESTDB_URL", "http://host:9000?password=hush", "leave out what follows the question mark"),
    ],
)
def test_refused_values(variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        get_settings()
    assert says in str(caught.value) and "hush" not in str(caught.value)


def test_passwords_stay_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFT_REDIS_URL", "redis://:hush@host:6379/0")
    with pytest.raises(SettingsError, match="CIFT_REDIS_PASSWORD") as caught:
        get_settings()
    assert "hush" not in str(caught.value)
    monkeypatch.setenv("CIFT_REDIS_URL", "redis://host:6379/0")
    monkeypatch.setenv("CIFT_REDIS_PASSWORD", "hush")
    settings = get_settings()
    assert "hush" not in repr(settings) + settings.model_dump_json() and settings.redis_password.get_secret_value() == "hush"


def test_description_is_complete_and_the_same_everywhere() -> None:
    rows = list(describe())
    assert [r.name for r in rows] == [f"CIFT_{n.upper()}" for n in Settings.model_fields]
    assert all(r.meaning and r.type and "Optional" not in r.type for r in rows)
    assert not any(str(Path.cwd()) in r.default or str(Path(__file__).parents[2]) in r.default for r in rows)


def test_reading_settings_imports_nothing_heavy() -> None:
    code = (
        "import sys, cift_models.settings as s; s.get_settings(); print(sorted({'polars', 'torch', 'prefect', 'numba'} & set(sys.modules)))"
    )
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=path)
    assert found.stdout.strip() == "[]"
