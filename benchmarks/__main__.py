"""`python -m benchmarks`: everything, in some minutes; `--quick`: a smoke run in a minute, whose figures mean nothing.

The tables are also written to `benchmarks/results/`, which git ignores.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import drain, emit, footprint, interference, survive

RESULTS = Path(__file__).parent / "results"

#: Name -> the full run and the quick one.
QUESTIONS: dict[str, tuple[Callable[[], str], Callable[[], str]]] = {
    "emit": (lambda: emit.report(emit.run(3, 10_000)), lambda: emit.report(emit.run(1, 500))),
    "drain": (lambda: drain.report(drain.run()), lambda: drain.report(drain.run(1, 10_000))),
    "interference": (
        lambda: interference.report(interference.run(5, 3000)),
        lambda: interference.report(interference.run(1, 200)),
    ),
    "survive": (lambda: survive.report(survive.run()), lambda: survive.report(survive.run(500))),
    "footprint": (lambda: footprint.report(footprint.run()), lambda: footprint.report(footprint.run(1, 0.2))),
}


def main() -> None:
    """Run each question, print its table and keep it."""
    RESULTS.mkdir(exist_ok=True)
    for name, runs in QUESTIONS.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        found = runs["--quick" in sys.argv]()
        (RESULTS / f"{name}.md").write_text(found + "\n")
        print(found, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
