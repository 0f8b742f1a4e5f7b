"""`python -m tests.memory FILE...`: ingest LOBSTER files, build the features of their days, print the peak of resident memory in kB.

Both run as the flows run them, on as many threads as CIFT_WORKERS says.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

FIRST, LAST = date(1970, 1, 1), date(2100, 1, 1)


def main(files: list[str]) -> int:
    """Do the work; the greatest resident size of this process in kB."""
    from cift_models.settings import get_settings
    from cift_models.stores.ticks import open_ticks
    from tasks.dataset import build_session, select_data
    from tasks.ingest import ingest_file

    settings = get_settings()
    with ThreadPoolExecutor(settings.workers) as pool:
        list(pool.map(lambda file: ingest_file("lobster", Path(file), {}), files))
        dataset = select_data.fn(sorted(open_ticks(settings).instruments()), FIRST, LAST, None, 0)
        list(pool.map(lambda day: build_session.fn(dataset, day), dataset.days))
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    print(main(sys.argv[1:]))
