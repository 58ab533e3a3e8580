"""Which process is which worker: the ranks, apart from the processes that these have started."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from elastic_events.reading.images import in_turn, joined, program, ticks
from elastic_events.reading.said import integer
from elastic_events.reading.story import Attempt, Node, Process, Story, Worker

__all__ = ("Death", "Ranks", "signal_name")


class Death(NamedTuple):
    """What a collector says of a dead process."""

    time_ns: int  #: when it noticed
    signal: str | None
    exit_code: int | None


class Ranks:
    """Who was told of, by pid; then the processes that recorded, each given to its worker."""

    def __init__(self) -> None:
        self._told: dict[str, dict[int, Sequence[Worker]]] = {}  # host -> pid -> those that had it
        self._deaths: dict[tuple[str, int], list[Death]] = {}

    def told(self, worker: Worker) -> None:
        """An agent named a worker's pid."""
        if worker.pid is not None:
            pids = self._told.setdefault(worker.host, {})
            known = pids.get(worker.pid, ())
            if not known or known[-1] is not worker:
                pids[worker.pid] = (*known, worker)

    def died(self, time_ns: int, facts: Mapping[str, Any]) -> None:
        """A collector found a process dead. The same death may be told twice."""
        host, pid = facts.get("host"), integer(facts.get("pid"))
        if isinstance(host, str) and pid is not None:
            death = Death(time_ns, signal_name(facts.get("signal")), integer(facts.get("exit_code")))
            self._deaths.setdefault((host, pid), []).append(death)

    def death(self, host: str, pid: int | None, since_ns: int) -> Death | None:
        """Return the first word on the death of the process that had this pid at `since_ns`; pids are used again."""
        if pid is None or not self._deaths:
            return None
        for death in self._deaths.get((host, pid), ()):
            if death.time_ns >= since_ns:
                return death
        return None

    def assign(self, story: Story, processes: list[Process]) -> None:
        """Give each process that has a rank, or marks steps, to its worker: as the rank itself, or as a child of it.

        The rank is the process that its agent started. Where no agent says which that is, it is the one that marks steps,
        and of several alike the oldest: what a process starts has its rank, too, and is younger. Where nobody has a rank, marks
        steps or is an agent, it is who said what ended it: a plain script that failed before its first step.
        """
        story.processes = processes
        plain = not story.nodes and not any(one.steps or one.context.rank is not None for one in processes)
        rest = self._unnamed(story, processes) if not plain else [[one] for one in processes if one.raised is not None]
        if not story.attempts:
            rest = _begun_anew(rest)
        ranked: dict[int | None, list[tuple[Attempt, Worker]]] = {}
        for attempt in story.attempts:
            for worker in attempt.workers:
                ranked.setdefault(worker.rank, []).append((attempt, worker))
        places = _Places(story, rest)
        for group in sorted(rest, key=lambda group: min(map(_place, group))):
            places.give(group, ranked)

    def _unnamed(self, story: Story, processes: Iterable[Process]) -> list[list[Process]]:
        """Give the workers that agents named by pid their processes; return the others, those of a rank and host together."""
        rest: list[list[Process]] = []
        hosts: dict[str, list[Process]] = {}
        for process in processes:
            hosts.setdefault(process.context.host, []).append(process)
        agents: dict[str, set[int]] = {}
        for node in story.nodes:
            agents.setdefault(node.host, set()).add(node.pid)
        for host, own in hosts.items():
            for group in _by_rank(own, agents.get(host, ())):
                if len(group) > 1:
                    self._order(group)
                if not self._started(group):
                    # Of which attempt a process was that left no word of its own, a death that was noticed later does not tell.
                    rest.append([process for process in group if not (process.mute and story.attempts)])
        return list(filter(None, rest))

    def _order(self, group: list[Process]) -> None:
        """Sort the processes of a rank; whom its agent started once is one, however often it began anew."""
        group.sort(key=_age)
        pids = self._told.get(group[0].context.host, {})
        if any(process.context.pid in pids for process in group):
            group[:] = joined(group)

    def _started(self, group: list[Process]) -> bool:
        """Give the processes that an agent named their workers, and the others of their rank to these; False: none is named."""
        named: list[Worker] = []
        others = []
        for process in group:
            worker = self._named(process)
            if worker is None:
                others.append(process)
            else:
                worker.process = process
                named.append(worker)
        if not named:
            return False
        named.sort(key=lambda worker: worker.started_ns or 0)
        for process in others:
            before = [worker for worker in named if (worker.started_ns or 0) <= process.last_ns]
            _adopt((before or named)[-1], process)
        return True

    def _named(self, process: Process) -> Worker | None:
        """Return the worker with the process's pid; of several, as pids are used again, the last that had begun.

        A process that began to record before its launcher gave it a rank says none.
        """
        rank = process.context.rank
        known = [
            worker
            for worker in self._told.get(process.context.host, {}).get(process.context.pid, ())
            if worker.process is None and (None in (worker.rank, rank) or worker.rank == rank)
        ]
        begun = [worker for worker in known if worker.started_ns is None or worker.started_ns <= process.last_ns]
        return begun[-1] if begun else known[-1] if known else None


class _Places:
    """Finds, or makes, the workers of processes that no agent named by their pid."""

    def __init__(self, story: Story, groups: Iterable[list[Process]]) -> None:
        self.story = story
        #: Restart -> when the lives began and ended of the rank that has most, in a job without an agent.
        self.begun: dict[int | None, list[tuple[int, int]]] = {}
        for group in groups if not story.attempts else ():
            begins = [(process.first_ns, process.last_ns) for process, _ in _lives(group)]
            key = group[0].context.restart
            self.begun[key] = max(self.begun.get(key, []), begins, key=len)
        self.spare: dict[tuple[int, int], Attempt] = {}  # attempts of a job without an agent, by restart and life
        self.told = {attempt: place for place, attempt in enumerate(story.attempts)}
        #: Rank -> the place of the last attempt told that has its process: its lives come in turn.
        self.last = {w.rank: at for attempt, at in self.told.items() for w in attempt.workers if w.process is not None}
        self.untold: dict[int, Attempt] = {}  # attempts whose agents' records were lost, by how many are over before
        self.hosts: dict[str, Node] = {node.host: node for node in story.nodes}

    def give(self, group: list[Process], ranked: Mapping[int | None, list[tuple[Attempt, Worker]]]) -> None:
        """Give the processes of one rank their workers."""
        wrapped: Worker | None = None  # whose agent started another program, which runs such as tell steps
        lives = list(_lives(group))
        for (process, children), life in zip(lives, self._numbers([process for process, _ in lives]), strict=True):
            context = process.context
            worker = self._said(process, ranked.get(context.rank, []))
            if worker is None and wrapped is not None and process.first_ns <= (wrapped.ended_ns or process.first_ns):
                for one in (process, *children):
                    _adopt(wrapped, one)
                continue
            worker = worker or self._new(process, life)
            other = worker.host == context.host and worker.pid not in (None, context.pid)
            wrapped = worker if other and process.steps else None
            if other and not process.steps:  # its agent started another, which recorded nothing
                worker.children = [*worker.children, process, *children]
            else:
                worker.process = process
                worker.pid = context.pid if worker.pid is None else worker.pid
                worker.children = [*worker.children, *children]

    def _numbers(self, lives: Sequence[Process]) -> Iterator[int]:
        """Give the number of each life of a rank: of one that left nothing of some of them, by when those of others began."""
        begins = self.begun.get(lives[0].context.restart, [])
        least = 0
        for left, process in zip(range(len(lives))[::-1], lives, strict=True):
            near = range(least, max(len(begins) - left, least + 1))
            told = not process.mute  # when one began that left no word of its own, nobody knows
            number = min(near, key=lambda at: _apart(process, *begins[at]) if told and at < len(begins) else 0)
            yield number
            least = number + 1

    def _said(self, process: Process, workers: list[tuple[Attempt, Worker]]) -> Worker | None:
        """Return the worker that an agent spoke of without its pid, or by that of a process around it."""
        free = [
            (attempt, worker)
            for attempt, worker in workers
            if worker.process is None and worker.rank is not None and _may_be_of(attempt, process)
        ]
        if not free:
            return None
        same = [one for one in free if one[0].number == process.context.restart]
        attempt, worker = same[0] if same else free[-1]
        self._note(attempt, worker.rank)
        return worker

    def _new(self, process: Process, life: int) -> Worker:
        context = process.context
        attempt = self._attempt((context.restart or 0, life), process)
        node = self.hosts.get(context.host)
        if node is None:
            node = self.hosts[context.host] = Node(
                context.host, context.host, 0, agent=False, first_ns=process.first_ns
            )
            self.story.nodes.append(node)
        began = None if process.mute else process.first_ns  # of its start another's word on its end tells nothing
        worker = Worker(context.rank, node, context.local_rank, context.pid, context.host, began)
        attempt.workers.append(worker)
        attempt.world_size = attempt.world_size or context.world_size
        return worker

    def _attempt(self, restart: tuple[int, int], process: Process) -> Attempt:
        """Return the attempt of a process that no agent spoke of: where agents told attempts, the one of its time."""
        if self.told:
            possible = [attempt for attempt in self.told if _may_be_of(attempt, process)]
            before = self.last.get(process.context.rank, -1)
            possible = [attempt for attempt in possible if self.told[attempt] > before] or possible
            begun = [attempt for attempt in possible if attempt.started_ns is not None]
            if possible:
                latest = (begun or possible)[-1]
                self._note(latest, process.context.rank)
                return latest
            return self._untold(process)
        attempt = self.spare.get(restart)
        if attempt is None:
            attempt = self.spare[restart] = Attempt(len(self.spare))
            self.story.attempts.append(attempt)
        return attempt

    def _note(self, attempt: Attempt, rank: int | None) -> None:
        self.last[rank] = max(self.told[attempt], self.last.get(rank, -1))

    def _untold(self, process: Process) -> Attempt:
        """Return the attempt that a process was in of which no agent's record is left."""
        over = sum(any(end < process.first_ns for end, _ in attempt.ends.values()) for attempt in self.told)
        attempt = self.untold.get(over)
        if attempt is None:
            attempt = self.untold[over] = Attempt(len(self.story.attempts))
            self.story.attempts.append(attempt)
        return attempt


def _by_rank(processes: Iterable[Process], agents: Collection[int]) -> Iterable[list[Process]]:
    """Group the processes of a host that have a rank, or mark steps, by their rank in an attempt; without one by program."""
    groups: dict[Any, list[Process]] = {}
    for process in processes:
        context = process.context
        if process.steps or (context.rank is not None and context.pid not in agents):
            alone = program(process) if context.rank is None else None
            groups.setdefault((context.restart, context.rank, alone), []).append(process)
    return groups.values()


def _begun_anew(groups: Sequence[list[Process]]) -> list[list[Process]]:
    """Join what began when all before it was over, on whatever host; where each host runs a loop of its own, on that."""
    lives: list[list[Process]] = []
    alike: dict[Any, _Lanes] = {}
    ranked = any(own[0].context.rank is not None for own in groups)
    parts = [[process, *children] for own in groups for process, children in _lives(own)]
    parts.sort(key=lambda own: _place(own[0]))  # what started the next one may stand among the children of this one
    apart = _loops([own for own in parts if own[0].context.rank is None])
    for own in parts:
        context = own[0].context
        # A program without a rank beside ranks, as one that evaluates, is no life of these. Where nobody has one, it is a script
        # that is run again, also if it said no more than what ended it.
        if ranked if context.rank is None else not any(process.steps for process in own):
            lives.append(own)
            continue
        key = context.restart, context.rank, context.host if apart and context.rank is None else ""
        alike.setdefault(key, _Lanes()).put(own)
    return [*lives, *chain.from_iterable(one.lanes for one in alike.values())]


class _Lanes:
    """Lives of programs that ran beside each other, each lane of one after another."""

    def __init__(self) -> None:
        self.lanes: list[list[Process]] = []
        self._beside: dict[int, Process] = {}  # those of this attempt, by lane
        self._main: Process | None = None  # of these, that with most steps
        self._until = self._at = 0

    def put(self, own: list[Process]) -> None:
        """Add a life, of all the next one to begin; one that makes few steps, as it evaluates, may go on beside several."""
        process = own[0]
        if process.first_ns > self._until:
            self._beside = {at: one for at, one in self._beside.items() if one.last_ns >= process.first_ns}
            self._main, self._until, self._at = None, 0, 0
        while self._at in self._beside:
            self._at += 1
        if self._at == len(self.lanes):
            self.lanes.append([])
        self.lanes[self._at] += own
        self._beside[self._at] = process
        if self._main is None or len(process.steps) > len(self._main.steps):
            main = self._main = max(self._beside.values(), key=lambda one: len(one.steps))
            self._until = max(one.last_ns for one in self._beside.values() if not _is_few(one, main))
        elif not _is_few(process, self._main):
            self._until = max(self._until, process.last_ns)


def _is_few(one: Process, main: Process) -> bool:
    """Whether a program makes less than a fourth of the steps of another one, while this runs: of one that came late, in all."""
    steps = len(one.steps)
    if one is not main and 2 * one.first_ns < main.first_ns + main.last_ns:
        steps = bisect_right(one.starts, main.last_ns) - bisect_left(one.starts, main.first_ns)
    return 4 * steps < len(main.steps)


def _loops(parts: Iterable[list[Process]]) -> bool:
    """Whether each host ran programs one after another, as often as any other, and each time beside those of the others."""
    hosts: dict[str, list[tuple[int, int]]] = {}
    for own in parts:
        begins, ends = own[0].first_ns, own[0].last_ns
        times = hosts.setdefault(own[0].context.host, [])
        if times and begins <= times[-1][1]:
            begins, until = times.pop()
            ends = max(ends, until)
        times.append((begins, ends))
    often = set(map(len, hosts.values()))
    return (
        len(often) == 1
        and often != {1}
        and all(
            max(begins for begins, _ in each) <= min(ends for _, ends in each)
            for each in zip(*hosts.values(), strict=True)
        )
    )


def _place(process: Process) -> tuple[int, str, str]:
    return process.first_ns, process.context.host, process.context.process


def _apart(process: Process, begins: int, ends: int) -> int:
    """Return how far the beginning of a process is from that of a life; 0 for one without a rank that began within it."""
    within = process.context.rank is None and begins <= process.first_ns <= ends
    return 0 if within else abs(begins - process.first_ns)


def _may_be_of(attempt: Attempt, process: Process) -> bool:
    """Whether a process can have been in an attempt: this had begun, and was not over on its host before it recorded."""
    ends = [end for node, (end, _) in attempt.ends.items() if node.host == process.context.host]
    return (attempt.started_ns or 0) <= process.last_ns and (not ends or max(ends) >= process.first_ns)


def _lives(group: list[Process]) -> Iterable[tuple[Process, list[Process]]]:
    """Part the processes of one rank, the oldest first, into its lives, one after the other, each with its children."""
    lives: list[tuple[Process, list[Process]]] = []
    for process in group:
        before = lives[-1][0] if lives else None
        alone = process.context.rank is None
        alike = before is not None and (
            bool(before.steps and process.steps) or (alone and not before.steps and not process.steps)
        )
        if before is None or (alike and process.first_ns > before.last_ns):
            lives.append((process, []))
        elif process.steps and not before.steps:  # what came before it only started it
            lives[-1] = process, [*lives[-1][1], before]
        else:
            lives[-1][1].append(process)
    return lives


def _adopt(worker: Worker, process: Process) -> None:
    """Add a process to a worker as its child; one that marks steps, where the worker marks none, is the rank itself."""
    own = worker.process
    if own is not None and process.steps and not own.steps:
        worker.process, process = process, own
    elif own is not None and process.steps and own.context.pid != worker.pid and process.first_ns > own.last_ns:
        worker.process = in_turn(own, process)
        return
    worker.children = [*worker.children, process]


def _age(process: Process) -> tuple[int, int]:
    """Sort by the start of a process."""
    return ticks(process.context), process.first_ns


def signal_name(value: Any) -> str | None:
    """Return the name of a signal; of one that has none but its number, the same whoever wrote it."""
    if not isinstance(value, str) or not value:
        return None
    return f"SIG{value[7:]}" if value.startswith("signal ") else value
