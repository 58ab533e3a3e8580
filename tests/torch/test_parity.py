"""The same calls against torch and against us: results, output and exceptions agree, but for the listed deviations."""

import dataclasses
import io
import json
import logging
import os
import pickle
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any

import pytest

if os.environ.get("ELASTIC_TORCH") != "1":
    pytest.importorskip("torch", reason="the torch tests run in an environment of their own, which has it")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.distributed.elastic.events as torch_events
    import torch.distributed.elastic.events.api as torch_events_api
    import torch.distributed.elastic.metrics as torch_metrics
    import torch.distributed.elastic.metrics.api as torch_metrics_api

import elastic_events
import elastic_events.api as our_events_api
import elastic_metrics
import elastic_metrics.api as our_metrics_api
from elastic_events.testing import capture

THEIRS = SimpleNamespace(
    events=torch_events, api=torch_events_api, metrics=torch_metrics, metrics_api=torch_metrics_api
)
OURS = SimpleNamespace(events=elastic_events, api=our_events_api, metrics=elastic_metrics, metrics_api=our_metrics_api)


def outcome(call: Callable[[Any], Any], world: Any) -> Any:
    """Return what `call` gives or raises, without the names of modules."""
    try:
        result = call(world)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is compared
        return "raises", type(error).__name__
    return "returns", result if isinstance(result, (str, int, float, bool, list, dict, tuple, type(None))) else repr(
        result
    )


def event(world: Any, **metadata: Any) -> Any:
    """Make an event in one of the two worlds."""
    return world.events.Event("n", world.events.EventSource.WORKER, 5, metadata)


SAME: dict[str, Callable[[Any], Any]] = {
    "event repr": lambda w: repr(event(w, a=1)),
    "event str": lambda w: str(event(w, a=1)),
    "default fields": lambda w: dataclasses.astuple(w.events.Event("n", w.events.EventSource.AGENT)),
    "serialize nested": lambda w: event(w, t=(1, 2), d={"x": [None, True]}, f=1.5).serialize(),
    "serialize nan": lambda w: event(w, f=float("nan"), i=float("inf")).serialize(),
    "serialize odd keys": lambda w: w.events.Event(
        "n", w.events.EventSource.AGENT, 0, {1: "a", None: "b", 1.5: "c"}
    ).serialize(),
    "serialize surrogate": lambda w: event(w, s="\ud800").serialize(),
    "serialize none metadata": lambda w: w.events.Event("n", w.events.EventSource.AGENT, 0, None).serialize(),
    "serialize bytes": lambda w: event(w, b=b"x").serialize(),
    "serialize set": lambda w: event(w, s={1}).serialize(),
    "serialize tuple key": lambda w: w.events.Event("n", w.events.EventSource.AGENT, 0, {(1,): 1}).serialize(),
    "equal across source": lambda w: w.events.Event("x", "AGENT") == w.events.Event("x", w.events.EventSource.AGENT),
    "unequal": lambda w: event(w, a=1) == event(w, a=2),
    "unhashable": lambda w: hash(event(w)),
    "no order": lambda w: event(w) < event(w),
    "no name": lambda w: w.events.Event(),
    "replace": lambda w: repr(dataclasses.replace(event(w), name="m")),
    "pickle": lambda w: pickle.loads(pickle.dumps(event(w, a=1))) == event(w, a=1),
    "round trip": lambda w: w.events.Event.deserialize(event(w, a=1).serialize()) == event(w, a=1),
    "deserialize itself": lambda w: repr(w.events.Event.deserialize(event(w))),
    "deserialize short": lambda w: repr(w.events.Event.deserialize('{"name": "a", "source": "AGENT"}')),
    "deserialize unknown key": lambda w: w.events.Event.deserialize('{"name": "a", "source": "AGENT", "z": 1}'),
    "deserialize no name": lambda w: w.events.Event.deserialize('{"source": "AGENT"}'),
    "deserialize no source": lambda w: w.events.Event.deserialize('{"name": "a"}'),
    "deserialize unknown source": lambda w: w.events.Event.deserialize('{"name": "a", "source": "X"}'),
    "deserialize no json": lambda w: w.events.Event.deserialize("{"),
    "deserialize list": lambda w: w.events.Event.deserialize("[1]"),
    "source members": lambda w: [(m.name, m.value, str(m), isinstance(m, str)) for m in w.events.EventSource],
    "state members": lambda w: [(m.name, m.value, str(m)) for m in w.events.NodeState],
    "rdzv repr": lambda w: repr(w.events.RdzvEvent("n", "r", "m", "h", 1, w.events.NodeState.INIT)),
    "rdzv serialize": lambda w: w.events.RdzvEvent(
        "n", "r", "m", "h", 1, w.events.NodeState.FAILED, "e", 2, 3, "t"
    ).serialize(),
    "rdzv round trip": lambda w: repr(
        w.events.RdzvEvent.deserialize(w.events.RdzvEvent("n", "r", "m", "h", 1, w.events.NodeState.INIT).serialize())
    ),
    "rdzv unknown state": lambda w: w.events.RdzvEvent.deserialize('{"name": "a", "node_state": "X"}'),
    "rdzv too few": lambda w: w.events.RdzvEvent("n"),
    "record returns": lambda w: w.events.record(event(w)),
    "record rdzv returns": lambda w: w.events.record_rdzv_event(
        w.events.RdzvEvent("n", "r", "m", "h", 1, w.events.NodeState.INIT)
    ),
    "handler of null": lambda w: isinstance(w.events.get_logging_handler(), logging.NullHandler),
    "handler of console": lambda w: isinstance(w.events.get_logging_handler("console"), logging.StreamHandler),
    "handler of rendezvous": lambda w: isinstance(
        w.events.get_logging_handler("dynamic_rendezvous"), logging.NullHandler
    ),
    "handler of unknown": lambda w: w.events.get_logging_handler("nowhere"),
    "metric data": lambda w: tuple(w.metrics.MetricData(1.0, "g", "n", 2)),
    "metric data repr": lambda w: repr(w.metrics.MetricData(1.0, "g", "n", 2)),
    "config": lambda w: w.metrics.MetricsConfig().params,
    "config params": lambda w: w.metrics.MetricsConfig({"a": "b"}).params,
    "abstract": lambda w: w.metrics.MetricHandler(),
    "null emit": lambda w: w.metrics.NullMetricHandler().emit(w.metrics.MetricData(1.0, "g", "n", 2)),
    "initialize": lambda w: w.metrics.initialize_metrics(),
    "elapsed": lambda w: type(w.metrics.get_elapsed_time_ms(0)).__name__,
    "elapsed future": lambda w: w.metrics.get_elapsed_time_ms(1e12) < 0,
    "stream group": lambda w: w.metrics.getStream("g").group_name,
    "stream is new": lambda w: w.metrics.getStream("g") is w.metrics.getStream("g"),
    "stream default handler": lambda w: type(w.metrics.getStream("g").handler).__name__,
    "put returns": lambda w: w.metrics.put_metric("a", 1, "g"),
    "add value": lambda w: w.metrics.getStream("g").add_value("a", 1),
}


@pytest.mark.parametrize("name", SAME)
def test_same_call_same_outcome(name: str) -> None:
    """The call returns or raises with us what it does with torch."""
    assert outcome(SAME[name], OURS) == outcome(SAME[name], THEIRS)


@pytest.mark.parametrize("which", ["events", "api", "metrics", "metrics_api"])
def test_every_public_name_is_there(which: str) -> None:
    """Every public name of torch's module exists here."""
    theirs = getattr(THEIRS, which)
    names = (
        set(getattr(theirs, "__all__", ())) | {"EventMetadataValue"}
        if which == "api"
        else {
            name
            for name, value in vars(theirs).items()
            if not name.startswith("_") and getattr(value, "__module__", "").startswith("torch.distributed.elastic")
        }
    )
    assert names
    assert [name for name in sorted(names) if not hasattr(getattr(OURS, which), name)] == []


def test_console_handler_prints_the_same() -> None:
    """The console metric handler writes the same line."""
    lines = []
    for world in (OURS, THEIRS):
        with redirect_stdout(io.StringIO()) as out:
            world.metrics.ConsoleMetricHandler().emit(world.metrics.MetricData(1.5, "g", "n", 2))
        lines.append(out.getvalue())
    assert lines[0] == lines[1]


def profiled(world: Any) -> list[tuple[str, str, Any]]:
    """Run decorated functions with a stream of its own in place; return what was emitted, without durations."""
    points: list[tuple[str, str, Any]] = []

    class Keep(world.metrics.MetricHandler):  # type: ignore[misc]
        def emit(self, data: Any) -> None:
            points.append((data.group_name, data.name, None if data.name.endswith("ms") else data.value))

    before = world.metrics_api.getStream
    world.metrics_api.getStream = lambda group: world.metrics_api.MetricStream(group, Keep())
    try:

        @world.metrics.prof
        def bare() -> int:
            return 1

        class Agent:
            @world.metrics.prof(group="g")
            def run(self) -> None:
                raise ValueError

        @world.metrics.prof()
        def leave() -> None:
            raise SystemExit

        bare()
        for call, error in ((Agent().run, ValueError), (leave, SystemExit)):
            with pytest.raises(error):
                call()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert world.metrics.profile("p")(bare.__wrapped__)() == 1
            world.metrics.publish_metric("p", "n", 3)
    finally:
        world.metrics_api.getStream = before
    return points


def test_prof_emits_the_same_points() -> None:
    """`prof`, `profile` and `publish_metric` emit the same points, with `getStream` replaced as torch's tests do."""
    ours, theirs = profiled(OURS), profiled(THEIRS)
    assert len(ours) == 8
    assert ours == theirs


def test_loggers_of_destinations(monkeypatch: pytest.MonkeyPatch) -> None:
    """`_get_or_create_logger` gives a logger with exactly the handler that `get_logging_handler` names, as torch's tests want."""
    for number, world in enumerate((OURS, THEIRS)):
        handler = logging.NullHandler()
        monkeypatch.setattr(world.events, "get_logging_handler", lambda _destination="null", handler=handler: handler)
        logger = world.events._get_or_create_logger(f"test{number}")
        assert [one for one in logger.handlers if not type(one).__module__.startswith("_pytest")] == [handler]
        assert logger.name == f"torchelastic-events-test{number}"
        assert logger.propagate is False


@pytest.mark.parametrize(("handler", "calls"), [(logging.NullHandler(), 0), (logging.StreamHandler(io.StringIO()), 1)])
def test_gate_of_rendezvous_events(monkeypatch: pytest.MonkeyPatch, handler: logging.Handler, calls: int) -> None:
    """With the destination's handler patched on the package, as torch's tests do, the event is made or not made alike."""
    for world in (OURS, THEIRS):
        recorded: list[Any] = []
        monkeypatch.setattr(world.events, "get_logging_handler", lambda _destination="null": handler)
        monkeypatch.setattr(world.events, "record_rdzv_event", recorded.append)
        world.events.construct_and_record_rdzv_event("run", "message", world.events.NodeState.RUNNING)
        assert len(recorded) == calls
        for one in recorded:
            assert (one.run_id, one.message, one.node_state, one.rank) == ("run", "message", "RUNNING", None)
            assert one.name == "test_parity.py:test_gate_of_rendezvous_events"
            assert one.pid == os.getpid()


def test_torchs_own_objects_are_recorded() -> None:
    """torch's `Event`, `RdzvEvent` and tensors are accepted: a CPU scalar gives its value."""
    import torch

    with capture() as seen:
        elastic_events.record(torch_events.Event("t", torch_events.EventSource.AGENT, 0, {"a": torch.tensor(3)}))
        elastic_events.record_rdzv_event(torch_events.RdzvEvent("n", "r", "m", "h", 1, torch_events.NodeState.INIT))
        elastic_metrics.put_metric("loss", torch.tensor(0.5, requires_grad=True))
        elastic_metrics.put_metric("vector", torch.zeros(3))
        assert seen.events[0].metadata == {"a": 3}
        assert seen.events[1].message == "m"
        assert [point.value for point in seen.metrics] == [0.5, "<tensor float32 [3]>"]
        # A tensor without a device to wait for stands for one that has: nothing asks it for its value.
        elastic_metrics.put_metric("remote", torch.empty((), device="meta"))
        assert "not waited for" in seen.metrics[-1].value


def test_deviations_are_as_listed() -> None:
    """Where the README says that we differ, torch does what it says, and we do the other."""
    bad = {"b": b"x"}
    assert outcome(lambda w: w.events.record(event(w, **bad)), THEIRS) == ("raises", "TypeError")
    assert outcome(lambda w: w.events.record(event(w, **bad)), OURS) == ("returns", None)
    assert outcome(lambda w: w.events.record(event(w), "nowhere"), THEIRS) == ("raises", "KeyError")
    assert outcome(lambda w: w.events.record(event(w), "nowhere"), OURS) == ("returns", None)
    assert outcome(lambda w: w.events.get_logging_handler("console").info(event(w)), THEIRS) == (
        "raises",
        "AttributeError",
    )
    for wrong in ({}, b"{}", None):
        assert outcome(lambda w, wrong=wrong: w.events.Event.deserialize(wrong), THEIRS)[1] == "UnboundLocalError"
        assert outcome(lambda w, wrong=wrong: w.events.Event.deserialize(wrong), OURS)[1] == "TypeError"
    with capture() as seen:
        elastic_events.record(elastic_events.Event("n", elastic_events.EventSource.AGENT))
        assert seen[0].event.timestamp > 0
    assert json.loads(torch_events.Event("n", torch_events.EventSource.AGENT).serialize())["timestamp"] == 0
