"""Is an acknowledged record ever lost to SIGKILL? `python -m benchmarks.torture [KILLS] [JOBS]`, 10,000 in 2 by default.

Each kill starts a worker that emits at full speed and publishes what was acknowledged, and kills it at a random instant.
"""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.recorder.test_collect import Tortured, torture

__all__ = ("report", "run")

#: Kills that one job makes at a time.
SHARE = 50


def run(kills: int = 10_000, jobs: int = 2) -> Tortured:
    """Kill `kills` workers, `jobs` at a time, and return what was left of them."""
    shares = [min(SHARE, kills - begin) for begin in range(0, kills, SHARE)]
    total = Tortured()
    with ProcessPoolExecutor(jobs) as pool:
        for number, found in enumerate(pool.map(_share, shares), start=1):
            total = Tortured(*map(sum, zip(total, found, strict=True)))
            print(f"{sum(shares[:number]):,} of {kills:,} kills: {report(total)}", file=sys.stderr, flush=True)
    return total


def report(found: Tortured) -> str:
    """Return one sentence."""
    return ", ".join(f"{count:,} {name}" for name, count in found._asdict().items())


def _share(kills: int) -> Tortured:
    with tempfile.TemporaryDirectory() as folder:
        return torture(Path(folder), kills)


if __name__ == "__main__":
    found = run(*map(int, sys.argv[1:3]))
    print(report(found))
    sys.exit(1 if found.missing or found.corrupt else 0)
