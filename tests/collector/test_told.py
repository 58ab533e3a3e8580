"""What the programs of a collector are told of its sinks, on their stderr."""

import sqlite3

from elastic_events.sinks.jsonl import read_jsonl
from tests.collector.programs import Place, place, until

__all__ = ("place",)


def test_a_sink_that_fails_and_is_well_again_is_told_to_its_program(place: Place) -> None:
    """A database that another process locks is told of while it is, and that it is free again, once each."""
    body = """
    bus = elastic_events.start("sqlite:///run.db?busy_timeout=10ms")
    emit(1)
    print(bool(bus.flush_sync(60)), flush=True)
    sys.stdin.readline()
    emit(10)
    sys.stdin.readline()
    """
    program = place.start(body)
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stderr is not None
    assert program.stdout.readline() == "True\n"
    holder = sqlite3.connect(place.database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    program.stdin.write("\n")
    program.stdin.flush()
    assert program.stderr.readline().startswith("elastic_events: sink 'sqlite' fails, trying again: OperationalError")
    holder.execute("ROLLBACK")
    holder.close()
    assert program.stderr.readline().startswith("elastic_events: sink 'sqlite' is well again after ")
    _, err = program.communicate("\n", timeout=60)
    assert err == ""
    until(lambda: place.count() == 11)


def test_what_a_sink_refuses_is_told_and_kept_in_the_dead_letters(place: Place) -> None:
    """Texts that a sink of numbers refuses: told as it begins, in all at the end, and kept where the environment says."""
    body = """
    bus = elastic_events.start("prometheus://127.0.0.1:0")
    for value in (1, "two", 3, "four"): put_metric("m", value)
    bus.flush_sync(60)
    sys.stdin.readline()
    """
    program = place.start(body, ELASTIC_EVENTS_DEAD_LETTERS="jsonl:///dead.jsonl")
    assert program.stderr is not None
    first = program.stderr.readline()
    why = "2 failed (2 PermanentError; 2 kept in the dead letters)"
    assert first.startswith(f"elastic_events: sink 'prometheus' loses records: so far {why}")
    _, err = program.communicate("\n", timeout=60)
    assert err.startswith(f"elastic_events: sink 'prometheus' lost 2 of 4 records: {why}; its last error")
    assert err.count("\n") == 1
    dead = [one.fields[0] for one in read_jsonl(place.folder / "dead.jsonl") if one.kind == "metric"]
    assert dead == ["two", "four"]


def test_what_a_sink_remarks_is_told_once(place: Place) -> None:
    """What the environment of a program asks for and is not done, its collector tells that program."""
    body = """
    bus = elastic_events.start("otlp+http:")
    emit(10)
    bus.flush_sync(60)
    sys.stdin.readline()
    """
    program = place.start(body, OTEL_SDK_DISABLED="true")
    assert program.stderr is not None
    assert program.stderr.readline().startswith("elastic_events: sink 'otlp+http' says: OTEL_SDK_DISABLED is true")
    _, err = program.communicate("\n", timeout=60)
    assert err == ""
