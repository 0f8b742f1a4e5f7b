#!/usr/bin/env python
"""Size and power of the judge: whole runs on markets whose truth is known (`make prove-judge`).

Hours long; killed, it goes on where it stopped. Twenty markets without a signal must be held, in the small form of a certificate;
twenty of the usual planted market with 13,500 test rows a symbol must be promoted, but for the certificate that they lack. One JSON
line a run, then the shares with their exact 95 % intervals.

python scripts/prove_judge.py --seeds 20
python scripts/prove_judge.py --kind planted --seeds 3
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Run what is not done yet, in order of the seeds. Exit 1 where a null was promoted or a planted market held."""
    from scipy.stats import binomtest

    from tasks.certify import NULL, PLANTED, Form, certified_run, said

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="markets of each kind")
    parser.add_argument("--kind", choices=[NULL, PLANTED], help="one kind alone")
    arguments = parser.parse_args()
    forms = {NULL: Form(seeds=arguments.seeds), PLANTED: Form(seeds=arguments.seeds, sessions=3, minutes=270, plant="usual")}
    wrong = 0
    for kind, due in ((NULL, "held"), (PLANTED, "promoted")):
        if arguments.kind not in (None, kind):
            continue
        right = 0
        for seed in range(arguments.seeds):
            began = time.monotonic()
            card = certified_run(kind, seed, forms[kind])
            right += said(card) == due
            line = {"kind": kind, "seed": seed, "verdict": said(card), "failed": card.failed, "seconds": round(time.monotonic() - began)}
            gains = {symbol: {"r2_gain": one.r2_gain.value, "t": one.r2_gain.t, "rows": one.rows} for symbol, one in card.symbols.items()}
            print(json.dumps(line | {"symbols": gains}), flush=True)
        share = binomtest(right, arguments.seeds).proportion_ci(method="exact")
        print(f"{kind}: {right} of {arguments.seeds} {due}, 95 % interval of the share {share.low:.2f} to {share.high:.2f}", flush=True)
        wrong += arguments.seeds - right
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
