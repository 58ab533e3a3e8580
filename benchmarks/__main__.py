"""`python -m benchmarks`: everything, in some minutes; `--quick`: a smoke run in seconds, whose figures mean nothing."""

import sys

from benchmarks import drain, emit, interference


def main() -> None:
    """Run and print every table."""
    quick = "--quick" in sys.argv
    print(emit.report(emit.run(1, 2_000) if quick else emit.run()), end="\n\n", flush=True)
    print(drain.report(drain.run(1, 10_000) if quick else drain.run()), end="\n\n", flush=True)
    print(interference.report(interference.run(1, 200) if quick else interference.run(5, 3000)), flush=True)


main()
