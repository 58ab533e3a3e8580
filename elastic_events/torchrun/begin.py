"""The beginning of an agent: torch's records are caught at once, and kept until the bus that they go to stands.

The bus's imports take longer than all else the plug-in does. They run in a thread while the agent waits for its rendezvous
and its workers.
"""

import atexit
import gc
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from elastic_events.torchrun.install import Installation
from elastic_events.torchrun.names import plain
from elastic_events.torchrun.shield import report, shielded

__all__ = ("begin", "recorder_directory")

#: Seconds that a fork of workers, and the agent's exit, wait for the bus at most.
LIMIT = 10.0

#: Seconds that the agent waits for the GIL, each time it wants it, while the thread imports.
QUICK = 0.0002

_begun: list[int] = []  # pids


def begin(run_id: str | None, max_nodes: int | None) -> None:
    """Route torch's records in this agent to a bus of its own. The second call in a process does nothing."""
    if os.getpid() in _begun:
        return
    _begun.append(os.getpid())
    run = os.environ.setdefault("ELASTIC_EVENTS_RUN_ID", _run(run_id))
    installation = Installation()
    preparation = _Preparation(installation, recorder_directory(run), run, max_nodes)
    installation.before_fork = preparation.wait
    installation.install()
    atexit.register(preparation.end)
    preparation.start()


class _Preparation:
    """Opens the bus, in a thread."""

    def __init__(self, installation: Installation, *about: Any) -> None:
        self._job: Any = None
        self._pid = os.getpid()
        # What imports allocate makes the collector go through all that torch has: a tenth of a second, for nothing.
        self._collecting = gc.isenabled()
        self._interval = sys.getswitchinterval()
        self._thread = threading.Thread(
            target=self._run, args=(installation, *about), name="elastic-events start", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        gc.disable()
        sys.setswitchinterval(QUICK)
        try:
            self._thread.start()
        except BaseException:
            self._restore()
            raise

    def wait(self) -> None:
        """Wait until the bus stands, or is known not to."""
        self._thread.join(LIMIT)

    @shielded
    def end(self) -> None:
        """Deliver what is left: the process ends. In a forked child do nothing."""
        if os.getpid() != self._pid:
            return
        self.wait()
        if self._job is not None:
            self._job.end()

    def _run(self, installation: Installation, *about: Any) -> None:
        try:
            from elastic_events.torchrun.job import Job

            job = Job(installation, *about)
            installation.connect(job.bus, job.launch)
            self._job = job
        except Exception as error:  # noqa: BLE001 - whatever is wrong with us, the job goes on without
            installation.remove()
            report("not recording this job", error)
        finally:
            self._restore()

    def _restore(self) -> None:
        sys.setswitchinterval(self._interval)
        if self._collecting:
            gc.enable()


def _run(run_id: str | None) -> str:
    # "none" is torchrun's default: without this, all runs in one directory would be one run.
    return run_id if run_id and run_id != "none" else f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def recorder_directory(run: str) -> Path | None:
    """Make this agent's directory of flight recorders, name it to the workers, and return it."""
    given = os.environ.get("ELASTIC_EVENTS_DIR")
    try:
        if given:
            directory = Path(given)
        else:
            home = Path(tempfile.gettempdir()) / f"elastic-events-{os.getuid()}"
            home.mkdir(mode=0o700, exist_ok=True)
            if home.stat().st_uid != os.getuid():
                raise PermissionError(f"{home} belongs to somebody else")
            directory = home / plain(run) / str(os.getpid())
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        report("no flight recorder", error)
        return None
    os.environ["ELASTIC_EVENTS_DIR"] = str(directory)
    return directory
