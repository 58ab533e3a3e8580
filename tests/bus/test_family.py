"""The books of a family: each process has its own, whatever is forked when, and gets none of its parent's records."""

import json
import os
import select
import warnings
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from elastic_events import EventBus, Retry
from elastic_events.testing import FailingSink, ListSink

#: Seconds for whatever has to come to its end.
PATIENCE = 60.0


def forked(child: Callable[[], Any]) -> Any:
    """Return what `child()` returns in a forked process."""
    ear, mouth = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: of a process with threads
        pid = os.fork()
    if pid == 0:
        try:
            os.write(mouth, json.dumps(child()).encode())
        except BaseException as error:  # noqa: BLE001 - it is told
            os.write(mouth, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)
    os.close(mouth)
    try:
        assert select.select([ear], [], [], PATIENCE)[0], "the child hangs"
        return json.loads(os.read(ear, 65_536))
    finally:
        os.close(ear)
        os.waitpid(pid, 0)


class Family(RuleBasedStateMachine):
    """A bus in a thread, and children that are forked from it at any moment, and theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[int] = []  # the values of this process's records, by the machine's own book
        self.processes: set[str] = set()
        self.fails = False

    @initialize(interval=st.sampled_from([0.001, 3600]))
    def open(self, interval: float) -> None:
        """Open a bus with a sink that is well and one that may refuse."""
        self.good = ListSink()
        self.bad = FailingSink(lambda *_: OSError("down") if self.fails else None)
        self.bus = EventBus(interval=interval, recorder=False, timeout=PATIENCE)
        self.bus.subscribe(self.good, name="good")
        self.bus.subscribe(self.bad, name="bad", retry=Retry(attempts=1))
        self.bus.open()

    @rule(count=st.integers(1, 20))
    def emit(self, count: int) -> None:
        """Record metric points."""
        for _ in range(count):
            self.recorded.append(len(self.recorded))
            self.bus.put_metric("m", self.recorded[-1])

    @rule()
    def flush(self) -> None:
        """Deliver all there is."""
        assert self.bus.flush_sync(PATIENCE)

    @rule(fails=st.booleans())
    def change_temper(self, fails: bool) -> None:
        """Let the one sink refuse from now on, or take."""
        self.flush()
        self.fails = fails

    @precondition(lambda self: len(self.processes) < 8)
    @rule(waiting=st.integers(0, 5), count=st.integers(0, 20), depth=st.integers(1, 2), closes=st.booleans())
    def fork(self, waiting: int, count: int, depth: int, closes: bool) -> None:
        """Fork with records that wait; the child records, forks as well, and its books and sinks hold its own alone."""
        self.emit(waiting)
        for process, lanes, found in forked(lambda: self.live(count, depth, closes)):
            assert process not in self.processes, "two processes have one name"
            self.processes |= {process} if count or not closes else set()  # who never used its bus is not named anew
            assert found == list(range(count))
            assert lanes["good"] == [count, count, 0, 0]
            assert lanes["bad"] == [count, *((0, count) if self.fails else (count, 0)), 0]

    def live(self, count: int, depth: int, closes: bool) -> list[Any]:
        """Record so many in a child; return the books of it and of its children."""
        before = len(self.good.payload)
        for number in range(count):
            self.bus.put_metric("m", number)
        children = forked(lambda: self.live(count, depth - 1, closes)) if depth > 1 else []
        left = self.bus.close(PATIENCE) if closes else self.bus.flush_sync(PATIENCE)
        assert left, left
        mine = self.good.payload[before:]
        process = self.bus.context.process
        assert {one.context.process for one in mine} <= {process}
        stats = self.bus.stats()
        assert stats.accepted == count
        lanes = {name: (lane.accepted, lane.delivered, lane.failed, lane.pending) for name, lane in stats.lanes.items()}
        return [(process, lanes, [one.fields[0] for one in mine]), *children]

    @invariant()
    def nothing_of_the_children_is_here(self) -> None:
        """The parent's own books count its own records, in order, whatever its children did."""
        if not hasattr(self, "bus"):
            return
        self.flush()
        stats = self.bus.stats()
        assert stats.errors == 0
        assert stats.accepted == len(self.recorded)
        assert [one.fields[0] for one in self.good.payload] == self.recorded
        bad = stats.lanes["bad"]
        assert (bad.accepted, bad.delivered, bad.pending) == (len(self.recorded), len(self.bad.payload), 0)
        assert bad.balanced

    def teardown(self) -> None:
        """Close."""
        if hasattr(self, "bus"):
            assert self.bus.close(PATIENCE)


TestFamily = Family.TestCase
TestFamily.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
