"""One program under one fault, and all that must hold whatever the fault is."""

import errno
import json
import mmap
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from elastic_events.bus.ledger import LaneStats
from elastic_events.sinks.jsonl import read_jsonl
from elastic_events.sinks.sqlite import read_sqlite
from elastic_events.sinks.stored import NothingYet
from tests.collector.programs import processes
from tests.faults.program import EMITTED, SUBJECTS, TIMEOUT

__all__ = ("DAEMON", "FAR", "KINDS", "OWN_LOOP", "SOCKETS", "Far", "Fault", "Found", "build", "subjects", "try_fault")

#: Subjects that a collector process drains: the faults are the program's, or the collector's.
DAEMON = "/collector"

#: Subjects whose event loop is the program's own: without a descriptor for that, it is the program that fails.
OWN_LOOP = ("loop-sqlite", "recorder", "nats", "otlp")

#: Subjects whose sink is behind a socket, and the calls that are about that.
FAR, SOCKETS = ("nats", "otlp"), ("connect", "send", "recv")

#: Kind of call -> the errors that it fails with in turn.
KINDS: dict[str, tuple[int, ...]] = {
    "open": (errno.EMFILE, errno.EACCES),
    "write": (errno.ENOSPC, errno.EIO),
    "read": (errno.EIO,),
    "sync": (errno.EIO,),
    "rename": (errno.ENOSPC,),
    "allocate": (errno.ENOSPC,),
    "mmap": (errno.ENOMEM,),
    "unlink": (errno.EACCES,),
    "mkdir": (errno.ENOSPC,),
    "lock": (errno.ENOLCK, errno.EINTR),
    "descriptor": (errno.EMFILE,),
    "thread": (errno.EAGAIN,),
    "fork": (errno.EAGAIN,),
    "connect": (errno.ECONNREFUSED,),
    "send": (errno.ECONNRESET,),
    "recv": (errno.ECONNRESET,),
}

OUTPUT = "begins\nworks\nends\n"

#: Seconds after which a program hangs. A machine may be busy.
HANGS = 60.0


class Fault(NamedTuple):
    """Which call fails."""

    kind: str
    number: int
    error: int
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.number}{' and on' if self.lasting else ''}: {errno.errorcode[self.error]}"


class Far(NamedTuple):
    """A sink behind a socket."""

    url: str
    read: Callable[[], list[tuple[str, str]]]  #: returns name and id of what arrived
    expected: int  #: how many of one program's records `read` finds


class Found(NamedTuple):
    """What became of it."""

    complaints: list[str]
    failed: int  #: calls that failed: none, and the program makes fewer of them
    reached: int  #: calls of this kind
    stderr: str
    told: dict[str, object]
    arrived: int


def build(folder: Path) -> Path:
    """Compile the shim.

    Raises:
        FileNotFoundError: there is no compiler.
    """
    shim = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True)
    return shim


def subjects() -> list[str]:
    """Return the names of all subjects."""
    return [*SUBJECTS, *(name + DAEMON for name in SUBJECTS if name.startswith("process"))]


class Case:
    """A folder for a program that runs twice: under a fault, and then without one."""

    def __init__(self, folder: Path, subject: str, shim: Path, far: "Far | None") -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        (self.folder / "tmp").mkdir()
        self.subject, _, self.where = subject.partition("/")
        self.far = far
        self.expected = EMITTED if far is None else far.expected
        self._counts = folder / "counts"
        self._counts.write_bytes(bytes(16))
        self._ledger = folder / "ledger.json"
        self._python = folder / "python-under-faults"
        self._shim = shim

    def run(self, fault: Fault | None) -> tuple["subprocess.CompletedProcess[str]", dict[str, object]]:
        """Run the program to its end; return what it did and what it knows."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ELASTIC_EVENTS_", "RANK"))}
        env = {
            **kept,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)]),
            "TMPDIR": str(self.folder / "tmp"),
            "ELASTIC_EVENTS_PATIENCE": "1",
        }
        if fault is not None:
            faults = {
                "LD_PRELOAD": str(self._shim),
                "FAULTS": f"{fault.kind} {fault.number} {fault.error} {int(fault.lasting)}",
                "FAULTS_UNDER": str(self.folder),
                "FAULTS_COUNTS": str(self._counts),
            }
            if self.where:
                words = " ".join(f"{name}='{value}'" for name, value in faults.items())
                self._python.write_text(f'#!/bin/sh\nexec env {words} {sys.executable} "$@"\n', "utf-8")
                self._python.chmod(0o700)
                env["FAULTS_PYTHON"] = str(self._python)
            else:
                env |= faults
        self._ledger.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "tests.faults.program",
            self.subject,
            str(self.folder),
            str(self._ledger),
            "" if self.far is None else self.far.url,
        ]
        program = subprocess.Popen(
            command, cwd="/", env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            out, err = program.communicate(timeout=HANGS)
        except subprocess.TimeoutExpired:
            program.send_signal(signal.SIGABRT)
            out, err = program.communicate()
            err += "\nHANGS"
        told = json.loads(self._ledger.read_text("utf-8")) if self._ledger.exists() else {}
        return subprocess.CompletedProcess(command, program.returncode, out, err), told

    def counts(self) -> tuple[int, int]:
        """Return how many calls there were, and how many of them failed."""
        with self._counts.open("rb") as file, mmap.mmap(file.fileno(), 16, prot=mmap.PROT_READ) as mapped:
            reached, failed = struct.unpack("qq", mapped[:])
        return reached, failed

    def wait_for_collectors(self, seconds: float) -> bool:
        """Wait for the end of what was started from here; whether it came. Kill what is left."""
        end = time.monotonic() + seconds
        while left := list(self._left()):
            if time.monotonic() > end:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return False
            time.sleep(0.02)
        return True

    def _left(self) -> Iterator[int]:
        yield from (pid for pid, words in processes() if str(self.folder) in " ".join(words))

    def arrived(self) -> tuple[list[tuple[str, str]], list[str]]:
        """Return name and id of each record of ours that a reader finds, and what it could not read."""
        if self.far is not None:
            return self.far.read(), []
        database, lines = self.folder / "run.db", self.folder / "run.jsonl"
        damaged: list[str] = []
        found = []
        for read, path in ((read_sqlite, database), (read_jsonl, lines), (read_jsonl, self.folder / "dead.jsonl")):
            if any(self.folder.glob(f"{path.name}*")):
                try:
                    found += list(read(path, damaged=lambda _, reason: damaged.append(reason)))
                except NothingYet:
                    continue
                except OSError as error:
                    damaged.append(f"{path.name}: {error}")
        return [(one.name, one.id) for one in found if one.name in ("e", "m")], damaged


def try_fault(folder: Path, subject: str, shim: Path, fault: Fault, far: Far | None = None) -> Found:
    """Run a subject under a fault, and once more without; return what was wrong."""
    case = Case(folder, subject, shim, far)
    wrong: list[str] = []
    ran, told = case.run(fault)
    if not case.wait_for_collectors(30):
        wrong.append("a collector is left")
    reached, failed = case.counts()
    wrong += _as_without(ran)
    wrong += _ledger(told)
    found, damaged = case.arrived()
    arrived = len(set(found))
    wrong += _files(found, damaged, case.subject)
    if told and not told["refused"]:
        lost = sum(_lost(lane) for lane in told["lanes"].values())  # type: ignore[attr-defined]
        if arrived < case.expected and not re.search(r"\b\d+ (of \d+ )?records|lost \d+", ran.stderr):
            wrong.append(f"{case.expected - arrived} of {case.expected} are missing, and nobody says so")
        if (
            told["lanes"]
            and arrived + lost < case.expected
            and "kept in" not in ran.stderr
            and "next start" not in ran.stderr
        ):
            wrong.append(f"{arrived} arrived, {lost} lost by the ledger, of {case.expected}")
    if failed:
        wrong += _again(case, found)
    return Found(wrong, failed, reached, ran.stderr, told, arrived)


#: What asyncio says of a loop for which there was no descriptor.
_ASYNCIO = re.compile(r"Exception ignored in: <function BaseEventLoop.__del__.*?AttributeError: [^\n]*\n", re.DOTALL)


def _as_without(ran: "subprocess.CompletedProcess[str]") -> list[str]:
    wrong = []
    ran.stderr = _ASYNCIO.sub("", ran.stderr)
    if ran.stdout != OUTPUT or ran.returncode != 3:
        wrong.append(f"status {ran.returncode}, output {ran.stdout!r}")
    if "Traceback" in ran.stderr or "HANGS" in ran.stderr:
        wrong.append("stderr has a traceback")
    lines = [line for line in ran.stderr.splitlines() if line.strip()]
    wrong += [f"said twice: {line}" for line in {line for line in lines if lines.count(line) > 1}]
    return wrong


def _ledger(told: dict[str, object]) -> list[str]:
    if not told:
        return ["no ledger"]
    wrong = [f"raised: {error}" for error in told["raised"][:1]]  # type: ignore[index]
    for name, lane in told["lanes"].items():  # type: ignore[attr-defined]
        if not LaneStats(**lane).balanced:
            wrong.append(f"the ledger of {name} does not add up: {lane}")
    if told.get("errors"):
        wrong.append(f"{told['errors']} errors in the drain")
    if told["seconds"] > TIMEOUT + 5:  # type: ignore[operator]
        wrong.append(f"closing took {told['seconds']:.1f} s")
    return wrong


def _files(found: list[tuple[str, str]], damaged: list[str], subject: str) -> list[str]:
    wrong = [f"damaged: {reason}" for reason in damaged if subject.endswith("sqlite")]
    if subject.endswith("sqlite") and len(set(found)) < len(found):
        wrong.append(f"{len(found) - len(set(found))} are there twice")
    return wrong


def _lost(lane: dict[str, object]) -> int:
    return LaneStats(**lane).lost + LaneStats(**lane).pending  # type: ignore[arg-type]


def _again(case: Case, before: list[tuple[str, str]]) -> list[str]:
    """Start once more, without a fault: all of that arrives, and nothing that was there is gone."""
    ran, told = case.run(None)
    wrong = [f"at the next start: {one}" for one in (*_as_without(ran), *_ledger(told))]
    if not case.wait_for_collectors(30):
        wrong.append("at the next start: a collector is left")
    found, _ = case.arrived()
    if not set(before) <= set(found):
        wrong.append("at the next start: records are gone from the sink")
    if len(set(found)) < len(set(before)) + case.expected:
        wrong.append(
            f"at the next start: {len(set(found)) - len(set(before))} arrived of {case.expected}: {ran.stderr}"
        )
    return wrong
