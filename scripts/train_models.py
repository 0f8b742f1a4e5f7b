#!/usr/bin/env python
"""Features, training and evaluation of stored sessions: a thin door to the flows behind `cift data-prep`, `cift train` and `cift eval`.

python scripts/train_models.py --mode data_prep --start 2012-06-21 --end 2012-06-21
python scripts/train_models.py --mode train --model all --epochs 50
python scripts/train_models.py --mode eval --split test
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Read the arguments; what is not given is everything that is stored, and which that is goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", required=True, choices=["data_prep", "train", "eval"])
    parser.add_argument("--symbols", help="with commas between, in order; default: every stored symbol")
    parser.add_argument("--start", help="first session date; default: the first that is stored")
    parser.add_argument("--end", help="last session date; default: the last that is stored")
    parser.add_argument("--model", default="all", help="train: all, or names with commas between; what they read comes with them")
    parser.add_argument("--epochs", type=int, help="train: of the Transformer and the GNN")
    parser.add_argument("--seed", type=int, default=0, help="train: of every random draw of the fits")
    parser.add_argument("--split", default="test", help="eval: test, the only blocks that no fit has seen")
    parser.add_argument("--json", action="store_true", help="eval: print metrics.json and nothing else")
    arguments = parser.parse_args()
    if arguments.mode == "eval":
        from flows.cli.evaluate import evaluate

        evaluate(arguments.split, arguments.symbols, arguments.start, arguments.end, arguments.json)
        return
    from flows.cli.options import day, split
    from flows.cli.stored import fill

    given = arguments.symbols, arguments.start, arguments.end
    symbols, start, end = fill(
        split(given[0]) if given[0] else None, day(given[1], "--start") if given[1] else None, day(given[2], "--end") if given[2] else None
    )
    print(f"Taking {', '.join(symbols)}, {start} .. {end}.", file=sys.stderr)
    if arguments.mode == "data_prep":
        from flows.cli.data_prep import data_prep

        data_prep(",".join(symbols), str(start), str(end))
        return
    from flows.cli.train import train

    train(",".join(symbols), str(start), str(end), models=arguments.model, epochs=arguments.epochs, seed=arguments.seed)


if __name__ == "__main__":
    from flows.cli.guard import guarded

    guarded(main)
