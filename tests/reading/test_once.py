"""A record counts once, from wherever it comes, and however often."""

import random
from pathlib import Path

import msgspec

from elastic_events.reading.builder import build
from elastic_events.reading.once import Once
from elastic_events.reading.overview import final_worker, summary
from elastic_events.reading.source import last_words, read_stories
from elastic_events.reading.story import Story
from tests.reading.runs import Run, two_attempts
from tests.reading.test_source import database, jsonl
from tests.records import changed


def test_numbers_are_new_once() -> None:
    """Each number is new the first time only, in any order, with any gaps."""
    chance = random.Random(0)
    numbers = [chance.randrange(5000) for _ in range(5000)] + [2**62, 2**62, -1, -1]
    once = Once()
    assert [number for number in numbers if once.new(number)] == list(dict.fromkeys(numbers))


def test_records_that_come_twice(tmp_path: Path) -> None:
    """A file given twice, a copy in another form, a recovery into the same file: the same story, and the same last words."""
    records = two_attempts().records
    db, lines = database(tmp_path / "run.db", records), jsonl(tmp_path / "run.jsonl", records)
    twice = jsonl(tmp_path / "twice.jsonl", records)
    twice.write_bytes(twice.read_bytes() + lines.read_bytes())
    answers = []
    for sources in ([db], [db, db], [db, lines], [lines, db], [twice], [twice, db]):
        (story,) = read_stories(sources)
        dead = final_worker(story)
        assert dead is not None
        assert dead.process is not None
        answer = msgspec.structs.replace(summary(story, last_words(sources, [dead.process])), unclosed=[])
        answers.append(msgspec.json.encode(answer))
    assert len(set(answers)) == 1


def test_forms_tell_the_same(tmp_path: Path) -> None:
    """Files and objects tell one story, where an agent's clock was set and where facts are not what they should be, too."""
    run = two_attempts()
    last = run.records[-1]
    facts = {"rank": 0, "attempt": 1, "signal": "SIGKILL", "died_ns": last.time_ns + 10**9, "alive_ns": last.time_ns}
    for at, told in enumerate((facts, {"rank": 1e999}, [1], "{", {"rank": 2**70})):
        run.raw(400 + at, run.agent(), "worker.failed", told)
    ahead = 7 * 10**9
    for at, record in enumerate(run.records):
        if at > len(run.records) // 2:
            run.records[at] = msgspec.structs.replace(record, time_ns=record.time_ns + ahead)
    own = answer(*build(run.records))
    sources = database(tmp_path / "run.db", run.records), jsonl(tmp_path / "run.jsonl", run.records)
    assert [answer(*read_stories([source])) for source in sources] == [own] * 2


def answer(story: Story) -> bytes:
    """Return the summary of a story, in whatever it was read from, and the deaths that it tells."""
    deaths = [worker.died_ns for worker in story.workers()]
    return msgspec.json.encode((deaths, msgspec.structs.replace(summary(story), unclosed=[])))


def test_a_ledger_that_comes_twice(tmp_path: Path) -> None:
    """A ledger counts once, too; a source that has none is named, although another one has."""
    run = two_attempts()
    facts = {"lane": "sqlite", "accepted": 1, "delivered": 1}
    ledger = changed(run.records[-1], kind="ledger", name="bus.ledger", fields=(facts,))
    whole, cut = database(tmp_path / "whole.db", [*run.records, ledger]), jsonl(tmp_path / "cut.jsonl", run.records)
    (story,) = read_stories([whole, whole, cut])
    assert (story.ledgers, story.unclosed) == ([facts], [str(cut)])


def test_a_node_that_closed_no_sink(tmp_path: Path) -> None:
    """In a sink of several nodes, the node that left no ledger is named."""
    run = Run()
    for host in ("a", "b"):
        run.tell(0, run.agent(host), "job.started")
    ledger = changed(run.records[0], kind="ledger", name="bus.ledger", fields=({"lane": "x"},))
    (story,) = read_stories([database(tmp_path / "run.db", [*run.records, ledger])])
    assert story.unclosed == ["b"]
