"""What a lane has still to deliver: in memory as before, then in a spool, and the books of both add up."""

import errno
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from elastic_events.bus.backlog import Backlog, Found
from elastic_events.bus.context import Context
from elastic_events.bus.latest import Latest
from elastic_events.bus.queued import Queue
from elastic_events.bus.record import Record, record_of
from elastic_events.bus.weight import weigh
from elastic_events.recorder.spool import Spool

CONTEXT = Context(run_id="r", process="1-2-3", host="h", pid=1, rank=0)
ALL = (10**6, 10**12)


def record(number: int, kind: Any = "event", size: int = 10) -> Record:
    """Make a record that its number tells from the others."""
    fields: tuple[Any, ...] = (float(number),) if kind == "metric" else ("WORKER", 0, {"n": number})
    if kind == "rdzv":
        fields = ("r", "joined", "h", 1, "RUNNING", "", None, None, "")
    return record_of(kind, number, number, number, f"r{number}", "c", fields, CONTEXT, size)


def metrics(*numbers: int, size: int = 10) -> list[Record]:
    """Make metric points."""
    return [record(number, "metric", size) for number in numbers]


def events(*numbers: int, size: int = 10) -> list[Record]:
    """Make events."""
    return [record(number, "event", size) for number in numbers]


def numbers(records: list[Record]) -> list[int]:
    """Return what tells the records apart."""
    return [record.seq for record in records]


class Books(RuleBasedStateMachine):
    """A backlog with a spool under pushes, takes, full disks, a full spool, reopening and kills; the books are a list."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "spool")
        self.pwrite = os.pwrite
        self.pushed = 0
        self.waiting: list[int] = []  # in the order they came, some of them lost
        self.flight: list[Record] = []
        self.entries: dict[int, int] = {}
        self.lost = 0  # of those that wait
        self.sick = False  # the disk was, so that records may come twice

    @initialize(
        records=st.integers(1, 12),
        limit=st.sampled_from([2000, 2**30]),
        overflow=st.sampled_from(["drop_oldest", "drop_newest"]),
    )
    def open(self, records: int, limit: int, overflow: Any) -> None:
        """Open a backlog."""
        self.make = lambda: Backlog(records, 200, overflow, Spool(self.path, limit=limit, segment=400))
        self.backlog = self.make()

    @rule(
        kinds=st.lists(st.sampled_from(["event", "metric", "metric", "rdzv"]), max_size=8),
        size=st.sampled_from([10, 70]),
    )
    def push(self, kinds: list[Any], size: int) -> None:
        """Push some records."""
        batch = [record(self.pushed + place, kind, size) for place, kind in enumerate(kinds)]
        self.pushed += len(batch)
        for place, number in enumerate(numbers(batch)):
            self.entries[number] = self.backlog.entered + place
        self.waiting += numbers(batch)
        fell = self.backlog.push(batch)
        assert fell == self.book()

    def book(self) -> int:
        """Book what the backlog says is lost."""
        lost = self.backlog.losses()
        assert set(lost) <= {"spool", "spool_failed"}
        self.lost += lost.total()
        return lost.total()

    @rule(most=st.integers(1, 10), bytes_=st.integers(1, 200))
    def take(self, most: int, bytes_: int) -> None:
        """Take a batch; the one before is settled by that."""
        there = len(self.backlog)
        self.flight = self.backlog.take(most, bytes_)
        assert bool(self.flight) == bool(there)
        assert len(self.flight) <= most
        assert len(self.flight) == 1 or sum(r.size for r in self.flight) <= bytes_
        taken = numbers(self.flight)
        if not self.lost:
            assert taken == self.waiting[: len(taken)]
        self.strike(taken)

    def strike(self, taken: list[int]) -> None:
        """Strike what was taken off the books; it comes in order, and what it passes over was lost."""
        places = [self.waiting.index(number) for number in taken]
        assert places == sorted(places)
        for number in taken:
            self.waiting.remove(number)

    @rule()
    def settle(self) -> None:
        """Settle the batch in flight."""
        self.backlog.settle()
        self.flight = []

    @rule(keep=st.integers(0, 10))
    def give_back(self, keep: int) -> None:
        """Give the batch in flight back, but for its first records."""
        back = self.flight[keep:]
        self.backlog.untake(back)
        self.waiting[:0] = numbers(back)
        self.flight = []

    @rule()
    def spill(self) -> None:
        """Move memory to the disk."""
        stay = self.backlog.spill()
        self.book()
        if os.pwrite is self.pwrite and self.backlog.spool.limit > 2000:
            assert stay == 0
            assert self.backlog.safe_from == self.backlog.entered

    @rule(mode=st.sampled_from(["well", "full", "short"]))
    def disk(self, mode: str) -> None:
        """Let the disk be well, full, or full in the middle of a write."""

        def write(fd: int, data: bytes, offset: int) -> int:
            if mode == "short":
                self.pwrite(fd, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, "no space")

        os.pwrite = self.pwrite if mode == "well" else write
        self.sick |= mode != "well"

    @rule()
    def reopen(self) -> None:
        """End in order: what is in flight goes back, what is in memory to disk, and what the disk refuses is dropped."""
        self.give_back(0)
        self.backlog.spill()
        self.book()
        self.lost += self.backlog.clear()
        self.backlog.close()
        held = len(self.backlog)
        self.backlog = self.make()
        assert self.sick or self.backlog.adopt() == Found(held)
        assert len(self.missing(self.waiting)) == self.lost
        self.begin_again()

    @rule()
    def kill(self) -> None:
        """Die: what was before `safe_from` is there again, and nothing that was settled."""
        known = [*numbers(self.flight), *self.waiting]
        safe = [number for number in known if self.entries[number] < self.backlog.safe_from]
        self.backlog.spool.after_fork()  # closes its files, and no more
        self.backlog = self.make()
        assert len(self.missing(safe)) <= self.lost
        assert self.sick or {*self.all()} <= {*known}
        self.begin_again()

    def all(self) -> list[int]:
        """Return all that is in the backlog, and leave it there."""
        batch = self.backlog.take(*ALL)
        self.backlog.untake(batch)
        assert len(batch) == len(self.backlog)
        return numbers(batch)

    def missing(self, expected: list[int]) -> set[int]:
        """Return what of `expected` the backlog does not hold."""
        return {*expected} - {*self.all()}

    def begin_again(self) -> None:
        """Close the books with what is there."""
        self.waiting, self.flight, self.lost = self.all(), [], 0
        entries = [self.entries[number] for number in self.waiting]
        assert entries == sorted(entries)
        self.sick = os.pwrite is not self.pwrite

    @invariant()
    def adds_up(self) -> None:
        """What waits is what was pushed, less what was taken and what was lost."""
        if hasattr(self, "backlog"):
            assert len(self.backlog) == len(self.waiting) - self.lost

    def teardown(self) -> None:
        """Drain what is left: as many as the books say, and no file stays."""
        os.pwrite = self.pwrite
        try:
            if hasattr(self, "backlog"):
                self.drain()
        finally:
            self.folder.cleanup()

    def drain(self) -> None:
        """Take all, and close."""
        self.book()
        left = len(self.waiting) - self.lost
        self.strike(drained := numbers(self.backlog.take(*ALL)))
        assert len(drained) == left
        self.backlog.close()
        assert not self.path.exists()


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def spooled(path: Path, records: int = 4, bytes_: int = 10_000, **options: Any) -> Backlog:
    """Make a backlog with a spool."""
    return Backlog(records, bytes_, "drop_oldest", Spool(path / "spool", **options))


def test_without_a_spool_the_oldest_of_its_kind_falls_out() -> None:
    """A full memory loses records of its own kind, says how many and why, and keeps the order of both kinds."""
    backlog = Backlog(3, 10_000, "drop_oldest")
    assert backlog.push([*events(0), *metrics(1, 2, 3, 4), *events(5)]) == 1
    assert backlog.losses() == {"backlog": 1}
    assert not backlog.losses()
    assert numbers(backlog.take(*ALL)) == [0, 2, 3, 4, 5]
    assert (backlog.oldest, backlog.safe_from, backlog.entered) == (6, 0, 6)
    backlog.settle()
    assert backlog.safe_from == 6


def test_memory_comes_first(tmp_path: Path) -> None:
    """While memory has room the disk is not touched."""
    backlog = spooled(tmp_path)
    backlog.push(events(0, 1, 2, 3))
    assert not [*(tmp_path / "spool").iterdir()]
    assert backlog.safe_from == 0
    assert numbers(backlog.take(*ALL)) == [0, 1, 2, 3]


def test_past_the_bound_all_of_memory_goes_to_disk(tmp_path: Path) -> None:
    """What would pass the bound goes to disk with all before it, in order, and so does what follows until it is empty."""
    backlog = spooled(tmp_path)
    backlog.push([*events(0), *metrics(1), *events(2)])
    assert backlog.push(metrics(3, 4, 5, 6)) == 0
    assert backlog.safe_from == backlog.entered == 7
    backlog.push(events(7))
    assert backlog.safe_from == 8
    assert backlog.oldest == 0
    assert numbers(backlog.take(5, 10_000)) == [0, 1, 2, 3, 4]
    assert backlog.oldest == 5
    assert numbers(backlog.take(*ALL)) == [5, 6, 7]
    backlog.push(events(8))
    assert backlog.safe_from == 8, "the spool is empty: memory again"
    assert numbers(backlog.take(*ALL)) == [8]
    assert not [*(tmp_path / "spool").iterdir()]


def test_what_is_in_flight_is_spilled_too(tmp_path: Path) -> None:
    """A batch in flight is on disk after a spill: a kill gives it back, a settle does not."""
    backlog = spooled(tmp_path)
    backlog.push([*events(0, 1), *metrics(2, 3)])
    backlog.take(3, 10_000)
    assert (backlog.safe_from, backlog.oldest) == (0, 3)
    assert backlog.spill() == 0
    assert (backlog.safe_from, backlog.oldest, len(backlog)) == (4, 3, 1)
    backlog.spool.after_fork()
    backlog = spooled(tmp_path)
    assert backlog.adopt() == Found(4)
    assert numbers(backlog.take(*ALL)) == [0, 1, 2, 3]


def test_what_was_in_flight_and_spilled_is_settled_on_disk(tmp_path: Path) -> None:
    """A batch that is delivered after it was spilled does not come again after a kill."""
    backlog = spooled(tmp_path)
    backlog.push([*events(0, 1), *metrics(2, 3)])
    backlog.take(3, 10_000)
    backlog.spill()
    backlog.settle()
    backlog.spool.after_fork()
    backlog = spooled(tmp_path)
    assert backlog.adopt() == Found(1)
    assert numbers(backlog.take(*ALL)) == [3]


def test_some_of_a_batch_is_given_back(tmp_path: Path) -> None:
    """What had its outcome does not come again, what is given back comes first, from memory and from disk."""
    backlog = spooled(tmp_path)
    for _ in range(2):
        start = backlog.entered
        backlog.push([*events(start), *metrics(start + 1, start + 2)])
        batch = backlog.take(2, 10_000)
        backlog.untake(batch[1:])
        assert numbers(backlog.take(*ALL)) == [start + 1, start + 2]
        backlog.untake([])
        assert len(backlog) == 0
        backlog.push(events(start + 3))
        backlog.spill()
        assert numbers(backlog.take(*ALL)) == [start + 3]
        backlog.settle()


def test_what_had_its_outcome_is_settled_when_the_rest_is_given_back(tmp_path: Path) -> None:
    """A kill after half a batch was given back repeats that half, and not the one that was delivered."""
    backlog = spooled(tmp_path)
    backlog.push(events(*range(6)))
    batch = backlog.take(4, 10_000)
    backlog.untake(batch[2:])
    backlog.spool.after_fork()
    assert numbers(spooled(tmp_path).take(*ALL)) == [2, 3, 4, 5]


def test_a_record_longer_than_a_batch_is_taken_alone(tmp_path: Path) -> None:
    """A batch is bounded in bytes, but holds one record at least, from memory and from disk."""
    backlog = spooled(tmp_path)
    backlog.push(events(0, 1, 2, size=500))
    assert [len(backlog.take(10, 100)), len(backlog.take(10, 999)), len(backlog)] == [1, 1, 1]
    backlog.push(events(3, 4, size=500))
    backlog.spill()
    assert [len(backlog.take(10, 100)), len(backlog.take(10, 1000))] == [1, 2]


def test_a_full_spool_loses_metrics_first(tmp_path: Path) -> None:
    """A full spool loses its oldest metrics, counted, and with no metrics left its oldest events."""
    backlog = spooled(tmp_path, limit=40_000, segment=5000)
    backlog.push([*events(*range(100)), *metrics(*range(100, 200))])
    lost: Counter[str] = Counter()
    number = 200
    while not (lost := lost + backlog.losses()):
        backlog.push([*events(number), *metrics(number + 1)])
        number += 2
    taken = backlog.take(*ALL)
    assert len(taken) == number - lost["spool"]
    assert set(range(100)) <= {*numbers(taken)}
    assert all(r.kind == "event" for r in taken if r.seq < 100)


def test_metrics_never_push_an_event_out_of_the_spool(tmp_path: Path) -> None:
    """With nothing but events on a full disk, new metrics wait in memory and fall out there."""
    backlog = spooled(tmp_path, limit=10_000, segment=1000)
    backlog.push(events(*range(5)))
    number = 5
    while backlog.spool.size < 9_800:
        backlog.push(events(number))
        number += 1
    assert not backlog.losses()
    backlog.push(metrics(*range(10_000, 10_020)))
    assert backlog.losses() == {"spool": 16}
    assert numbers(backlog.take(*ALL)) == [*range(number), *range(10_016, 10_020)]


@pytest.mark.parametrize("delivered", [True, False])
def test_a_full_spool_gives_up_a_batch_in_flight_where_it_comes_back(delivered: bool, tmp_path: Path) -> None:
    """What is in flight as its segment goes does not outlive the process: it is delivered, or lost and counted."""
    backlog = spooled(tmp_path, limit=2000, segment=250)
    backlog.push(metrics(*range(8)))
    flight = backlog.take(3, 10_000)
    assert backlog.safe_from == backlog.entered
    while not (lost := backlog.losses()):
        backlog.push(metrics(*range(backlog.entered, backlog.entered + 8)))
    assert lost == {"spool": 5}
    assert backlog.safe_from == 0
    if delivered:
        backlog.settle()
    else:
        backlog.untake(flight)
    assert backlog.losses() == ({} if delivered else {"spool": 3})
    assert backlog.safe_from == backlog.entered
    assert numbers(backlog.take(*ALL)) == [*range(8, backlog.entered)]
    backlog.close()


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_a_disk_that_refuses_is_memory_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overflow: Any) -> None:
    """With a disk that refuses, memory is filled and then loses what the lane chose; later the disk is tried again."""
    backlog = Backlog(4, 10_000, overflow, Spool(tmp_path / "spool"))

    def refuse(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        assert backlog.push(events(*range(4))) == 0
        assert backlog.push(events(4, 5)) == 2
        assert backlog.losses() == {"spool_failed": 2}
        assert backlog.safe_from == (2 if overflow == "drop_oldest" else 0)
    assert backlog.push(events(6)) == 0
    assert backlog.safe_from == 7
    kept = [2, 3, 4, 5, 6] if overflow == "drop_oldest" else [0, 1, 2, 3, 6]
    assert numbers(backlog.take(*ALL)) == kept


def test_a_disk_that_cannot_be_read_now_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no descriptor left, a take gives nothing and counts no loss; the next one gives it all."""
    backlog = spooled(tmp_path)
    backlog.push([*events(*range(5)), *metrics(5)])
    backlog.close()
    backlog = spooled(tmp_path)

    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert backlog.take(*ALL) == []
        assert (len(backlog), backlog.oldest) == (6, 0)
    assert numbers(backlog.take(*ALL)) == [0, 1, 2, 3, 4, 5]
    assert not backlog.losses()


def test_a_closed_backlog_still_knows_what_it_left(tmp_path: Path) -> None:
    """After the close, what waits on disk is counted and not lost; what is pushed all the same stays in memory."""
    backlog = spooled(tmp_path)
    backlog.push(events(*range(6)))
    backlog.close()
    assert (len(backlog), backlog.oldest, backlog.take(*ALL)) == (6, 0, [])
    assert backlog.push(events(6)) == 0
    assert (len(backlog), backlog.safe_from, backlog.losses()) == (7, 6, Counter())
    assert spooled(tmp_path).adopt() == Found(6)


def test_clear_leaves_the_spool_alone(tmp_path: Path) -> None:
    """What is given up at the end is what is in memory; the rest waits for the next process."""
    backlog = spooled(tmp_path)
    backlog.push(events(0))
    assert backlog.spill() == 0
    assert backlog.clear() == 0
    assert len(backlog) == 1
    assert Backlog(4, 10_000, "drop_oldest").spill() == 0
    memory = Backlog(4, 10_000, "drop_oldest")
    memory.push(events(0, 1))
    assert memory.spill() == 2
    assert memory.clear() == 2


def test_a_full_backlog_loses_as_many_as_do_not_fit() -> None:
    """What fits exactly pushes nothing out; of what does not, as many fall out as are too many, from the oldest on."""
    backlog = Backlog(10, 10**6, "drop_oldest")
    assert backlog.push(events(*range(8))) == 0
    assert backlog.push(events(8, 9)) == 0
    assert backlog.push(events(*range(10, 15))) == 5
    assert backlog.push(metrics(*range(100, 103))) == 0
    assert backlog.push(events(*range(15, 40))) == 25
    assert backlog.losses() == {"backlog": 30}
    assert numbers(backlog.take(*ALL)) == [100, 101, 102, *range(30, 40)]


def test_the_latest_of_a_key_is_what_came_last_when_a_batch_comes_back() -> None:
    """A record that could not be delivered is put back, unless a later one of its key has come meanwhile: that is counted."""
    latest = Latest(10, 10**6, lambda one: one.seq % 3)
    latest.push(events(0, 1, 2))
    batch = latest.take(*ALL)
    latest.push(events(4))
    latest.untake(batch)
    assert latest.losses() == {"coalesced": 1}
    assert latest.size == weigh(events(0, 2, 4))
    assert numbers(latest.take(*ALL)) == [0, 2, 4]
    assert latest.size == 0


class Weighed:
    """A record for a queue; while it is weighed, something happens in another thread."""

    kind, size, flat = "event", 10, False

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self.meanwhile = meanwhile

    @property
    def memory(self) -> int:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return 600


def test_who_asks_for_its_size_changes_nothing() -> None:
    """Any thread may ask what a backlog takes, while others are put in and taken out; what it takes is known as before."""
    queue = Queue()

    def come_and_go() -> None:
        queue.append(cast("Any", [Weighed(lambda: None)] * 3), (7, 9, 11), 30)
        queue.take(1)

    first = Weighed(come_and_go)
    queue.append(cast("Any", [first, Weighed(lambda: None)]), range(2), 20)
    assert queue.bytes > 0
    assert queue.bytes == 4 * 600
    assert queue._weigh() == 4 * 600
    queue.take(4)
    assert queue._weigh() == queue.bytes == 0


def test_how_many_wait_before_a_mark(tmp_path: Path) -> None:
    """A flush is told how many records of before it are on disk, none that came after it, and none that were taken."""
    backlog = spooled(tmp_path, records=1)
    backlog.push(events(*range(10)))
    assert backlog.spill() == 0
    assert [backlog.before(mark, ()) for mark in (0, 1, 5, 10, 99)] == [0, 1, 5, 10, 10]
    backlog.take(2, 10**6)
    assert [backlog.before(mark, ()) for mark in (0, 2, 3, 10)] == [0, 0, 1, 8]
