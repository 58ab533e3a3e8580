"""What is kept by name, process, run or handler is bounded, and what is forgotten changes no answer."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from elastic_events import EventBus, Record
from elastic_events.bus.context import read_context
from elastic_events.bus.drain import ENDED_LANES
from elastic_events.bus.fork import _WAITING, Armed
from elastic_events.bus.ring import Pipe, Ring
from elastic_events.recorder.collector import MARKS, Collector
from elastic_events.recorder.daemon import RETIRED, Daemon
from elastic_events.recorder.directory import secure, take
from elastic_events.recorder.request import Request
from elastic_events.recorder.served import Run
from elastic_events.recorder.writer import open_rings
from elastic_events.testing import ListSink
from elastic_events.torchrun.agent import EXIT_CODES, _keep
from elastic_events.torchrun.ticks import NAMES, Ticks
from elastic_metrics import MetricHandler, configure
from elastic_metrics import api as metrics_api
from elastic_metrics.routing import KEPT

#: Names, processes or runs: far more than any bound.
MANY = 50_000


def test_emits_while_a_recorder_hangs_wait_as_a_number() -> None:
    """However long a disk hangs as a recorder opens, what is emitted beyond its ring takes no memory, and is counted."""
    ring = Ring(2 * _WAITING)
    real: list[Pipe] = []
    armed = Armed(lambda: None, lambda: real[0] if real else None)
    take, slots, _, now = armed.pipe
    for _ in range(2 * MANY):
        take()
        slots[0] = b"\x95\x00\x01\xa1m\xa1g\x02"
    assert len(armed._waiting) <= 2 * _WAITING + 1
    real.append(ring.pipe)
    slots[0] = b"\x95\x00\x01\xa1m\xa1g\x02"
    assert ring.head == 2 * MANY + 1
    assert sum(frame is not None for frame in ring.frames(0, _WAITING)) == _WAITING
    assert not armed._waiting
    assert now() > 0


def made(tmp_path: Path, *, stay: bool) -> Daemon:
    """Return a collector of a directory of its own."""
    directory = tmp_path / "recorders"
    secure(directory)
    lock = take(directory)
    assert lock is not None
    return Daemon(directory, lock, stay=stay)


def test_collector_forgets_requests_of_runs_that_are_over(tmp_path: Path) -> None:
    """It keeps the requests of the last runs for those who come late, and of no more; a run that is served stays."""
    daemon = made(tmp_path, stay=False)
    request = Request(f"jsonl:///{tmp_path}/run.jsonl", "served")
    daemon.known[request.key] = request
    for key in range(MANY):
        daemon.known[key] = request
        daemon._retire([key])
    assert len(daemon._retired) == RETIRED
    assert len(daemon.known) == RETIRED + 1
    assert request.key in daemon.known
    daemon._end()


@pytest.mark.parametrize("everyone", [False, True])
def test_collector_that_stays_lets_runs_go(everyone: bool, tmp_path: Path) -> None:
    """It ends a run whose processes are gone and whose records are delivered, unless it is to wait for all that come."""
    daemon = made(tmp_path, stay=True)
    run = daemon._runs["job"] = Run("job", daemon.directory, lambda _what, _sentence: None)
    run.add(Request(f"jsonl:///{tmp_path}/run.jsonl", "job", everyone=everyone))
    run.used = True
    started: list[Any] = []
    daemon._finish_runs(cast("Any", SimpleNamespace(start_soon=lambda *call: started.append(call))))
    assert started == ([] if everyone else [(daemon._finish, run)])
    daemon._end()


class Stuck:
    """A lane whose sink is away, as far as a collector asks."""

    def __init__(self) -> None:
        self.backlog = Backlog()
        self.unsettled_from = self.safe_from = 0

    def feed(self, records: Sequence[Record]) -> None:
        """Take them."""
        self.backlog.entered += len(records)


class Backlog:
    """With room for ever."""

    entered = 0
    records = 10**9
    spool = None

    def __len__(self) -> int:
        return 0


def test_marks_of_a_file_whose_sink_is_away_are_bounded(tmp_path: Path) -> None:
    """A collector that looks for days notes no more than so many places; when all is delivered, the file says so."""
    directory = tmp_path / "recorders"
    _events, metrics = open_rings(directory, read_context({}))
    lane = Stuck()
    collector = Collector(directory, lambda _reader: (cast("Any", [lane]), lambda _event: None), lambda _event: None)
    with EventBus(rings=(_events, metrics)) as bus:
        collector.open()
        collector.scan()
        for number in range(4 * MARKS):
            bus.put_metric("m", number)
            collector.sweep()
        (file,) = collector._files.values()
        assert len(file.marks) <= MARKS
        assert lane.backlog.entered == 4 * MARKS
        lane.unsettled_from = lane.safe_from = lane.backlog.entered // 2
        collector.commit()
        half = file.marks[0].entered[0][1]
        assert lane.unsettled_from < half <= lane.unsettled_from + 8
        lane.unsettled_from = lane.safe_from = lane.backlog.entered
        collector.commit()
        assert not file.marks
    collector.close()


def test_exit_codes_of_workers_are_bounded() -> None:
    """An agent that restarts its workers for ever remembers how the last ones ended."""
    codes: dict[int, int] = {}
    for pid in range(MANY):
        _keep(codes, pid, 1)
    _keep(codes, MANY - EXIT_CODES, 2)
    _keep(codes, MANY, 3)
    assert len(codes) == EXIT_CODES
    assert codes[MANY - EXIT_CODES] == 2
    assert MANY - EXIT_CODES + 1 not in codes


def test_names_of_ticks_are_bounded() -> None:
    """Metrics that are named like an agent's tick, after data, take no memory; each passes when it changes."""
    ticks = Ticks()
    assert all(ticks.passes(f"workers.{number}.healthy", 1, 0) for number in range(MANY))
    assert len(ticks._last) <= NAMES
    assert not ticks.passes(f"workers.{MANY - 1}.healthy", 1, 1)


class Kept(MetricHandler):
    """Keeps how many points came."""

    count = 0

    def emit(self, metric_data: Any) -> None:
        """Count."""
        self.count += 1


@pytest.mark.usefixtures("unconfigured")
def test_handlers_that_are_configured_one_after_the_other_are_let_go() -> None:
    """Each gets the points of its time; of those in force no more the last ones keep a lane."""
    handlers = [Kept() for _ in range(3 * (KEPT + ENDED_LANES))]
    with EventBus(ListSink(), interval=0.001, recorder=False, timeout=30) as bus:
        for handler in handlers:
            configure(handler)
            bus.put_metric("m", 1)
            assert bus.flush_sync(30)
        assert len(bus.lanes) <= KEPT + ENDED_LANES + 8
    assert [handler.count for handler in handlers] == [1] * len(handlers)


@pytest.mark.usefixtures("unconfigured")
def test_tables_of_handlers_are_forgotten() -> None:
    """What was in force for points that no ring has any more is forgotten; each point still goes to its own handler."""
    first, second = Kept(), Kept()
    with EventBus(capacity=64, interval=0.001, recorder=False, timeout=30) as bus:
        for number in range(300):
            configure(first)
            configure(second)  # in force for no point
            configure(first)
            bus.put_metric("m", 1)
            configure(second)
            bus.put_metric("m", 1)
            if number % 10 == 9:
                assert bus.flush_sync(30)
        (history,) = [one._history for known, one in metrics_api._routing._routes.items() if known is bus]
        assert len(history[1]) == len(history[2]) <= 64 + 2
    assert (first.count, second.count) == (300, 300)
