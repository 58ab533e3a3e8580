"""`configure` and its kin: which handler gets which point."""

import subprocess
import sys
import threading
from typing import Any

import msgspec
import pytest

import elastic_events
from elastic_events import ConfigError, EventBus
from elastic_events.bus.record import record_of
from elastic_metrics import (
    ConsoleMetricHandler,
    MetricData,
    MetricHandler,
    NullMetricHandler,
    configure,
    get_elapsed_time_ms,
    getStream,
    initialize_metrics,
    publish_metric,
    put_metric,
)
from elastic_metrics import api as metrics_api

pytestmark = pytest.mark.usefixtures("unconfigured")


class Keep(MetricHandler):
    """Keeps the points, and the threads it was called in."""

    def __init__(self) -> None:
        self.points: list[MetricData] = []
        self.threads: set[int] = set()

    def emit(self, metric_data: MetricData) -> None:
        """Keep one point."""
        self.points.append(metric_data)
        self.threads.add(threading.get_ident())

    @property
    def names(self) -> list[str]:
        """The names of the points."""
        return [point.name for point in self.points]


def test_point_goes_to_the_handler_of_its_time() -> None:
    """A point goes to the handler that was configured when it was put, though it is delivered later."""
    first, second = Keep(), Keep()
    put_metric("nobody", 0)
    configure(first)
    put_metric("one", 1)
    configure(second)
    put_metric("two", 2)
    configure(first)
    put_metric("three", 3)
    assert elastic_events.stop()
    assert (first.names, second.names) == (["one", "three"], ["two"])


def test_group_has_its_handler_or_the_default() -> None:
    """A group's handler gets its points and the default the rest; the empty group is a group."""
    default, group, empty = Keep(), Keep(), Keep()
    configure(default)
    configure(group, "g")
    configure(empty, "")
    put_metric("a", 1)
    put_metric("b", 2, "g")
    put_metric("c", 3, "")
    put_metric("d", 4, metric_group="other")
    getStream("g").add_value("e", 5)
    assert elastic_events.stop()
    assert (default.names, group.names, empty.names) == (["a", "d"], ["b", "e"], ["c"])
    assert group.points[0].group_name == "g"
    assert getStream("g").handler is group
    assert getStream("unknown").handler is default


def test_handler_runs_in_a_thread_of_its_own() -> None:
    """A slow or raising handler never runs in the thread that puts (deviation from torch)."""
    keep = Keep()
    configure(keep)
    put_metric("a", 1)
    assert elastic_events.stop()
    assert keep.threads
    assert threading.get_ident() not in keep.threads


def test_raising_handler_is_counted() -> None:
    """A handler that raises is counted, and the caller goes on."""

    class Raises(MetricHandler):
        def emit(self, metric_data: MetricData) -> None:
            raise RuntimeError("sink")

    configure(Raises())
    put_metric("a", 1)
    bus = elastic_events.current_bus()
    assert bus is not None
    assert bus.flush_sync()
    assert bus.stats().lanes["Raises"].failed == 1


def test_what_is_no_handler_is_refused_once() -> None:
    """A wrong handler is refused by `configure` and forgotten: the one of before stays, and other buses open."""
    keep = Keep()
    configure(keep)
    wrongs: list[tuple[str | None, Any]] = [(None, print), ("mine", len)]
    for group, wrong in wrongs:
        with pytest.raises(ConfigError, match="no async function"):
            configure(wrong, group)
    with EventBus() as bus:
        put_metric("m", 1)
        put_metric("n", 2, "mine")
        assert bus.flush_sync()
    assert keep.names == ["m", "n"]


def test_null_handler_starts_nothing() -> None:
    """Configuring to discard starts no thread."""
    configure(NullMetricHandler())
    assert elastic_events.current_bus() is None


async def test_configured_handler_moves_to_the_bus_opened_last() -> None:
    """A bus that opens later takes the configured handlers over."""
    keep = Keep()
    configure(keep)
    async with EventBus() as bus:
        put_metric("a", 1)
        await bus.settled()
        assert keep.names == ["a"]


def test_bus_beneath_routes_again() -> None:
    """A bus that is current again when a later one closes gives each point to one handler."""
    first, second = Keep(), Keep()
    configure(first)
    with EventBus():
        put_metric("inner", 1)
    put_metric("one", 2)
    configure(second)
    put_metric("two", 3)
    assert elastic_events.stop()
    assert sorted(first.names) == ["inner", "one"]
    assert second.names == ["two"]


def test_configure_reaches_the_bus_beneath() -> None:
    """A handler that is replaced while a later bus is current is replaced on the earlier one as well."""
    first, second = Keep(), Keep()
    configure(first)
    with EventBus():
        configure(second)
    put_metric("one", 1)
    assert elastic_events.stop()
    assert (first.names, second.names) == ([], ["one"])


def test_fork_keeps_the_handlers_of_now() -> None:
    """A forked child's points, whose sequence begins again, go to the handlers in force at the fork (F2)."""
    program = """
import os
from elastic_events import current_bus
from elastic_metrics import MetricHandler, configure, put_metric

class Print(MetricHandler):
    def __init__(self, name):
        self.name = name

    def emit(self, data):
        os.write(1, f"{self.name} {data.name}\\n".encode())

configure(Print("old"))
for number in range(5):
    put_metric("before", number)
configure(Print("new"))
current_bus().flush_sync()
child = os.fork()
if not child:
    put_metric("child", 1)
    current_bus().flush_sync()
    configure(Print("own"))
    put_metric("child", 2)
    current_bus().close()
    os._exit(0)
os.waitpid(child, 0)
put_metric("parent", 1)
"""
    # From 3.12 on Python warns of every fork beside a thread; that is what this test is about.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [*["old before"] * 5, "new child", "own child", "new parent"]


def test_records_of_other_processes_go_to_the_handlers_of_now() -> None:
    """A record that was collected from another process, whose sequence is its own, has the handler of now."""
    first, second = Keep(), Keep()
    configure(first)
    for number in range(3):
        put_metric("own", number)
    configure(second)
    bus = elastic_events.current_bus()
    assert bus is not None

    fed = threading.Event()

    async def source() -> None:
        context = msgspec.structs.replace(bus.context, process="another")
        bus._feed([record_of("metric", 0, 1, 1, "theirs", "torchelastic", (1,), context)])
        fed.set()

    bus._drain.start(source)
    assert fed.wait(10)
    assert elastic_events.stop()
    assert (first.names, second.names) == (["own"] * 3, ["theirs"])


def test_console_prints_as_torch_does(capsys: pytest.CaptureFixture[str]) -> None:
    """The console handler prints `[timestamp][group]: name=value`."""
    ConsoleMetricHandler().emit(MetricData(1.5, "g", "n", 2))
    assert capsys.readouterr().out == "[1.5][g]: n=2\n"


def test_the_rest_of_torchs_names() -> None:
    """`publish_metric` warns and publishes; the others do what torch's do."""
    keep = Keep()
    configure(keep, "g")
    with pytest.warns(FutureWarning, match="put_metric"):
        publish_metric("g", "n", 1)
    assert elastic_events.stop()
    assert keep.names == ["n"]
    initialize_metrics()
    assert metrics_api.MetricsConfig().params == {}
    assert get_elapsed_time_ms(0) > 1_600_000_000_000
