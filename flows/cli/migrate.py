"""`cift migrate`"""

from __future__ import annotations

import typer

from flows.cli.options import Json


def migrate(json: Json = False) -> None:
    """Make the tables of the servers that the settings name.

    The tables are those of cift_models/schema.py. A table that is there and differs is not touched: the difference is printed, nothing is
    made on that server, and the exit code is 1. Called again it makes nothing. Files below CIFT_HOME need no migration.

    Example: cift migrate --json
    """
    from cift_models.settings import get_settings
    from cift_models.stores.features import open_features
    from cift_models.stores.ticks import open_ticks

    settings = get_settings()
    servers = {"QuestDB": (settings.questdb_url, open_ticks), "ClickHouse": (settings.clickhouse_url, open_features)}
    report = {}
    for name, (url, opened) in servers.items():
        if url is None:
            continue
        made, differences = opened(settings).migrate()  # type: ignore[attr-defined]
        report[name] = {"made": list(made), "differences": list(differences)}
    if json:
        import orjson

        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    elif not report:
        print("No server is named: ticks and features lie as Parquet below the home, and need no migration.")
        print("Set CIFT_QUESTDB_URL or CIFT_CLICKHOUSE_URL to use one.")
    else:
        _print(report)
    if any(said["differences"] for said in report.values()):
        raise typer.Exit(1)


def _print(report: dict[str, dict[str, list[str]]]) -> None:
    for name, said in report.items():
        if said["differences"]:
            print(f"{name}: nothing was made, {len(said['differences'])} differences:")
            for difference in said["differences"]:
                print(f"  {difference}")
            print("  Rename the table away or alter it, then migrate again.")
        elif said["made"]:
            print(f"{name}: made {', '.join(said['made'])}.")
        else:
            print(f"{name}: every table is there, nothing to do.")
