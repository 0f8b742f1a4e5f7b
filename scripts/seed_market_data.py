#!/usr/bin/env python
"""A simulated market with known truth, stored like recorded data: a thin door to the flow behind `cift seed`.

python scripts/seed_market_data.py --sessions 5 --seed 3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Read the arguments and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same market, byte for byte")
    parser.add_argument("--symbols", default="AAA,BBB,CCC", help="names of the simulated instruments, with commas between")
    parser.add_argument("--sessions", type=int, default=2, help="how many sessions")
    parser.add_argument("--minutes", type=int, default=180, help="minutes a session")
    arguments = parser.parse_args()
    from flows.cli.seed import seed

    seed(arguments.seed, arguments.symbols, arguments.sessions, arguments.minutes)


if __name__ == "__main__":
    from flows.cli.guard import guarded

    guarded(main)
