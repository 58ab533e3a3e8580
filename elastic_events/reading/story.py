"""What a run was: attempts, workers, rendezvous and steps. Everything that is shown is a function of a `Story`.

Times are nanoseconds since the epoch, on the clock of the reference host where `Story.offsets` says so.
"""

import signal
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from elastic_events.bus.context import Context

__all__ = ("Attempt", "Node", "Offset", "Process", "Rendezvous", "Span", "Story", "Worker")

#: Nanoseconds within which a process that leaves records its last.
_LEAVING = 10_000_000_000

#: What most workers have none of.
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(slots=True)
class Span:
    """A checkpoint or a restore of one process; `end_ns` 0: it never ended."""

    what: str  #: checkpoint or restore
    step: int | None  #: None: no whole number was given
    start_ns: int
    end_ns: int = 0
    blocking: bool = True  #: no step of the same process ran at the same time
    failed: bool = False  #: an exception ended it
    path: str | None = None  #: of the file, where it was observed
    file_id: str | None = None  #: its size and time, which it keeps where it is renamed
    observed: bool = False  #: by a hook: the script did not mark it
    joint: bool = False  #: by `torch.distributed.checkpoint`, in which all ranks meet
    beside: bool = False  #: by another thread than the one that trains, which may go on
    back: int | None = None  #: of a restore, how many steps it takes back, by what the optimizer counts

    @property
    def loaded(self) -> bool:
        """Whether it is a restore that ended, and well."""
        return self.what == "restore" and bool(self.end_ns) and not self.failed


@dataclass(slots=True, eq=False)
class Process:
    """One process that recorded, and its own marks."""

    context: Context
    first_ns: int
    last_ns: int
    spans: Sequence[Span] = ()
    #: One entry a step, in the order in which they began: number, start, end; end 0: it was not finished. Numbers may
    #: come again, and steps may overlap.
    steps: "array[int]" = field(default_factory=lambda: array("q"))
    starts: "array[int]" = field(default_factory=lambda: array("q"))
    ends: "array[int]" = field(default_factory=lambda: array("q"))
    #: Entry -> its name, where it has no whole number; `steps` has its place then, which says nothing.
    names: Mapping[int, str] = field(default_factory=dict)
    #: Entry -> when an exception left the step; the script may have caught it.
    errors: Mapping[int, int] = field(default_factory=dict)
    epochs: "array[int] | None" = None  #: an entry a step, where the marks name an epoch
    #: What it said of its own end, in order: time, event and facts. The script may have caught it, and gone on.
    said: Sequence[tuple[int, str, Mapping[str, Any]]] = ()
    observed: bool = False  #: its steps were observed: they are numbered from 0 on in each process
    unsure: str = ""  #: what is not known of the numbers of these
    doubts: Sequence[tuple[int, int]] = ()  #: entries from and to: of these nobody knows whether they were done again
    fetched: bool = False  #: a DataLoader gave it batches, with which its observed steps begin
    mute: bool = False  #: nothing is left of it but another's word on its death: its times are that word's

    @property
    def first_step_ns(self) -> int | None:
        """When its first step began."""
        return self.starts[0] if self.starts else None

    @property
    def last_step(self) -> int | None:
        """The number of the last step that it finished."""
        for at in range(len(self.ends) - 1, -1, -1):
            if self.ends[at] and at not in self.names:
                return self.steps[at]
        return None

    @property
    def raised(self) -> tuple[int, Mapping[str, Any]] | None:
        """When it said last that nobody caught what it raised, and the facts of that."""
        said = ((time_ns, facts) for time_ns, name, facts in reversed(self.said) if name == "worker.exception")
        return next(said, None)

    @property
    def numbers(self) -> "Sequence[int]":
        """The numbers of its steps, without those that have none."""
        return [n for at, n in enumerate(self.steps) if at not in self.names] if self.names else self.steps

    def label(self, entry: int) -> str:
        """Return the number or name of a step as people read it."""
        name = self.names.get(entry, str(self.steps[entry]))
        return name if self.epochs is None else f"{name} of epoch {self.epochs[entry]}"


@dataclass(slots=True, eq=False)
class Node:
    """One agent, of which a host may have several; or a host of processes of which no agent spoke."""

    name: str  #: host, with the agent's pid where a host has several
    host: str
    pid: int
    agent: bool = True
    first_ns: int = 0  #: the agent's first record
    last_ns: int = 0  #: the last sign of the agent, or of a worker of its last attempt
    ended_ns: int | None = None  #: it said that it ended
    died_ns: int | None = None  #: a collector found it dead
    outcome: str = "unknown"  #: succeeded, failed, left, died, or unknown: it did not say
    reason: str = ""
    signal: str | None = None  #: that stopped it, or that it died of
    restarts: int = 0  #: as it said at its end
    unparsed: int = 0  #: rendezvous messages of torch that were not understood
    #: How it went while others remained: left (stopped by a signal, or in order), failed, died, silent; empty: it stayed.
    gone: str = ""


@dataclass(slots=True, eq=False)
class Worker:
    """One rank in one attempt. Unknown is None; `outcome` is succeeded, failed or unknown."""

    rank: int | None
    node: Node | None
    local_rank: int | None = None
    pid: int | None = None
    host: str = ""
    started_ns: int | None = None  #: the agent had started it
    ended_ns: int | None = None  #: its death where `died_ns` is known; else the first that noticed its end
    alive_ns: int | None = None  #: somebody saw it alive then, the last time before its death
    died_ns: int | None = None  #: its death itself, where somebody recorded it; or the first look that found it dead
    found_ns: int = 0  #: somebody found it dead, at some time after its end, and `ended_ns` is a guess; 0: it is none
    outcome: str = "unknown"
    exit_code: int | None = None
    signal: str | None = None
    message: str | None = None
    first: bool = False  #: the first of its node to fail, by itself
    victim: bool = False  #: ended by the agent, since another had failed
    consequence: bool = False  #: failed by itself, but after another, and as one fails whose peer is gone
    #: What it left in its folder, as its agent read it.
    left: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    asked_ns: int = 0  #: when its agent had its last stack; 0: it had none
    stack: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)  #: the facts of that
    process: Process | None = None  #: what it recorded itself
    children: Sequence[Process] = ()  #: processes that it started, such as a DataLoader's workers

    @property
    def cause(self) -> str:
        """Signal or exit code in words, behind what was raised before a signal; empty where it did not fail."""
        if self.exit_code is not None and not self.signal:
            return f"exit code {self.exit_code}"
        raised = self._raised
        about = raised[1] if raised is not None else {}
        kind = str(about.get("type") or about.get("message") or "")
        if self.signal:
            return f"{kind}, ended by {self.signal}" if kind and kind != "KeyboardInterrupt" else self.signal
        return kind if self.outcome == "failed" else ""

    @property
    def raised_ns(self) -> int | None:
        """When it raised what it ended with, an exception or an exit; None: it said none. Its process may end long after."""
        raised = self._raised
        return raised[0] if raised is not None else None

    @property
    def ended_by_exception(self) -> bool:
        """Whether it said that nobody caught what it raised, and that was the last of it."""
        process = self.process
        raised = process.raised if process is not None else None
        return process is not None and raised is not None and process.last_ns - raised[0] < _LEAVING

    @property
    def done_ns(self) -> int | None:
        """When it called for its end with code 0; None: it did not, or went on, as who records long after."""
        left = self._exit
        if left is None or left[1].get("code") != 0 or self.process is None:
            return None
        return left[0] if self.process.last_ns - left[0] < _LEAVING else None

    @property
    def broke_ns(self) -> int:
        """When the last of its collectives ended with an error, as they do where a peer is gone; 0: none, or it went on."""
        process = self.process
        if process is None:
            return 0
        since = process.starts[-1] if process.starts else 0
        return max((at for at, name, _ in process.said if name == "collective.failed" and at >= since), default=0)

    def is_of(self, name: str) -> bool:
        """Whether it ended of a signal of this name: by it, or with the exit code of who handles it."""
        number = getattr(signal, name, None)
        return self.signal == name or (number is not None and self.exit_code == 128 + number)

    @property
    def _raised(self) -> tuple[int, Mapping[str, Any]] | None:
        process = self.process
        if process is None:
            return None
        if process.raised is not None:
            return process.raised
        left = self._exit
        return left if left is not None and left[1].get("code") != 0 else None

    @property
    def _exit(self) -> tuple[int, Mapping[str, Any]] | None:
        process = self.process
        if process is None:
            return None
        # An exit may be caught. It was not where no step began behind it; of who marks none, where nothing came.
        since = process.starts[-1] if process.starts else process.last_ns
        return next(((at, facts) for at, name, facts in process.said if name == "worker.exit" and at >= since), None)

    @property
    def place(self) -> str:
        """The name of its node; empty if unknown."""
        return self.node.name if self.node is not None else self.host


@dataclass(slots=True, eq=False)
class Rendezvous:
    """One node's part of one rendezvous."""

    node: Node
    start_ns: int
    end_ns: int
    round: int | None = None
    rank: int | None = None  #: of the node
    world_size: int | None = None  #: nodes
    completed: bool = True


#: Of a script that was run again, or of another one.
ANOTHER = "it has no rank and no agent, and may be another training: whether it did the steps before again is not known"


@dataclass(slots=True, eq=False)
class Attempt:
    """One group of workers, from their start to their end, on all nodes."""

    number: int
    round: int | None = None  #: of the rendezvous that made it
    started_ns: int | None = None
    ended_ns: int | None = None
    outcome: str = "unknown"  #: succeeded, failed, membership, stopped, left, unknown
    world_size: int | None = None
    group_size: int | None = None  #: nodes
    workers: list[Worker] = field(default_factory=list)
    rendezvous: list[Rendezvous] = field(default_factory=list)  #: those that made it
    nodes: list[Node] = field(default_factory=list)
    ends: dict[Node, tuple[int, str]] = field(default_factory=dict)  #: when it ended for a node, and as what
    #: The worker that failed first by itself, over all nodes; None: none did, or the records do not tell which.
    first_failure: Worker | None = None
    suspects: list[Worker] = field(default_factory=list)  #: where that is not told: those that may have been first
    gone: list[Node] = field(default_factory=list)  #: nodes whose last one it was, while others remained
    unread: int = 0  #: nodes of which no record was read, at least
    another: bool = False  #: nobody knows whether it is the same training as the attempts before

    @property
    def first_step_ns(self) -> int | None:
        """When the first rank began its first step."""
        times = [t for w in self.workers if w.process is not None and (t := w.process.first_step_ns) is not None]
        return min(times, default=None)

    @property
    def unsure(self) -> str:
        """What is not known of the numbers of its steps; empty: nothing."""
        told = next((w.process.unsure for w in self.workers if w.process is not None and w.process.unsure), "")
        return told or (ANOTHER if self.another else "")

    @property
    def last_step(self) -> int | None:
        """The last step that any rank finished."""
        steps = [s for w in self.workers if w.process is not None and (s := w.process.last_step) is not None]
        return max(steps, default=None)


@dataclass(slots=True, frozen=True)
class Offset:
    """How far a host's clock is ahead of the reference host's, from the ends of common rendezvous.

    torch's nodes look at the rendezvous about once a second, so that the error is a second at least.
    """

    seconds: float
    error: float  #: seconds, at least `LOOK`
    rounds: int  #: common rendezvous it rests on
    applied: bool  #: beyond its error, and so taken off every time of the host

    @property
    def apart(self) -> float:
        """How far its times may still be from the reference host's, in seconds."""
        return self.error if self.applied else abs(self.seconds) + self.error


@dataclass(slots=True, eq=False)
class Story:
    """One run."""

    run_id: str
    began_ns: int
    ended_ns: int  #: of the job, or the last record where the job has not ended
    outcome: str = "unknown"  #: succeeded, failed, or unknown: it runs, was cut, or has no agent's records
    reason: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    ledgers: list[dict[str, Any]] = field(default_factory=list)
    lost: dict[str, int] = field(
        default_factory=dict
    )  #: reason -> records that processes' rings lost before they were collected
    reference: str = ""  #: the host on whose clock all times are; empty: no rendezvous told of any
    offsets: dict[str, Offset] = field(default_factory=dict)  #: host -> its clock, of hosts beside the reference
    restarts: int | None = 0  #: attempts that followed a failure; None: it is not known of each what it followed
    membership_changes: int = 0
    unclosed: list[str] = field(default_factory=list)  #: sources, or nodes, that have no ledger of it where one belongs
    gathering: list[Rendezvous] = field(default_factory=list)  #: that no attempt followed
    unread: int = 0  #: nodes of the last attempt of which no record was read

    @property
    def wall_s(self) -> float:
        """Seconds from the beginning of the job to its end."""
        return (self.ended_ns - self.began_ns) / 1e9

    def workers(self) -> Iterator[Worker]:
        """Give every worker of every attempt."""
        for attempt in self.attempts:
            yield from attempt.workers

    @property
    def remained(self) -> list[Node]:
        """The agents that did not go while others remained: the job's outcome is theirs."""
        return [node for node in self.nodes if node.agent and not node.gone]

    def span(self, attempt: Attempt) -> tuple[int, int]:
        """Return when `attempt` began and ended, in nanoseconds; what nobody said is taken from what came around it."""
        at = self.attempts.index(attempt)
        later = self.attempts[at + 1 :][:1]
        start = attempt.started_ns if attempt.started_ns is not None else self.began_ns
        gathered = [r.start_ns for a in later for r in a.rendezvous] if later else [r.start_ns for r in self.gathering]
        ends = gathered + [a.started_ns for a in later if a.started_ns]
        end = attempt.ended_ns if attempt.ended_ns is not None else min(ends, default=self.ended_ns)
        if attempt.ended_ns is None and later and attempt.nodes and all(node in attempt.gone for node in attempt.nodes):
            # None was left to tell its end, and who began anew may have come much later.
            end = min(end, max(node.last_ns for node in attempt.nodes))
        return start, max(start, end)
