"""A run on one screen: attempts, who died first and of what, its last words, how far each rank came, the ledgers."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from elastic_events.bus.record import Record
from elastic_events.reading.shown import shown
from elastic_events.reading.story import Attempt, Process, Story, Worker
from elastic_events.reading.words import counted, seconds, spans

__all__ = (
    "AttemptRow",
    "Clock",
    "Failure",
    "LastStep",
    "Summary",
    "Wait",
    "Word",
    "final_worker",
    "summary",
    "summary_terminal",
)

_ATTEMPTS = 30  # rows on a screen; the first and the last ones are shown
_STEPS = 6
_CLOCKS = 3


class Failure(msgspec.Struct, frozen=True):
    """A worker that failed by itself."""

    rank: int | None  #: of the whole job
    node: str  #: of its agent, empty if unknown
    pid: int | None  #: on its node
    signal: str | None  #: its name, where one ended it
    exit_code: int | None  #: where it ended by itself
    message: str | None  #: of the worker's error file
    at_s: float | None  #: seconds from the beginning of the job; when the agent noticed


class AttemptRow(msgspec.Struct, frozen=True):
    """One attempt. Seconds are None where nothing was recorded to tell them."""

    attempt: int  #: counted from 0 over the whole job, membership changes included
    round: int | None  #: of its rendezvous
    start_s: float  #: from the beginning of the job
    duration_s: float  #: from the start of its workers to its end
    rendezvous_s: float | None  #: from the first node's beginning to the last node's end
    first_step_s: float | None  #: from the start of its workers to the first rank's first step
    restart_to_step_s: float | None  #: from the end of the attempt before to the first step of this one
    world_size: int | None  #: ranks, as its agents said
    first_step: int | None  #: the lowest that any rank began
    last_step: int | None  #: the last that any rank finished
    outcome: str  #: succeeded, failed, membership, stopped, left, unknown
    first_failure: Failure | None  #: the first worker to fail by itself, over all nodes
    failed: int  #: workers that failed by themselves
    victims: int  #: workers ended by an agent, since another had failed


class Wait(msgspec.Struct, frozen=True):
    """How long one node was in one rendezvous."""

    node: str  #: its name
    attempt: int  #: that the rendezvous made
    round: int | None  #: of the rendezvous
    seconds: float  #: from its beginning to its end


class LastStep(msgspec.Struct, frozen=True):
    """The ranks whose last finished step, in the last attempt that they were part of, is `step`; None: none."""

    step: int | None  #: its number
    ranks: list[int]  #: in order


class Clock(msgspec.Struct, frozen=True):
    """A host's clock against the reference host's."""

    host: str  #: its name
    ahead_s: float  #: negative: behind
    error_s: float  #: of `ahead_s`, at least a second
    rounds: int  #: rendezvous that it was estimated from
    corrected: bool  #: taken off all times of the host


class Word(msgspec.Struct, frozen=True):
    """One record of a worker's last ones."""

    before_death_s: float  #: before its agent noticed
    name: str  #: of the event or metric
    value: str  #: metadata or value, as text


class Summary(msgspec.Struct, frozen=True):
    """What `elastic-events summary --json` prints."""

    run_id: str  #: of the job
    outcome: str  #: succeeded, failed, unknown
    reason: str  #: why it failed, as its agent said
    began_ns: int  #: nanoseconds since the epoch
    wall_s: float  #: from the beginning of the job to its end, or to the last record
    nodes: list[str]  #: their names
    ranks: int  #: the most that an attempt had
    restarts: int  #: attempts that followed a failure
    membership_changes: int  #: attempts that ended since nodes came or went
    attempts: list[AttemptRow]  #: in their order
    longest_waits: list[Wait]  #: in rendezvous, at most three
    last_steps: list[LastStep]  #: the lowest step first
    last_words: list[Word]  #: of the first worker that failed first and recorded something itself
    last_words_of: int | None  #: its rank
    clocks: list[Clock]  #: of the hosts beside the reference
    unparsed: int  #: rendezvous messages of torch that were not understood
    ledgers: list[dict[str, Any]]  #: what each sink was closed with


def final_worker(story: Story) -> Worker | None:
    """Return the first worker that failed first and left records of its own: the one whose last words matter."""
    firsts = (attempt.first_failure for attempt in story.attempts)
    return next((worker for worker in firsts if worker is not None and worker.process is not None), None)


def summary(story: Story, words: Mapping[Process, Sequence[Record]] | None = None) -> Summary:
    """Return the summary of a run; `words` are the last records of `final_worker(story)`."""
    dead = final_worker(story)
    last = (words or {}).get(dead.process, ()) if dead is not None and dead.process is not None else ()
    before: Attempt | None = None
    rows = []
    for attempt in story.attempts:
        rows.append(_row(story, attempt, before))
        before = attempt
    return Summary(
        run_id=story.run_id,
        outcome=story.outcome,
        reason=story.reason,
        began_ns=story.began_ns,
        wall_s=story.wall_s,
        nodes=[node.name for node in story.nodes],
        ranks=max((len(attempt.workers) for attempt in story.attempts), default=0),
        restarts=story.restarts,
        membership_changes=story.membership_changes,
        attempts=rows,
        longest_waits=_waits(story),
        last_steps=_last_steps(story),
        last_words=[_word(record, dead.ended_ns or record.time_ns) for record in last] if dead else [],
        last_words_of=dead.rank if dead is not None and last else None,
        clocks=[Clock(host, o.seconds, o.error, o.rounds, o.applied) for host, o in sorted(story.offsets.items())],
        unparsed=sum(node.unparsed for node in story.nodes),
        ledgers=story.ledgers,
    )


def _row(story: Story, attempt: Attempt, before: Attempt | None) -> AttemptRow:
    start, end = story.span(attempt)
    first_step_ns = attempt.first_step_ns
    since = story.span(before)[1] if before is not None else None
    rendezvous = [r for r in attempt.rendezvous if r.completed]
    numbers = [min(w.process.numbers) for w in attempt.workers if w.process is not None and w.process.numbers]
    first = attempt.first_failure
    failed = [worker for worker in attempt.workers if worker.outcome == "failed"]
    return AttemptRow(
        attempt=attempt.number,
        round=attempt.round,
        start_s=(start - story.began_ns) / 1e9,
        duration_s=(end - start) / 1e9,
        rendezvous_s=(max(r.end_ns for r in rendezvous) - min(r.start_ns for r in rendezvous)) / 1e9
        if rendezvous
        else None,
        first_step_s=(first_step_ns - start) / 1e9 if first_step_ns is not None else None,
        restart_to_step_s=(first_step_ns - since) / 1e9 if first_step_ns is not None and since is not None else None,
        world_size=attempt.world_size,
        first_step=min(numbers, default=None),
        last_step=attempt.last_step,
        outcome=attempt.outcome,
        first_failure=_failure(story, first) if first is not None else None,
        failed=sum(not worker.victim for worker in failed),
        victims=sum(worker.victim for worker in failed),
    )


def _failure(story: Story, worker: Worker) -> Failure:
    at = (worker.ended_ns - story.began_ns) / 1e9 if worker.ended_ns is not None else None
    node = worker.node.name if worker.node is not None else worker.host
    return Failure(worker.rank, node, worker.pid, worker.signal, worker.exit_code, worker.message, at)


def _waits(story: Story) -> list[Wait]:
    """The longest waits that stand out: over a second, and twice as long as those of half of the nodes."""
    waits = [
        Wait(r.node.name, attempt.number, r.round, (r.end_ns - r.start_ns) / 1e9)
        for attempt in story.attempts
        for r in attempt.rendezvous
    ]
    usual = median(wait.seconds for wait in waits) if waits else 0
    return sorted((w for w in waits if w.seconds > max(1, 2 * usual)), key=lambda wait: -wait.seconds)[:3]


def _last_steps(story: Story) -> list[LastStep]:
    reached: dict[int, int | None] = {}
    for worker in story.workers():
        if worker.rank is not None and worker.process is not None:
            reached[worker.rank] = worker.process.last_step
    ranks: dict[int | None, list[int]] = {}
    for rank, step in reached.items():
        ranks.setdefault(step, []).append(rank)
    if set(ranks) <= {None}:
        return []
    return [
        LastStep(step, sorted(ranks[step])) for step in sorted(ranks, key=lambda step: -1 if step is None else step)
    ]


def _word(record: Record, death_ns: int) -> Word:
    value = record.fields[0] if record.kind == "metric" else record.fields[-1]
    if isinstance(value, dict):
        shown = ", ".join(f"{key} {item}" for key, item in value.items())
    else:
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return Word((death_ns - record.time_ns) / 1e9, str(record.name), shown)


# --- in the terminal ---


def summary_terminal(answer: Summary) -> RenderableType:
    """Draw the summary for a terminal."""
    messages = [shown(message) for message in _messages(answer.attempts)]  # of several lines, of which one is shown
    answer = shown(answer)
    return Group(
        *_headline(answer),
        _attempts(answer.attempts),
        *map(Text, messages),
        *_words(answer),
        *map(Text, _remarks(answer)),
    )


def _headline(answer: Summary) -> list[Text]:
    colour = {"failed": "bold red", "succeeded": "bold green"}.get(answer.outcome, "bold yellow")
    outcome = {"unknown": "no end recorded"}.get(answer.outcome, answer.outcome)
    line = Text.assemble(f"Run {answer.run_id}: ", (outcome, colour), f" after {seconds(answer.wall_s)}")
    if answer.reason and answer.outcome == "failed":
        line.append(f" ({answer.reason})")
    parts = [
        counted(len(answer.nodes), "node"),
        counted(answer.ranks, "rank"),
        counted(len(answer.attempts), "attempt"),
    ]
    if answer.restarts:
        parts.append(f"{counted(answer.restarts, 'restart')} after a failure")
    if answer.membership_changes:
        parts.append(counted(answer.membership_changes, "membership change"))
    return [line, Text(", ".join(parts) + ".")]


def _attempts(rows: list[AttemptRow]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("#", "began", "rendez-\nvous", "first\nstep", "lasted", "steps", "ended"):
        table.add_column(column, justify="left" if column in ("steps", "ended") else "right", no_wrap=True)
    table.add_column("first to fail")
    hidden = len(rows) - _ATTEMPTS
    for row in rows if hidden <= 0 else [*rows[: _ATTEMPTS // 2], *rows[-_ATTEMPTS // 2 :]]:
        if hidden > 0 and row.attempt == rows[-_ATTEMPTS // 2].attempt:
            table.add_row("…", f"{hidden} more")
        steps = (
            ""
            if row.first_step is None
            else f"{row.first_step} to {'none' if row.last_step is None else row.last_step}"
        )
        table.add_row(
            str(row.attempt),
            f"+{seconds(row.start_s)}",
            seconds(row.rendezvous_s),
            seconds(row.first_step_s),
            seconds(row.duration_s),
            steps,
            Text(row.outcome, style={"failed": "red", "succeeded": "green"}.get(row.outcome, "yellow")),
            Text(_first(row)),
        )
    return table


def _first(row: AttemptRow) -> str:
    first = row.first_failure
    if first is None:
        return ""
    who = f"rank {first.rank} on {first.node}" if first.node else f"rank {first.rank}"
    cause = first.signal or (f"exit code {first.exit_code}" if first.exit_code is not None else "cause unknown")
    more = f", {row.failed - 1} more" if row.failed > 1 else ""
    victims = f", {counted(row.victims, 'victim')}" if row.victims else ""
    return f"{who}: {cause}{more}{victims}"


def _messages(rows: list[AttemptRow]) -> Iterable[str]:
    """The error of each first failure, once where attempts share it."""
    said: dict[str, list[int]] = {}
    for row in rows:
        if row.first_failure is not None and row.first_failure.message:
            said.setdefault(row.first_failure.message.strip(), []).append(row.attempt)
    for message, attempts in said.items():
        lines = message.splitlines()
        shown = lines[-1] if lines[0].startswith("Traceback") else lines[0]
        yield f"Attempt {spans(attempts)} failed with: {shown}"


def _words(answer: Summary) -> list[RenderableType]:
    if not answer.last_words:
        return []
    title = Text(f"Last words of rank {answer.last_words_of}")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("before its death was noticed", justify="right")
    table.add_column("record")
    table.add_column("value")
    for word in answer.last_words:
        table.add_row(seconds(word.before_death_s), Text(word.name), Text(word.value))
    return [table]


def _remarks(answer: Summary) -> Iterable[str]:
    """Everything beside the tables, a line each."""
    restarts = [row.restart_to_step_s for row in answer.attempts if row.restart_to_step_s is not None]
    if len(restarts) == 1:
        yield f"From the end of an attempt to the first step of the next: {seconds(restarts[0])}."
    elif restarts:
        usual, longest = seconds(median(restarts)), seconds(max(restarts))
        yield f"From the end of an attempt to the first step of the next: {usual} in the median, {longest} at most."
    for wait in answer.longest_waits:
        yield f"Node {wait.node} was {seconds(wait.seconds)} in the rendezvous of attempt {wait.attempt}."
    for last in answer.last_steps[:_STEPS]:
        reached = "finished no step" if last.step is None else f"came to step {last.step}"
        yield f"{'Rank' if len(last.ranks) == 1 else 'Ranks'} {spans(last.ranks)} {reached}."
    if len(answer.last_steps) > _STEPS:
        rest = sum(len(last.ranks) for last in answer.last_steps[_STEPS:])
        yield f"{rest} more ranks came to other steps, up to {answer.last_steps[-1].step}."
    yield from _clocks(answer.clocks)
    if answer.unparsed:
        yield f"{counted(answer.unparsed, 'rendezvous message')} of torch could not be understood."
    if not answer.attempts:
        yield "No attempt was recorded: this shows what a launcher, the torchrun plug-in or torch itself records of a job."
    yield from _ledgers(answer.ledgers)


def _clocks(clocks: list[Clock]) -> Iterable[str]:
    wrong = sorted((clock for clock in clocks if clock.corrected), key=lambda clock: -abs(clock.ahead_s))
    for clock in wrong[:_CLOCKS]:
        side = "ahead" if clock.ahead_s > 0 else "behind"
        rounds = counted(clock.rounds, "rendezvous", "rendezvous")
        yield (
            f"The clock of {clock.host} is {seconds(abs(clock.ahead_s))} {side}, ± {seconds(clock.error_s)}, by {rounds}; "
            "its times are corrected."
        )
    if len(wrong) > _CLOCKS:
        yield f"{len(wrong) - _CLOCKS} more clocks were off by less, and are corrected."
    rest = [clock for clock in clocks if not clock.corrected]
    if rest:
        error = seconds(max(clock.error_s for clock in rest))
        yield f"The clocks of {counted(len(rest), 'other host')} agree within what rendezvous can tell, ± {error}."


def _ledgers(ledgers: list[dict[str, Any]]) -> Iterable[str]:
    """The counts that each sink was closed with; a file without any is cut short, or still being written."""
    if not ledgers:
        yield "No ledger: what wrote this was killed, still runs, or is not this package's bus."
    for facts in ledgers:
        dropped = facts.get("dropped")
        reasons = dropped if isinstance(dropped, dict) else {}
        counts = [f"{facts.get(key)} {key}" for key in ("accepted", "delivered")]
        counts += [f"{count} dropped ({reason})" for reason, count in reasons.items() if count]
        counts += [f"{facts[key]} {key}" for key in ("failed", "filtered", "pending") if facts.get(key)]
        if not facts.get("failed") and not any(reasons.values()):
            counts.append("none lost")
        yield f"Records through {facts.get('lane')}: {', '.join(counts)}."
