"""From what torch's agent records to what happened: a state machine without a clock, a thread or an import of torch.

Torch's stream leaves out the failures that a restart follows, calls a failed job SUCCEEDED, gives a rendezvous the
previous round's group and shows a membership change as nothing but a second START. `Repair` is told every record of
torch, and by `agent.py` what only the agent's own methods see; it answers with the facts to record beside it.
"""

import contextlib
import json
import signal
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = ("Exit", "Fact", "Repair", "error_message", "unpack")

_STATUS = "torchelastic.worker.status."

#: Stands for the exit code of a worker that failed where torch does not say with which (before 2.0): no process has it.
_FAILED = 256


class Fact(NamedTuple):
    """An event to record beside torch's own."""

    name: str
    metadata: dict[str, Any]


class Exit(NamedTuple):
    """How one worker of the current attempt ended."""

    local_rank: int
    exit_code: int  #: negative: the number of the signal, as in `subprocess`; over 255: it is not known
    pid: int | None = None
    rank: int | None = None
    message: str | None = None  #: of the worker's error file
    time: float = 0.0  #: seconds since the epoch, as far as torch knows it
    victim: bool = False  #: it was alive when the agent told the group to end
    alive_ns: int | None = None  #: wall clock when its agent last saw it alive, and
    died_ns: int | None = None  #: when it first saw it dead
    left: Mapping[str, Any] = MappingProxyType({})  #: what it left in its folder; see `observe.report`


class _Worker(NamedTuple):
    rank: int | None
    local_rank: int | None
    pid: int | None


class Repair:
    """The story of one agent. Not thread-safe: one caller at a time.

    Args:
        parse: a rendezvous message to what it says (`messages.parse`), None for one that is not understood.
    """

    def __init__(self, parse: Callable[[str], Any] | None = None) -> None:
        self.parse = parse
        self.attempt: int = -1  #: of the workers running now; counts membership changes too, unlike torch's restarts
        self.restarts: int = 0  #: torch's agent_restarts
        self.membership_changes: int = 0
        self.unparsed: int = 0  #: rendezvous messages that were not understood; the messages themselves are kept
        self._workers: dict[int, _Worker] = {}  # by local rank
        self._starting: dict[int, _Worker] = {}
        self._torch_tells = False  # by START events
        self._start: dict[str, Any] = {}  # of the attempt that is starting
        self._group: dict[str, Any] = {}  # of the attempt that runs
        self._settled: set[int] = set()  # local ranks whose end is known
        self._first_known = False
        self._running = False
        self._outcome = ""  # of the last attempt that ended
        self._joined: dict[str, Any] = {}
        self._rendezvous: dict[str, Any] | None = None  # one whose outcome is not known yet
        self._told: list[Exit] = []  # torch's own word on how workers ended, in order of rank
        self._over = False

    # --- torch's records ---

    def event(self, name: str, source: str, metadata: Mapping[str, Any]) -> list[Fact]:
        """Take one event of torch; return the facts that follow from it."""
        if not name.startswith(_STATUS):
            return []
        state, detail = name[len(_STATUS) :], unpack(metadata)
        if state == "START":
            self._torch_tells = True
            return self._starts(metadata, detail)
        facts = self.started()
        if state == "RENDEZVOUS":
            self._rendezvous = {"duration_ms": metadata.get("duration_ms")}
        elif state == "ASSIGN_WORKER_RANKS":
            facts += self._rendezvous_completed()
        elif source == "WORKER":
            self._worker_ended(state, metadata, detail)
        elif source == "AGENT":
            facts += self._agent_ended(state, metadata)
        return facts

    def rendezvous(self, message: str, node: Any = None) -> list[Fact]:
        """Take the message of one rendezvous event; return the facts that follow from it."""
        if self.parse is None:
            return []
        parsed = self.parse(message)
        if parsed is None:
            self.unparsed += 1
            return [Fact("rendezvous.unparsed", {"count": self.unparsed, "node": node})]
        told = {key: getattr(parsed, key, None) for key in ("kind", "round", "rank", "world_size", "node")}
        told["node"] = told["node"] or node
        if told["rank"] is not None and told["world_size"] is not None:
            self._joined = {key: told[key] for key in ("round", "rank", "world_size", "node")}
        if told["round"] is None:
            return []  # heartbeats, syncs: there is nothing in them that the record itself does not say
        facts = {key: value for key, value in told.items() if value is not None and key != "kind"}
        return [Fact(f"rendezvous.{told['kind']}", facts)] if told["kind"] else []

    # --- what the agent's own methods see ---

    def begun(self, about: Mapping[str, Any]) -> list[Fact]:
        """The agent begins its run; `about` says what it was told to do."""
        return [Fact("job.started", dict(about))]

    def started(self, seen: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]] = ()) -> list[Fact]:
        """All workers of an attempt have been started. Without this call the next record says so.

        `seen` is what torch's START events would say, metadata and what is packed in it: an older torch has none (2.4). No
        torch tells there how many ranks there are of all roles.
        """
        seen = list(seen)
        early = [fact for start in ([] if self._torch_tells else seen) for fact in self._starts(*start)]
        for _, detail in seen:
            self._start["world_size"] = detail.get("world_size", self._start.get("world_size"))
        return early + self._begin_attempt()

    def _begin_attempt(self) -> list[Fact]:
        if not self._starting:
            return []
        before, again = self._group, self._start["restarts"] == self.restarts
        facts = self._ended("membership" if again else "failed")  # unless the agent's methods told more
        self._workers, self._starting, self._group = self._starting, {}, self._start
        self.attempt, self.restarts = self.attempt + 1, self._group["restarts"]
        self._settled, self._first_known, self._running, self._outcome = set(), False, True, ""
        changed = before and before["group_world_size"] != self._group["group_world_size"]
        if before and (changed or again):
            self.membership_changes += 1
            sizes = {f"{key}_before": before[key] for key in ("group_world_size", "world_size")}
            now = {key: self._group[key] for key in ("group_world_size", "world_size")}
            facts.append(
                Fact("membership.changed", {"attempt": self.attempt, "count": self.membership_changes, **sizes, **now})
            )
        ranks = sorted(worker.rank for worker in self._workers.values() if worker.rank is not None)
        facts.append(Fact("attempt.started", {"attempt": self.attempt, **self._group, "ranks": ranks}))
        facts += (self._fact("worker.started", worker) for worker in self._workers.values())
        return facts

    def exited(self, exits: Iterable[Exit], outcome: str) -> list[Fact]:
        """Workers of the attempt have ended, and the attempt with them unless `outcome` is empty.

        The first failure is the earliest that is no victim; of those at the same time the one that is not SIGTERM, as
        torch chooses. It is the first of this agent: other agents have a first of their own.
        """
        facts = self.started()
        fresh = [end for end in exits if end.local_rank not in self._settled]
        causes = sorted(
            (end for end in fresh if end.exit_code and not end.victim),
            key=lambda end: (end.time, end.exit_code == -signal.SIGTERM, end.local_rank),
        )
        victims = [end for end in fresh if end.exit_code and end.victim]
        for end in [end for end in fresh if not end.exit_code] + causes + victims:
            facts.append(self._exit(end))
        return facts + self._ended(outcome) if outcome else facts

    def stuck(self, local_rank: int, about: Mapping[str, Any]) -> list[Fact]:
        """A worker makes no step, and has said where it is."""
        worker = self._workers.get(local_rank)
        return [] if worker is None else [self._fact("worker.stacks", worker, **about)]

    def restarting(self, state: str, waiting: int | None = None) -> list[Fact]:
        """The agent is about to stop and restart the workers; with `state` HEALTHY because the membership changes."""
        facts = self.started()
        return facts + self._ended("membership" if state == "HEALTHY" else "failed", waiting=waiting)

    # --- inside ---

    def _starts(self, metadata: Mapping[str, Any], detail: Mapping[str, Any]) -> list[Fact]:
        worker = _Worker(metadata.get("global_rank"), detail.get("local_rank"), _integer(metadata.get("worker_id")))
        facts = self._rendezvous_completed()
        local_rank = len(self._starting) if worker.local_rank is None else worker.local_rank
        if local_rank in self._starting:
            facts += self.started()
        self._starting[local_rank] = worker
        self._start = {
            "round": self._joined.get("round"),
            "world_size": detail.get("world_size", detail.get("role_world_size")),
            "group_rank": metadata.get("group_rank"),
            "group_world_size": detail.get("group_world_size"),
            "restarts": metadata.get("agent_restarts") or 0,
        }
        return facts

    def _rendezvous_completed(self) -> list[Fact]:
        if self._rendezvous is None:
            return []
        facts = {"round": None, "world_size": None, "rank": None, "node": None, **self._joined, **self._rendezvous}
        self._rendezvous = None
        return [Fact("rendezvous.completed", facts)]

    def _worker_ended(self, state: str, metadata: Mapping[str, Any], detail: Mapping[str, Any]) -> None:
        """Keep torch's word on a worker, which comes at the end of the run, until the agent's: all of them, then the first."""
        local_rank = detail.get("local_rank")
        if local_rank is None or local_rank in self._settled:
            return
        code = detail.get("exit_code")
        code = {"SUCCEEDED": 0, "TERMINATED": -signal.SIGTERM}.get(state, _FAILED) if code is None else code
        rank, message = metadata.get("global_rank"), error_message(detail.get("error"))
        if self.attempt < 0:  # its start was not recorded: by torch before 2.8, and nobody beside it
            self._running, self.restarts = True, _integer(metadata.get("agent_restarts")) or 0
            self.attempt = self.restarts
        pid = _integer(metadata.get("worker_id"))
        self._told.append(Exit(local_rank, code, pid=pid, rank=rank, message=message, victim=state == "TERMINATED"))

    def _tell(self) -> list[Fact]:
        """Return what torch's word adds. A SIGTERM beside another cause was the agent's: it ends the group on the first."""
        told, self._told = self._told, []
        causes = [end for end in told if end.exit_code and end.exit_code != -signal.SIGTERM]
        if causes and not self._first_known:
            told = [end._replace(victim=end.victim or end.exit_code == -signal.SIGTERM) for end in told]
        if any(end.exit_code for end in told):
            return self.exited(told, "failed")
        return self.exited(told, "succeeded") if told else []

    def _agent_ended(self, state: str, metadata: Mapping[str, Any]) -> list[Fact]:
        facts = self._tell()
        if self._rendezvous is not None:
            facts.append(Fact("rendezvous.failed", self._rendezvous))
            self._rendezvous = None
        if self._over:
            return facts  # after a graceful exit torch records SUCCEEDED and then FAILED
        self._over = True
        about: dict[str, Any] = {
            "attempts": self.attempt + 1,
            "restarts": self.restarts,
            "membership_changes": self.membership_changes,
            "unparsed_messages": self.unparsed,
            "group_rank": metadata.get("group_rank"),
        }
        if state == "FAILED":
            cause = _last_line(metadata.get("raw_error"))
            facts += self._ended("stopped" if "SignalException" in cause else "failed")
            return [*facts, Fact("job.failed", {**about, "reason": cause, "signal": _signal_in(cause)})]
        if self._outcome == "succeeded":
            return [*facts, Fact("job.succeeded", about)]
        if self._outcome == "failed":
            return [*facts, Fact("job.failed", {**about, "reason": "workers failed", "signal": None})]
        facts += self._ended("left")
        return [*facts, Fact("agent.left", {**about, "reason": "the rendezvous ended gracefully"})]

    def _ended(self, outcome: str, **more: Any) -> list[Fact]:
        if not self._running:
            return []
        self._running, self._outcome = False, outcome
        told = {key: value for key, value in more.items() if value is not None}
        return [Fact("attempt.ended", {"attempt": self.attempt, "outcome": outcome, **told})]

    def _exit(self, end: Exit) -> Fact:
        known = self._workers.get(end.local_rank, _Worker(end.rank, end.local_rank, end.pid))
        worker = _Worker(
            known.rank if end.rank is None else end.rank, end.local_rank, known.pid if end.pid is None else end.pid
        )
        self._settled.add(end.local_rank)
        if not end.exit_code:
            return self._fact("worker.succeeded", worker, alive_ns=end.alive_ns, died_ns=end.died_ns)
        first = not (end.victim or self._first_known)
        self._first_known |= first
        return self._fact(
            "worker.failed",
            worker,
            exit_code=end.exit_code if 0 < end.exit_code < _FAILED else None,
            signal=_signal_name(-end.exit_code) if end.exit_code < 0 else None,
            message=end.message,
            first=first,
            victim=end.victim,
            alive_ns=end.alive_ns,
            died_ns=end.died_ns,
            **end.left,
        )

    def _fact(self, name: str, worker: _Worker, **more: Any) -> Fact:
        return Fact(name, {**worker._asdict(), "attempt": self.attempt, **more})


def unpack(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what torch packed as JSON into the metadata of an event: `metadata`, lists of one opened, and `raw_error`."""
    found: dict[str, Any] = {}
    inner = _json(metadata.get("metadata"))
    if isinstance(inner, dict):
        found.update(
            (key, value[0] if isinstance(value, list) and len(value) == 1 else value) for key, value in inner.items()
        )
    error = _json(metadata.get("raw_error"))
    if isinstance(error, dict):
        found["error"] = error
    return found


def _json(text: Any) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(text, str) and text[:1] == "{":
            return json.loads(text)
    return None


def error_message(error: Any) -> str | None:
    """Return the message of an error file: a text, or an object that holds one (torch's error_handler.py)."""
    for _ in range(3):
        if not isinstance(error, dict):
            break
        error = error.get("message")
    return error if isinstance(error, str) and error != "<NONE>" else None


def _integer(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _last_line(trace: Any) -> str:
    lines = trace.strip().splitlines() if isinstance(trace, str) else []
    return lines[-1].strip() if lines else ""


def _signal_in(text: str) -> str | None:
    number = _integer(text.rpartition(" ")[2])
    return _signal_name(number) if "SignalException" in text and number is not None else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"  # a real-time signal
