"""Plays a kind: starts agents and programs, kills them, and says what was done to them in the truth file."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Self

from tests.collector.programs import processes, until
from tests.torchrun.jobs import ASKED, LAUNCHER, TIMEOUT, directories, environment, free_port
from tests.zoo.life import write
from tests.zoo.truth import Fact, facts

__all__ = ("Agent", "Play", "Said")

ROOT = str(Path(__file__).parent.parent.parent)
WORKER = str(Path(__file__).parent / "worker.py")


@dataclass
class Said:
    """What a kind itself says is true, beside what its processes wrote down."""

    outcome: str
    attempts: list[str]  #: their outcomes
    gone: dict[int, str] = field(default_factory=dict)  #: node -> how it went while others remained
    hangs: list[tuple[set[int], set[int], str]] = field(
        default_factory=list
    )  #: who waits, who does not come, and where
    exits_s: float = 0.0  #: how long a process takes from what ends it to its end
    stragglers: dict[int, str] = field(default_factory=dict)
    restarts: int | None = -1  #: -1: as many as attempts that failed
    may: frozenset[str] = frozenset()  #: what is told, or said to be unknown: it hangs on when who looked
    unchecked: frozenset[str] = frozenset()  #: what this kind is not about, and leaves open


class Agent:
    """One agent of torchrun, with its node's own database."""

    def __init__(self, play: "Play", node: int, process: "subprocess.Popen[str]") -> None:
        self.play = play
        self.node = node
        self.process = process
        self.pid = process.pid

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait(TIMEOUT)
        write(self.play.folder, "agent ended", node=self.node, code=code)
        return code

    def signal(self, name: str) -> None:
        """Send the agent a signal."""
        write(self.play.folder, "agent signalled", node=self.node, signal=name)
        self.process.send_signal(signal.Signals[name])

    def vanish(self) -> None:
        """Kill the agent and all its workers, as when the node's power fails."""
        write(self.play.folder, "agent signalled", node=self.node, signal="SIGKILL")
        self.process.kill()
        self.play.kill_workers(self.node)


class Play:
    """One kind while it is played. A context manager: nothing that it started stays."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind, _, self.variant = kind.partition("-")
        self.agents: list[Agent] = []
        self.sources: list[str] = []
        self.hosts: dict[int, str] = {}  # node -> the host that its records are to name
        self.ahead: dict[int, float] = {}  # node -> how many seconds its clock is to be ahead
        self._programs: list[subprocess.Popen[str]] = []
        self._endpoint = f"localhost:{free_port()}"
        self._lag = 0.0
        self._over = Event()
        self._watch = Thread(target=self._look, name="lag")

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()
        for program in [*(agent.process for agent in self.agents), *self._programs]:
            program.kill()
            program.wait()
        self.kill_workers(None)

    @property
    def sharp(self) -> float:
        """Seconds by which the time of a death may be wrong: who looks for it is not always let run at once."""
        return 0.2 + 5 * self._lag

    def _look(self) -> None:
        """Look ten times a second, as an agent does, and note by how much it comes late on this machine."""
        while not self._over.is_set():
            due = time.monotonic() + 0.1
            self._over.wait(0.1)
            self._lag = max(self._lag, time.monotonic() - due)

    # --- processes ---

    def torchrun(self, *options: str, ranks: int = 2, script: tuple[str, ...] = (), **env: str) -> int:
        """Run a job of one agent to its end; return the exit code."""
        return self.agent(*options, ranks=ranks, script=script, **env).wait()

    def agent(
        self,
        *options: str,
        nodes: str = "1",
        ranks: int = 2,
        script: tuple[str, ...] = (),
        sinks: str = "",
        conf: str = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=2",
        **env: str,
    ) -> Agent:
        """Start an agent: the first is node 0, and has the store."""
        node = len(self.agents)
        database = self.folder / f"node-{node}.db"
        temporary = self.folder / f"tmp-{node}"
        temporary.mkdir()
        self.sources.append(str(database))
        arguments = [
            *(f"--nnodes={nodes}", f"--nproc-per-node={ranks}", "--rdzv-backend=c10d", "--rdzv-id=zoo"),
            *("--monitor-interval=0.1", f"--rdzv-endpoint={self._endpoint}", "--local-addr=localhost"),
            # Else whichever came first would have the store, and take it along when it goes.
            *(f"--rdzv-conf=is_host={int(not node)},{conf}", *ASKED, *options),
            *(script or (WORKER, self.kind, str(self.folder))),
        ]
        more = {
            "ELASTIC_EVENTS_SINKS": sinks or f"sqlite:///{database}",
            "TMPDIR": str(temporary),
            "PYTHONPATH": ROOT,
            "ZOO_NODE": str(node),
            "ZOO_KIND": f"{self.kind}-{self.variant}",
            "ZOO_FOLDER": str(self.folder),
            # A port of each round's own: what tells the attempts apart.
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            **env,
        }
        log = (self.folder / f"agent-{node}.log").open("w")
        process = subprocess.Popen(
            [sys.executable, *LAUNCHER, *arguments],
            cwd=self.folder,
            env=environment(**more),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        log.close()
        agent = Agent(self, node, process)
        self.agents.append(agent)
        write(self.folder, "agent", node=node, pid=process.pid)
        return agent

    def program(self, *arguments: str, stdin: str | None = None, **env: str) -> int:
        """Run a Python program to its end, its flight recorders in a folder of the kind's; return the exit code."""
        temporary = self.folder / f"tmp-{len(self._programs)}-program"
        temporary.mkdir()
        more = {"TMPDIR": str(temporary), "PYTHONPATH": ROOT, "ZOO_FOLDER": str(self.folder), **env}
        with (self.folder / f"program-{len(self._programs)}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env=environment(**more),
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self._programs.append(process)
        process.communicate(stdin, TIMEOUT)
        return process.returncode

    def kill_workers(self, node: int | None) -> None:
        """Kill the workers that live, of one node or of all."""
        for fact in facts(self.folder):
            if fact["what"] == "born" and node in (fact["node"], None) and _alive(fact["pid"], self.folder):
                if node is not None:
                    write(self.folder, "killed", pid=fact["pid"], rank=fact["rank"], node=node)
                with suppress(ProcessLookupError):
                    os.kill(fact["pid"], signal.SIGKILL)

    def signal_workers(self, name: str) -> None:
        """Send a signal to all workers that live."""
        for fact in facts(self.folder):
            if fact["what"] == "born" and _alive(fact["pid"], self.folder):
                os.kill(fact["pid"], signal.Signals[name])

    def kill_collectors(self, *, for_good: bool = False) -> None:
        """Kill those that deliver; with `for_good` the shells that look after them as well."""
        found = [
            (pid, words)
            for pid, words in processes()
            if "recorder.daemon" in (line := " ".join(words)) and str(self.folder) in line
        ]
        for pid, words in sorted(found, key=lambda one: not one[1][0].endswith("sh")):
            if for_good or not words[0].endswith("sh"):
                os.kill(pid, signal.SIGKILL)

    # --- waiting ---

    def wait(self, seconds: float) -> None:
        """Let time go by in which nothing happens: a hang has to last before it is one."""
        Event().wait(seconds)

    def outlast(self) -> None:
        """Wait until a rank hangs, and then for longer than any pause that this job came through on this machine."""
        self.until("hangs")
        marks: dict[int, list[int]] = {}
        for fact in facts(self.folder):
            if fact["what"] in ("step", "stepped"):
                marks.setdefault(fact["pid"], []).append(fact["t"])
        pauses = [after - before for own in marks.values() for before, after in pairwise(own)]
        self.wait(max(4, 3e-9 * max(pauses), 15e-9 * median(pauses)))

    def until(self, what: str, count: int = 1, where: Callable[[Fact], bool] = lambda _: True) -> None:
        """Wait until so many facts have happened."""

        def happened() -> bool:
            assert not self.agents or any(agent.process.poll() is None for agent in self.agents), self.output()
            return sum(fact["what"] == what and where(fact) for fact in facts(self.folder)) >= count

        until(happened, TIMEOUT)

    def settle(self) -> None:
        """Wait until all records are where they belong, then give each node its host."""
        until(lambda: not self.recorders(), TIMEOUT)
        for node, host in self.hosts.items():
            rename(self.folder / f"node-{node}.db", host, self.ahead.get(node, 0))

    def recorders(self) -> list[Path]:
        """The directories of recorders that are left."""
        return [path for temporary in self.folder.glob("tmp-*") for path in directories(temporary)]

    def recover(self) -> None:
        """Deliver by hand what the flight recorders hold, and do away with them."""
        command = "from elastic_events.cli import main; main()"
        for directory in self.recorders():
            assert self.program("-c", command, "recover", str(directory), "--to", f"sqlite:///{self.sources[0]}") == 0
            shutil.rmtree(directory)

    def output(self) -> str:
        """What agents and programs printed."""
        return "\n".join(path.read_text() for path in self.folder.glob("*.log"))

    # --- nodes ---

    def node_of(self, node: int) -> str:
        """The name of a node, as the answers have it."""
        if node in self.hosts:
            return self.hosts[node]
        host = socket.gethostname()
        return host if len(self.agents) < 2 else f"{host}:{self.agents[node].pid}"


def rename(database: Path, host: str, ahead_s: float = 0) -> None:
    """Let the records of one node be those of another host, whose clock is so far ahead."""
    ahead = round(ahead_s * 1e9)
    connection = sqlite3.connect(database)
    with connection:
        connection.execute("UPDATE contexts SET host = ?", (host,))
        for table in ("events", "rdzv_events", "metrics", "ledgers"):
            connection.execute(f"UPDATE {table} SET time_ns = time_ns + ?", (ahead,))
        rows = connection.execute(
            "SELECT entry, metadata FROM events WHERE name GLOB '*.died' OR name = 'worker.failed'"
        )
        for entry, text in rows.fetchall():
            metadata = json.loads(text)
            metadata.update({key: metadata[key] + ahead for key in ("died_ns", "alive_ns") if metadata.get(key)})
            metadata.update({"host": host} if "host" in metadata else {})
            connection.execute("UPDATE events SET metadata = ? WHERE entry = ?", (json.dumps(metadata), entry))
    connection.close()


def _alive(pid: int, folder: Path) -> bool:
    """Whether a worker of this job lives; its pid may be another's by now."""
    with suppress(OSError):
        return str(folder).encode() in Path(f"/proc/{pid}/environ").read_bytes()
    return False
