"""The beginning of an agent: torch's records are caught at once, and kept until the bus that they go to stands.

The bus's imports take longer than all else the plug-in does. They run in a thread while the agent waits for its rendezvous,
and are done when the workers start: `fork` must not meet a half-imported module.
"""

import atexit
import gc
import os
import threading
import time
from typing import Any

from elastic_events.torchrun.install import Installation
from elastic_events.torchrun.shield import report, shielded

__all__ = ("begin",)

#: Seconds that the start of the workers, and the agent's exit, wait for the bus at most.
LIMIT = 10.0

_begun: list[int] = []  # pids


def begin(run_id: str | None, max_nodes: int | None) -> None:
    """Route torch's records in this agent to a bus of its own. The second call in a process does nothing."""
    if os.getpid() in _begun:
        return
    _begun.append(os.getpid())
    run = os.environ.setdefault("ELASTIC_EVENTS_RUN_ID", _run(run_id))
    installation = Installation()
    preparation = _Preparation(installation, run, max_nodes)
    installation.before_workers = preparation.wait
    installation.install()
    atexit.register(preparation.end)
    preparation.start()


class _Preparation:
    """Opens the bus, in a thread."""

    def __init__(self, installation: Installation, run: str, max_nodes: int | None) -> None:
        self._job: Any = None
        self._pid = os.getpid()
        # What imports allocate makes the collector go through all that torch has: a tenth of a second, for nothing.
        self._collecting = gc.isenabled()
        self._thread = threading.Thread(
            target=self._run, args=(installation, run, max_nodes), name="elastic-events start", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        gc.disable()
        try:
            self._thread.start()
        except BaseException:
            self._collect()
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

    def _run(self, installation: Installation, run: str, max_nodes: int | None) -> None:
        try:
            from elastic_events.torchrun.job import Job

            job = Job(installation, run, max_nodes)
            installation.connect(job.bus, job.launch)
            self._job = job
        except Exception as error:  # noqa: BLE001 - whatever is wrong with us, the job goes on without
            installation.remove()
            report("not recording this job", error)
        finally:
            self._collect()

    def _collect(self) -> None:
        if self._collecting:
            gc.enable()


def _run(run_id: str | None) -> str:
    # "none" is torchrun's default: without this, all runs in one directory would be one run.
    return run_id if run_id and run_id != "none" else f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
