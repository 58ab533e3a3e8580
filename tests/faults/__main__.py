"""Let every system call of a program fail, one after the other.

    python -m tests.faults [--subject NAME] [--kind KIND] [--calls FIRST-LAST] [--jobs N] [--most N]

Each call once, and from it on; all of them take hours, which `--calls` parts. Needs gcc and Linux. Exit status 1 where
something that must hold did not.
"""

import argparse
import errno
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import anyio

from benchmarks.jetstream import Server
from benchmarks.outage import Otlp
from elastic_events import InputError
from elastic_events.sinks.nats import read_nats
from tests.faults.check import FAR, KINDS, OWN_LOOP, SOCKETS, Far, Fault, Found, build, subjects, try_fault
from tests.faults.program import EMITTED


def numbers(reached: int, most: int) -> list[int]:
    """Return which calls fail: all, or of many the first half one by one and the others spread."""
    if reached <= most:
        return list(range(1, reached + 1))
    first = most // 2
    return [*range(1, first), *range(first, reached + 1, math.ceil((reached - first) / (most - first)))]


@contextmanager
def server(subject: str, folder: Path) -> Iterator[Far | None]:
    """Give the sink behind a socket that a subject has, if any."""
    if subject == "nats":
        nats = Server(str(folder / "jetstream"))
        url = f"nats://127.0.0.1:{nats.port}/faults"

        async def read() -> list[tuple[str, str]]:
            try:
                return [(one.name, one.id) async for one in read_nats(url) if one.name in ("e", "m")]
            except InputError:
                return []  # there is no stream yet

        try:
            yield Far(url, lambda: anyio.run(read), EMITTED)
        finally:
            nats.kill()
    elif subject == "otlp":
        otlp = Otlp(folder)
        try:
            # Each number once: OTLP permits that a request comes twice. The numbers of two programs are the same.
            yield Far(otlp.url, lambda: [("m", f"{number}") for number in otlp.numbers()], 0)
        finally:
            otlp.close()
    else:
        yield None


def calls(text: str) -> range:
    """Return the numbers of `FIRST-LAST`, `FIRST-` or `ONE`.

    Raises:
        ValueError: it is none of them.
    """
    first, dash, last = text.partition("-")
    return range(int(first), int((last or sys.maxsize) if dash else first) + 1)


def sweep(
    subject: str, kind: str, shim: Path, most: int, among: range, pool: ThreadPoolExecutor
) -> tuple[int, int, int]:
    """Let the calls of one kind fail; return how many calls and cases there were, and how many were wrong."""

    def case(fault: Fault) -> tuple[Fault, Found]:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, server(subject, Path(folder)) as far:
            return fault, try_fault(Path(folder), subject, shim, fault, far)

    _, found = case(Fault(kind, 10**9, KINDS[kind][0]))
    for complaint in found.complaints:
        print(f"{subject}, no fault: {complaint}\n{found.stderr}", flush=True)
    faults = [
        Fault(kind, number, error, lasting)
        for number in numbers(found.reached, most)
        if number in among
        for error in KINDS[kind]
        for lasting in (False, True)
        if not (lasting and error == errno.EINTR)  # for ever: no program is interrupted without end
    ]
    wrong = 0
    for fault, one in pool.map(case, faults):
        wrong += bool(one.complaints)
        for complaint in one.complaints:
            print(f"{subject}, {fault}: {complaint}", flush=True)
        if one.complaints:
            print("    " + one.stderr.strip().replace("\n", "\n    "), flush=True)
    return found.reached, len(faults), wrong


def main() -> None:
    """Sweep, print, exit 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subject", action="append", choices=subjects())
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--most", type=int, default=10**6, help="calls of a kind that fail in turn; all by default")
    parser.add_argument("--calls", type=calls, default=calls("1-"), metavar="FIRST-LAST", help="which of them; all")
    options = parser.parse_args()
    total = bad = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        shim = build(Path(folder))
        for subject in options.subject or subjects():
            for kind in options.kind or [kind for kind in KINDS if (kind in SOCKETS) == (subject in FAR)]:
                if kind == "descriptor" and subject in OWN_LOOP:
                    continue
                began = time.monotonic()
                reached, cases, wrong = sweep(subject, kind, shim, options.most, options.calls, pool)
                total, bad = total + cases, bad + wrong
                if cases:
                    print(
                        f"{subject}, {kind}: {cases} cases of {reached} calls, {wrong} wrong,"
                        f" {time.monotonic() - began:.0f} s",
                        flush=True,
                    )
    print(f"{total} cases, {bad} wrong")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
