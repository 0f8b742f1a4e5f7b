"""`cift doctor`"""

from __future__ import annotations

from typing import Any

import typer

from flows.cli.options import Json


def doctor(json: Json = False) -> None:
    """Check installation, settings, stores and what is served.

    Prints every setting with its meaning, and changes nothing. Exit 0 where nothing is wrong (an empty home with no server is fine), 1
    where something is.

    Example: cift doctor --json
    """
    from flows.cli import checks

    report = checks.examine()
    if json:
        import orjson

        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        _print(report)
    if report["problems"]:
        raise typer.Exit(1)


def _print(report: dict[str, Any]) -> None:
    print(f"Python {report['python']} on {report['machine']}, {report['cores']} cores; cift from {report['code']}")
    print("\nInstalled")
    for one in report["packages"]:
        print(f"  {one['name']:<20} {one['version'] or 'not installed':<14} {one['note']}".rstrip())
    print("\nSettings")
    for one in report["settings"]:
        print(f"  {one['name']:<26} {one['value']:<30} {one['meaning']}")
    print("\nStores and servers")
    for one in report["stores"]:
        print(f"  {one['role']:<16} {one['where']:<50} {one['state']}")
        for sentence in one.get("lacks", []):
            print(f"  {'':<16} {sentence}")
    print("\nServed")
    print(f"  {report['served']}")
    print()
    for problem in report["problems"]:
        print(f"Problem: {problem['what']}")
        print(f"         {problem['do']}")
    if not report["problems"]:
        print("Nothing is wrong.")
