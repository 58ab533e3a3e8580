"""The summary in a terminal: a run on one screen."""

from collections.abc import Iterable
from itertools import islice, pairwise
from statistics import median
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from elastic_events.bus.text import counted
from elastic_events.reading.narrow import Fitted
from elastic_events.reading.overview import AttemptRow, Clock, Departure, Failure, Summary
from elastic_events.reading.shown import shown
from elastic_events.reading.stuck import places
from elastic_events.reading.words import by_attempt, error_line, seconds, spans

__all__ = ("summary_terminal",)

_ATTEMPTS = 30  # rows on a screen; the first and the last ones are shown
_STEPS = 6
_FEW = 3
_TRACE = 16  # lines of a traceback
_SLOW_END = 5  # seconds from what was raised to the end of the process: longer is told


def summary_terminal(answer: Summary) -> RenderableType:
    """Draw the summary for a terminal."""
    # Of an error of several lines one is shown: it is chosen while they are lines.
    messages = [shown(line) for line in _messages(answer.attempts)]
    answer = shown(msgspec.structs.replace(answer, reason=answer.reason and error_line(answer.reason)))
    return Group(
        *_headline(answer),
        *([Fitted(_attempts(answer))] if answer.attempts else []),
        *map(Text, messages),
        *map(Text, islice(places(answer.stuck), _FEW)),
        *_words(answer),
        *map(Text, _remarks(answer)),
    )


def _headline(answer: Summary) -> list[Text]:
    colour = {"failed": "bold red", "succeeded": "bold green"}.get(answer.outcome, "bold yellow")
    end = "outcome unknown" if answer.nodes_unread else "no end recorded"
    outcome = {"unknown": end}.get(answer.outcome, answer.outcome)
    line = Text.assemble(f"Run {answer.run_id}: ", (outcome, colour), f" after {seconds(answer.wall_s)}")
    if answer.reason and answer.outcome == "failed":
        line.append(f" ({answer.reason})")
    if not answer.nodes and not answer.attempts:  # only of its death: how many there were, nobody told
        return [line]
    parts = [
        _nodes(answer),
        counted(answer.ranks, "rank"),
        counted(len(answer.attempts), "attempt"),
    ]
    if answer.restarts:
        parts.append(f"{counted(answer.restarts, 'restart')} after a failure")
    if answer.membership_changes:
        parts.append(counted(answer.membership_changes, "membership change"))
    return [line, Text(", ".join(parts) + ".")]


def _nodes(answer: Summary) -> str:
    """Count the nodes; agents that ran one after the other on a host are no nodes beside each other."""
    hosts = len({name.rpartition(":")[0] or name for name in answer.nodes})
    at_once = max((row.nodes or len(answer.nodes) for row in answer.attempts), default=len(answer.nodes))
    if at_once == hosts < len(answer.nodes):
        # Of two that ran at once, as when a run's id is given twice, an attempt has both, or one began before the other's end.
        apart = all(row.start_s + row.duration_s <= after.start_s + 0.001 for row, after in pairwise(answer.attempts))
        how = " one after another" if apart and len(answer.attempts) >= len(answer.nodes) else ""
        return f"{counted(hosts, 'node')}, {counted(len(answer.nodes), 'agent')}{how}"
    return counted(len(answer.nodes), "node")


def _attempts(answer: Summary) -> Table:
    rows = answer.attempts
    gone = {departure.node: departure for departure in answer.departed}
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("#", "ranks", "began", "rendez-\nvous", "first\nstep", "lasted", "steps", "ended"):
        table.add_column(column, justify="left" if column in ("steps", "ended") else "right", no_wrap=True)
    table.add_column("first to fail")
    hidden = len(rows) - _ATTEMPTS
    for row in rows if hidden <= 0 else [*rows[: _ATTEMPTS // 2], *rows[-_ATTEMPTS // 2 :]]:
        if hidden > 0 and row.attempt == rows[-_ATTEMPTS // 2].attempt:
            table.add_row("…", "", f"{hidden} more")
        steps = (
            "unknown" * bool(row.unsure)
            if row.first_step is None
            else f"{row.first_step} to {'none' if row.last_step is None else row.last_step}"
        )
        table.add_row(
            str(row.attempt),
            "" if row.world_size is None else str(row.world_size),
            f"+{seconds(row.start_s)}",
            seconds(row.rendezvous_s),
            seconds(row.first_step_s),
            seconds(row.duration_s),
            steps,
            Text(row.outcome, style={"failed": "red", "succeeded": "green"}.get(row.outcome, "yellow")),
            Text(_first(row, [gone[node] for node in row.departed if node in gone])),
        )
    return table


def _first(row: AttemptRow, departed: list[Departure]) -> str:
    """Causes before consequences: who went, then who failed first, then how many others."""
    said = [_went(departure) for departure in departed]
    if row.first_failure is not None:
        said.append(_who(row.first_failure))
    elif row.suspects:
        told = len(row.suspects) > 1 and all(one.signal or one.exit_code is not None for one in row.suspects)
        others = "" if told else ", or one that is not recorded"
        said.append(f"unknown: {' or '.join(_who(one) for one in row.suspects[:_FEW])}{others}")
    more = row.failed - row.consequences - (row.first_failure is not None)
    counts = [f"{more} more"] if more > 0 and row.first_failure is not None else []
    if row.consequences:
        counts.append(counted(row.consequences, "consequence"))
    if row.victims:
        counts.append(counted(row.victims, "victim"))
    return ", ".join(["; then ".join(said), *counts] if said else counts)


def _who(one: Failure) -> str:
    who = f"rank {one.rank}" if one.rank is not None else "a worker"
    return f"{who} on {one.node}: {_cause(one)}" if one.node else f"{who}: {_cause(one)}"


def _cause(one: Failure) -> str:
    raised = one.message.partition(":")[0] if one.message and one.raised_s is not None else ""
    if one.signal:
        return f"{raised}, ended by {one.signal}" if raised and one.signal != "SIGINT" else one.signal
    return f"exit code {one.exit_code}" if one.exit_code is not None else raised or "cause unknown"


def _went(departure: Departure) -> str:
    node, signal = departure.node, f" ({departure.signal})" if departure.signal else ""
    return {
        "left": f"node {node} left{signal}",
        "died": f"the agent on {node} was killed{signal}",
        "silent": f"node {node} fell silent",
    }.get(departure.how, f"node {node} gave up")


def _messages(rows: list[AttemptRow]) -> Iterable[str]:
    """The error of each first failure, once where attempts share it."""
    said: dict[str, list[tuple[int, Failure]]] = {}
    for row in rows:
        for one in [row.first_failure] if row.first_failure is not None else row.suspects:
            if one.message or one.file or one.stderr or not (one.recorded or one.signal):
                who = "" if row.first_failure is not None else f"{_who(one)}: "
                said.setdefault(f"{who}{_what(one)}{_where(one)}", []).append((row.attempt, one))
    for at, (message, failures) in enumerate(said.items()):
        yield f"Attempt {spans(list(dict.fromkeys(number for number, _ in failures)))} failed with: {message}"
        if at < _FEW:
            yield from _trace(failures[0][1])
            yield from _beside(failures[0][1])
    for row in rows:
        if row.done_before:
            ranks = f"Rank{'s' * (len(row.done_before) > 1)} {spans(row.done_before)}"
            yield f"{ranks} had ended before the first failure of attempt {row.attempt}, with exit code 0."


def _what(one: Failure) -> str:
    return error_line(one.message) if one.message else _cause(one)


def _where(one: Failure) -> str:
    if one.file is None:
        return ""
    inside = f" in {one.function}" if one.function and one.function != "<module>" else ""
    return f", at {one.file}{f':{one.line}' if one.line is not None else ''}{inside}"


def _late(one: Failure) -> float | None:
    """Return how long it took to end after what it raised, where that stands out."""
    took = one.at_s - one.raised_s if one.at_s is not None and one.raised_s is not None else 0
    return took if took > _SLOW_END else None


def _beside(one: Failure) -> Iterable[str]:
    """What the error alone does not tell: that it came long before the end, or that nobody was there to tell more."""
    late = _late(one)
    if late is not None and one.raised_s is not None:
        yield f"  It said so at +{seconds(one.raised_s)}; the process ended {seconds(late)} later."
    if not (one.recorded or one.signal or one.stderr):
        yield "  It recorded nothing itself: it ended before it imported torch, or was not observed. Its stderr says why."


def _trace(one: Failure) -> Iterable[str]:
    """The short traceback, else the end of its stderr. Its last lines say most."""
    lines = (one.traceback or one.stderr or "").splitlines()
    if len(lines) > _TRACE:
        yield f"  ... {counted(len(lines) - _TRACE, 'line')} before"
    yield from (f"  {line}" for line in lines[-_TRACE:])


def _words(answer: Summary) -> list[RenderableType]:
    if not answer.last_words:
        return []
    rows = [row for row in answer.attempts if row.attempt == answer.last_words_in]
    dead = next((one for row in rows for one in [row.first_failure, *row.suspects] if one is not None), None)
    who = f"rank {answer.last_words_of}" if answer.last_words_of is not None else "the worker"
    title = Text(f"Last words of {who} in attempt {answer.last_words_in}")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    noticed = dead is None or dead.noticed
    table.add_column("before its death was noticed" if noticed else "before its death", justify="right")
    table.add_column("record")
    table.add_column("value")
    for word in answer.last_words:
        table.add_row(seconds(word.before_death_s), Text(word.name), Text(word.value))
    return [Fitted(table)]


def _remarks(answer: Summary) -> Iterable[str]:
    """Everything beside the tables, a line each: what happened, what it cost, how far it came, what is not known."""
    yield from _departures(answer)
    yield from _end(answer)
    yield from _costs(answer)
    yield from _waits(answer)
    yield from _steps(answer)
    yield from by_attempt((row.attempt, row.unsure) for row in answer.attempts)
    yield from _clocks(answer.clocks)
    if answer.unparsed:
        yield f"{counted(answer.unparsed, 'rendezvous message')} of torch could not be understood."
    if not answer.attempts:
        yield "No attempt was recorded: this shows what a launcher, the torchrun plug-in or torch itself records of a job."
        yield "elastic-events tail shows the records themselves."
    if answer.children:
        yield f"{counted(answer.children, 'process', 'processes')} that ranks had started recorded, too."
    if len(answer.roles) > 1:
        yield f"Roles: {'; '.join(f'{role.role}: {spans(role.ranks)}' for role in answer.roles)}."
    yield from _ledgers(answer)


def _waits(answer: Summary) -> Iterable[str]:
    restarts = [row.restart_to_step_s for row in answer.attempts if row.restart_to_step_s is not None]
    if restarts and not any(cost.down_s is not None for cost in answer.costs):
        usual, longest = seconds(median(restarts)), seconds(max(restarts))
        took = usual if len(restarts) == 1 else f"{usual} in the median, {longest} at most"
        yield f"From the end of an attempt to the first step of the next: {took}."
    for wait in answer.longest_waits:
        yield f"Node {wait.node} was {seconds(wait.seconds)} in the rendezvous of attempt {wait.attempt}."
    for one in answer.gathering[:_FEW]:
        how = "that made no attempt" if one.completed else "that failed"
        yield f"Node {one.node} was {seconds(one.seconds)} in a rendezvous {how}, from +{seconds(one.start_s)} on."
    if len(answer.gathering) > _FEW:
        yield f"{counted(len(answer.gathering) - _FEW, 'more node')} gathered in vain."


def _steps(answer: Summary) -> Iterable[str]:
    for last in answer.last_steps[:_STEPS]:
        who, its = ("Rank", "its") if len(last.ranks) == 1 else ("Ranks", "their")
        none = f"finished no step in {its} last attempt" if len(answer.attempts) > 1 else "finished no step"
        yield f"{who} {spans(last.ranks)} {none if last.step is None else f'came to step {last.step}'}."
    if len(answer.last_steps) > _STEPS:
        rest = sum(len(last.ranks) for last in answer.last_steps[_STEPS:])
        yield f"{counted(rest, 'more rank')} came to other steps, up to {answer.last_steps[-1].step}."


def _departures(answer: Summary) -> Iterable[str]:
    for departure in answer.departed[: 2 * _FEW]:
        which = f", in attempt {departure.attempt}" if departure.attempt is not None else ""
        at = f"at +{seconds(departure.at_s)}"
        at = at if departure.how in ("left", "failed") else f"and was last heard {at}"
        why = f": {error_line(departure.reason)}" if departure.how == "failed" and departure.reason else ""
        said = _went(departure)
        yield f"{said[0].upper()}{said[1:]} {at}{which}{why}."
    if len(answer.departed) > 2 * _FEW:
        yield f"{counted(len(answer.departed) - 2 * _FEW, 'more node')} went."


def _end(answer: Summary) -> Iterable[str]:
    if answer.nodes_unread:
        # That one is missing may be told by a rank alone, of which a launcher need not have said more.
        unread = counted(answer.nodes_unread, "node, or of some ranks,", "nodes")
        yield f"No record of {unread} of the last attempt was read: give theirs, too."
        yield "Without an --rdzv-id for all of them each node's records are a run of their own."
    elif answer.outcome == "unknown" and answer.attempts:
        yield "No agent said the end of the job: it runs, was killed, or has no launcher that records."
        if answer.unclosed or not answer.ledgers:
            yield "What was said last may still be in the recorder directory: read that as well, or recover it."


def _costs(answer: Summary) -> Iterable[str]:
    told = sorted((cost for cost in answer.costs if cost.down_s is not None), key=lambda cost: -(cost.down_s or 0))
    for cost in told[:_FEW]:
        between = f", over attempt {spans(cost.between)} in between" if cost.between else ""
        again = f", and {seconds(cost.redone_s)} to do lost steps again" if cost.redone_s else ""
        took = cost.total_s if cost.total_s is not None else cost.down_s
        yield (
            f"The failure of attempt {cost.attempt} cost {seconds(took)}: {seconds(cost.down_s)} to the next step"
            f"{between}{again}."
        )
    if len(told) > _FEW:
        total = seconds(sum(cost.total_s or cost.down_s or 0 for cost in told))
        yield f"{counted(len(told) - _FEW, 'more failure')} cost less each; all together {total}."
    for one in answer.repeated[:_FEW]:
        who = f"Rank {one.rank}" if one.rank is not None else f"Node {one.node}"
        yield f"{who} failed first in {counted(len(one.attempts), 'attempt')}: {spans(one.attempts)}."


def _clocks(clocks: list[Clock]) -> Iterable[str]:
    wrong = sorted((clock for clock in clocks if clock.corrected), key=lambda clock: -abs(clock.ahead_s))
    for clock in wrong[:_FEW]:
        side = "ahead" if clock.ahead_s > 0 else "behind"
        rounds = counted(clock.rounds, "rendezvous", "rendezvous")
        yield (
            f"The clock of {clock.host} is {seconds(abs(clock.ahead_s))} {side}, ± {seconds(clock.error_s)}, by {rounds}; "
            "its times are corrected."
        )
    if len(wrong) > _FEW:
        yield f"{counted(len(wrong) - _FEW, 'more clock')}, off by less, corrected as well."
    rest = [clock for clock in clocks if not clock.corrected]
    if rest:
        error = seconds(max(clock.error_s for clock in rest))
        yield f"The clocks of {counted(len(rest), 'other host')} agree within what rendezvous can tell, ± {error}."


def _ledgers(answer: Summary) -> Iterable[str]:
    """The counts that each sink was closed with; a source without any is cut short, or still being written."""
    if not answer.ledgers:
        yield "No ledger: what wrote this was killed, still runs, or is not this package's bus."
    elif answer.unclosed:
        yield f"No ledger from {', '.join(answer.unclosed)}: what wrote it was killed, or still runs; its end may be missing."
    for facts in answer.ledgers:
        yield _ledger(facts, bool(answer.lost))
    if answer.lost:
        reasons = ", ".join(f"{count} {reason}" for reason, count in answer.lost.items())
        yield f"Lost in their processes, before they were collected: {reasons}."


def _ledger(facts: dict[str, Any], lost_before: bool) -> str:
    dropped, failed = dict(_reasons(facts, "dropped")), _reasons(facts, "failed_by")
    replaced = dropped.pop("coalesced", 0)
    counts = [f"{facts.get(key)} {key}" for key in ("accepted", "delivered")]
    counts += [f"{replaced} replaced by a later one of their key"] if replaced else []
    counts += [f"{count} dropped ({reason})" for reason, count in dropped.items() if count]
    if facts.get("failed"):
        by = ", ".join(f"{count} {name}" for name, count in failed.items())
        counts.append(f"{facts['failed']} failed{f' ({by})' if by else ''}")
    counts += [f"{facts[key]} {key}" for key in ("filtered", "pending") if facts.get(key)]
    if not facts.get("failed") and not any(dropped.values()) and not lost_before:
        counts.append("none lost")
    error = f" Its last error: {error_line(str(facts['last_error']))}." if facts.get("last_error") else ""
    runs = f", of {facts['runs']} runs that it does not part" if type(facts.get("runs")) is int else ""
    return f"Records through {facts.get('lane')}{runs}: {', '.join(counts)}.{error}"


def _reasons(facts: dict[str, Any], key: str) -> dict[Any, Any]:
    found = facts.get(key)
    return found if isinstance(found, dict) else {}
