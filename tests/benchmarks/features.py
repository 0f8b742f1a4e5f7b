"""Features of a file of ticks, ours beside the peers: bars, order flow, z-scores, volume profile (peers/job.py says the job).

    python tests/benchmarks/features.py            a table
    python tests/benchmarks/features.py --json     one JSON line each: job, rows, levels, ours_ms, peer, peer_ms, ratio, note
    python tests/benchmarks/features.py --large    2e7 rows too: at one level in memory, at ten from Parquet (12 GB of files and as much
                                                   memory to keep them in, half an hour)

Everyone does the same job on the same rows and the results must agree, or the program fails. Ours runs on one thread, the peers on as many
as they take. A peer is given its rows as float64 and as int32 and may write the job in several ways; the figure is its fastest form on the
type of column that comes closest to ours. Ours and the peer take turns, medians; `ratio` = peer_ms / ours_ms. The line `memory-read` is a
plain read of the same bytes by one thread: what no engine on this machine can beat. Progress goes to stderr, and so does a peer that is not
installed (those that the lock lacks: .venv-bench).
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.peers import made, ours, plain_columns
from tests.benchmarks.peers.job import Columns, Contestant, Sums, difference, names

PEERS = {
    "pandas": ("pandas_frames", "load", {}),
    "polars": ("polars_frames", "load", {"engine": "in-memory"}),
    "polars-streaming": ("polars_frames", "load", {"engine": "streaming"}),
    "duckdb": ("duckdb_sql", "load", {}),
    "chdb": ("chdb_sql", "load", {}),
}
KINDS = {"int32": np.int32, "float64": np.float64}
CASES = ((1_000_000, 1), (1_000_000, 5), (1_000_000, 10))
LARGE = 20_000_000
SAMPLE = 2_000_000
"""Rows on which a peer's forms are tried; more are worked through in the fastest alone."""
OURS = "int32 plain"
LAYOUTS = (*(f"{kind} {compression}" for kind in KINDS for compression in ("zstd", "lz4", "uncompressed")), OURS)
"""How Parquet files are written: as polars does, and as plain columns."""
FLOORS = "floors: 2.5 x polars-streaming at ten levels, 2 x at one, 7 x pandas"


class Disagreement(Exception):
    """A peer's result is not ours."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line per figure")
    parser.add_argument("--large", action="store_true", help="2e7 rows too")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS), help="only these")
    parser.add_argument("--cases", nargs="*", help="only these, as ROWSxLEVELS (1000000x10; 20000000x10 is the one from Parquet)")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each at a million rows (fewer where a peer takes over a second)")
    args = parser.parse_args()
    cases = [tuple(int(v) for v in case.split("x")) for case in args.cases] if args.cases else list(CASES)
    if args.large and not args.cases:
        cases += [(LARGE, 1), (LARGE, 10)]
    if not args.json:
        print(f"{'peer':18}{'levels':>7}{'rows':>12}{'ours ms':>10}{'peer ms':>10}{'ratio':>8}  note")
    try:
        for rows, levels in cases:
            if rows < LARGE or levels == 1:
                show(case(rows, levels, args.peers, args.repeats), args.json)
            elif "polars-streaming" in args.peers:
                show(parquet_case(rows, levels, args.repeats), args.json)
    except Disagreement as error:
        say(f"FAILED: {error}")
        return 1
    say(FLOORS)
    return 0


def case(rows: int, levels: int, peers: Iterable[str], repeats: int) -> Iterator[dict[str, Any]]:
    """The lines of one size, in memory."""
    say(f"{rows:,} rows, {levels} level(s): making them")
    columns = made.rows(rows, levels)
    own = ours.load(columns, levels)
    expected = own.sums(run_of(own)())
    sample = ours.load({name: column[:SAMPLE] for name, column in columns.items()}, levels)
    sums_of_sample = sample.sums(run_of(sample)())
    read_ms = turns([partial(read, columns, levels), run_of(own)], repeats)
    yield line(rows, levels, read_ms[1], "memory-read", read_ms[0], bandwidth(columns, levels, read_ms[0][0]))
    for peer in peers:
        module, load, options = PEERS[peer]
        try:
            loader = partial(getattr(importlib.import_module(f"tests.benchmarks.peers.{module}"), load), **options)
        except ImportError as error:
            say(f"{peer}: not installed ({error.name}), no figure")
            continue
        loaders = {kind: partial(loader, as_kind(columns, dtype), levels) for kind, dtype in KINDS.items()}
        few = {name: column[:SAMPLE] for name, column in columns.items()}
        samples = {kind: partial(loader, as_kind(few, dtype), levels) for kind, dtype in KINDS.items()}
        forms = {kind: quickest(f"{peer}, {kind}", load(), sums_of_sample) for kind, load in samples.items()}
        yield best(peer, loaders, forms, own, expected, rows, levels, repeats)


def parquet_case(rows: int, levels: int, repeats: int) -> Iterator[dict[str, Any]]:
    """The line of polars streaming where everyone reads Parquet (files of a million rows, in the page cache), each in the layout that it is
    fastest in: ours plain columns, the peer whichever it takes least time for on the first rows, ours among them."""
    from tests.benchmarks.peers import polars_frames

    with tempfile.TemporaryDirectory() as folder:
        say(f"levels {levels}: trying forms and layouts on {SAMPLE:,} rows")
        few = {label: write_parquet(Path(folder) / "few", SAMPLE, levels, [label])[label] for label in LAYOUTS}
        sample = ours.from_parquet(few[OURS], levels)
        sums_of_sample = sample.sums(run_of(sample)())
        forms: dict[str, str] = {}
        for kind in KINDS:
            labels = [label for label in LAYOUTS if label.startswith(kind)]
            form = quickest(f"polars-streaming, {kind}", polars_frames.from_parquet(few[labels[0]], levels), sums_of_sample)
            took = {label: min(timed(polars_frames.from_parquet(few[label], levels).forms[form])[0] for _ in range(3)) for label in labels}
            say(f"polars-streaming, {kind}: {', '.join(f'{label} {ms:.0f} ms' for label, ms in took.items())} ({form})")
            forms[min(took, key=lambda label: took[label])] = form
        shutil.rmtree(Path(folder) / "few")
        say(f"{rows:,} rows, {levels} levels: writing them as Parquet")
        files = write_parquet(Path(folder), rows, levels, {OURS, *forms})
        small = Path(folder) / "small.parquet"
        plain_columns.write(small, [made.rows(20_000, levels)])
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak = pool.apply(peak_of, (small, files[OURS], levels))
        own = ours.from_parquet(files[OURS], levels)
        expected = own.sums(run_of(own)())
        read_ms = turns([partial(only_read, files[OURS], levels), run_of(own)], repeats)
        loaders = {label: partial(polars_frames.from_parquet, files[label], levels) for label in forms}
        found = best("polars-streaming", loaders, forms, own, expected, rows, levels, repeats)
        share = f"reading alone takes {read_ms[0][0] / read_ms[1][0]:.0%} of ours"
        size = ", ".join(f"{label} {sum(file.stat().st_size for file in files[label]) / rows:.0f}" for label in files)
        yield found | {"note": f"from Parquet; ours adds {peak:.0f} MB beside its output; {share}; bytes a row: {size}; {found['note']}"}


def write_parquet(folder: Path, rows: int, levels: int, labels: Iterable[str]) -> dict[str, list[Path]]:
    """Made rows in some of LAYOUTS, a file a million."""
    import polars as pl

    folder.mkdir(exist_ok=True)
    files: dict[str, list[Path]] = {label: [] for label in labels}
    for part in made.parts_of(rows, levels):
        for label, written in files.items():
            file = folder / f"{label.replace(' ', '-')}-{len(written):03d}.parquet"
            if label == OURS:
                plain_columns.write(file, [part])
            else:
                kind, compression = label.split()
                pl.DataFrame(as_kind(part, KINDS[kind])).write_parquet(file, compression=compression)  # pyright: ignore[reportArgumentType]
            written.append(file)
    return files


def only_read(files: list[Path], levels: int) -> int:
    """Read the files as ours does, and do nothing."""
    return sum(len(chunk) for chunk in ours.batches(files, levels))


def best(
    peer: str,
    loaders: dict[str, Callable[[], Contestant]],
    forms: dict[str, str],
    own: Contestant,
    expected: Sums,
    rows: int,
    levels: int,
    repeats: int,
) -> dict[str, Any]:
    """The line of a peer: its fastest form on each type of column in turns with ours, the type that comes closest to ours."""
    medians = {}
    for kind, loader in loaders.items():
        loaded = loader()
        name = forms[kind]
        check(f"{peer}, {kind} ({name})", expected, loaded.sums(loaded.forms[name]()))
        times = turns([loaded.forms[name], run_of(own)], repeats)
        say(f"{peer}, {kind}: {times[0][0]:.1f} ms ({name}); ours {times[1][0]:.1f} ms")
        medians[kind] = (*times, name)
        loaded.close()
        del loaded
        gc.collect()
    kind = min(medians, key=lambda k: medians[k][0][0] / medians[k][1][0])
    theirs, mine, name = medians[kind]
    others = "".join(f", {k}: {m[0][0]:.1f} ms" for k, m in medians.items() if k != kind)
    note = f"{kind} ({name}{others}); CPU ratio {theirs[1] / mine[1]:.1f}; load {os.getloadavg()[0]:.1f}"
    return line(rows, levels, mine, peer, theirs, note)


def quickest(who: str, loaded: Contestant, expected: Sums) -> str:
    """The form that is fastest of three runs. Raises Disagreement where one gives another result than ours."""
    times = {}
    for name, form in loaded.forms.items():
        check(f"{who} ({name})", expected, loaded.sums(form()))
        times[name] = min(timed(form)[0] for _ in range(3))
    loaded.close()
    return min(times, key=lambda name: times[name])


def check(who: str, expected: Sums, found: Sums) -> None:
    if differs := difference(expected, found):
        raise Disagreement(f"{who}: ours and the peer's {differs}")


def turns(contestants: list[Callable[[], Any]], repeats: int) -> list[tuple[float, float]]:
    """(median wall, median CPU) ms of each, taking turns; five turns where one round takes over three seconds."""
    spent: list[list[tuple[float, float]]] = [[] for _ in contestants]
    for turn in range(repeats):
        for i, contestant in enumerate(contestants):
            spent[i].append(timed(contestant))
        if turn >= 4 and sum(times[0][0] for times in spent) > 3000:
            break
    return [(statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)) for times in spent]


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """(wall, CPU of all threads) ms of one run; its result is let go outside the clock."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    spent = 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)
    del result
    return spent


def run_of(contestant: Contestant) -> Callable[[], Any]:
    return next(iter(contestant.forms.values()))


def as_kind(columns: Columns, dtype: type) -> Columns:
    return {name: column if name == "ts" else column.astype(dtype, copy=False) for name, column in columns.items()}


def read(columns: Columns, levels: int) -> int:
    """Read every column once, one after another, as vectors."""
    return sum(bits(columns[name]) for name in names(levels))


@njit(nogil=True)
def bits(column):
    found = column.dtype.type(0)
    for i in range(column.shape[0]):
        found |= column[i]
    return found


def bandwidth(columns: Columns, levels: int, ms: float) -> str:
    total = sum(columns[name].nbytes for name in names(levels))
    return f"{total / len(columns['ts']):.0f} bytes a row at {total / ms / 1e6:.0f} GB/s"


def peak_of(small: Path, files: list[Path], levels: int) -> float:
    """MB beside its output that the job over all files adds, reader included, to what a process holds that has done it on a small one."""
    run_of(ours.from_parquet([small], levels))()
    gc.collect()
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    output = ours.output_mb(run_of(ours.from_parquet(files, levels))())
    return memory_mb("VmHWM") - before - output


def memory_mb(what: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(row for row in status.splitlines() if row.startswith(what)).split()[1]) / 1024


def line(rows: int, levels: int, mine: tuple[float, float], peer: str, theirs: tuple[float, float], note: str) -> dict[str, Any]:
    return {
        "job": "features",
        "rows": rows,
        "levels": levels,
        "ours_ms": round(mine[0], 2),
        "peer": peer,
        "peer_ms": round(theirs[0], 2),
        "ratio": round(theirs[0] / mine[0], 2),
        "note": note,
    }


def show(lines: Iterable[dict[str, Any]], as_json: bool) -> None:
    for found in lines:
        if as_json:
            print(json.dumps(found), flush=True)
        else:
            print(
                f"{found['peer']:18}{found['levels']:7}{found['rows']:12,}{found['ours_ms']:10.1f}{found['peer_ms']:10.1f}"
                f"{found['ratio']:8.2f}  {found['note']}",
                flush=True,
            )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
