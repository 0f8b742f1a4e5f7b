"""Run the benchmarks that print JSON lines and put their tables into docs/results.md, each between its marks (`make bench`).

python tests/benchmarks/write_results.py [--large] [NAME ...]     NAME: features, feature_stream; all where none is named
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results.md"


def features(lines: list[dict]) -> list[str]:
    table = ["| rows x levels | peer | ours, ms | peer, ms | ratio | |", "|---|---|---|---|---|---|"]
    for one in lines:
        case = f"{one['rows']:.0e} x {one['levels']}".replace("e+0", "e")
        table.append(f"| {case} | {one['peer']} | {one['ours_ms']:.0f} | {one['peer_ms']:.0f} | {one['ratio']:.2f} | {one['note']} |")
    return table


def feature_stream(lines: list[dict]) -> list[str]:
    table = ["| job | ours | peer | ratio | |", "|---|---|---|---|---|"]
    for one in lines:
        peer = f"{one['peer']} {one['peer_figure']:.3g} {one['unit']}" if one["peer_figure"] else ""
        ratio = f"{one['ratio']:.1f}" if one["ratio"] else ""
        table.append(f"| {one['job']} | {one['ours']:.3g} {one['unit']} | {peer} | {ratio} | {one['note']} |")
    return table


TABLES = {"features": features, "feature_stream": feature_stream}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--large", action="store_true", help="features over 2e7 rows too (12 GB of files, half an hour)")
    said = parser.parse_args()
    if unknown := set(said.names) - set(TABLES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    for name in said.names or TABLES:
        command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), "--json"]
        if said.large and name == "features":
            command.append("--large")
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=environment)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        note = f"{os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}, one run, medians."
        put(name, [note, "", *TABLES[name](lines)])
        print("\n".join(TABLES[name](lines)))


def put(name: str, lines: list[str]) -> None:
    """Replace what stands between a benchmark's marks."""
    begin, end = f"<!-- bench {name} -->", f"<!-- end {name} -->"
    text = RESULTS.read_text()
    if begin not in text or end not in text:
        sys.exit(f"{RESULTS} has no marks {begin} ... {end}: put them where the table belongs.")
    head, tail = text.split(begin)[0], text.split(end)[1]
    RESULTS.write_text("\n".join([head + begin, *lines, end]) + tail)


if __name__ == "__main__":
    main()
