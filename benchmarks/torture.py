"""SIGKILL torture of the flight recorder: `python -m benchmarks.torture [KILLS]`, 10,000 by default (about an hour)."""

import sys
import tempfile
from pathlib import Path

from tests.recorder.test_collect import torture

if __name__ == "__main__":
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        checked = torture(Path(folder), kills)
    print(f"{kills} kills, {checked} acknowledged records: none lost but by overwriting, and that counted")
