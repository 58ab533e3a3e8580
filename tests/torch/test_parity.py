"""The same calls against torch and against us: results, output and exceptions agree; test_deviations.py has the rest."""

import dataclasses
import inspect
import io
import logging
import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, get_args

import pytest

import elastic_events
import elastic_metrics
from elastic_events.testing import capture
from tests.torch.worlds import OURS, THEIRS, event, outcome, points_of, rdzv, torch_events


def fields_of(cls: type) -> list[tuple[str, Any]]:
    """Return the names and defaults of a dataclass's fields."""
    missing = dataclasses.MISSING
    return [
        (field.name, "-" if field.default is missing else field.default, field.default_factory is missing)
        for field in dataclasses.fields(cls)
    ]


def warned(call: Callable[[], Any]) -> list[str]:
    """Return the categories of what `call` warns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [one.category.__name__ for one in caught]


def configured(world: Any) -> list[str]:
    """Configure handlers in every way, and return which one each group's stream has; leave no trace."""

    class Mine(world.metrics.MetricHandler):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.name = name

        def emit(self, data: Any) -> None:
            """Discard."""

    api = world.metrics_api
    before, default = dict(api._metrics_map), api._default_metrics_handler
    try:
        configure = world.metrics.configure
        configure(Mine("first"))
        configure(Mine("default"))
        configure(Mine("g"), "g")
        configure(Mine("g again"), "g")
        configure(Mine("empty"), group="")
        return [world.metrics.getStream(group).handler.name for group in ("g", "", "other", None)]
    finally:
        elastic_events.stop()
        api._metrics_map.clear()
        api._metrics_map.update(before)
        api._default_metrics_handler = default


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
    "serialize huge int": lambda w: event(w, n=10**30).serialize(),
    "serialize object": lambda w: event(w, o=object()).serialize(),
    "serialize enum": lambda w: event(w, e=w.events.EventSource.AGENT).serialize(),
    "serialize dataclass": lambda w: event(w, d=rdzv(w)).serialize(),
    "serialize cycle": lambda w: (cycle := {}, cycle.update(me=cycle), event(w, c=cycle).serialize()),
    "serialize no strings": lambda w: w.events.Event(1, 2, "3", [4]).serialize(),
    "change after": lambda w: (made := event(w), setattr(made, "name", "m"), made.name)[2],
    "event fields": lambda w: fields_of(w.events.Event),
    "rdzv fields": lambda w: fields_of(w.events.RdzvEvent),
    "metadata type": lambda w: [one.__name__ for one in get_args(w.api.EventMetadataValue)],
    "event is no rdzv": lambda w: event(w) == rdzv(w),
    "unhashable rdzv": lambda w: hash(rdzv(w)),
    "rdzv pickle": lambda w: pickle.loads(pickle.dumps(rdzv(w))) == rdzv(w),
    "rdzv str": lambda w: str(rdzv(w, error_trace="\n\u2028")),
    "rdzv itself": lambda w: (made := rdzv(w)) is w.events.RdzvEvent.deserialize(made),
    "rdzv unknown key": lambda w: w.events.RdzvEvent.deserialize('{"node_state": "INIT", "z": 1}'),
    "rdzv no state": lambda w: w.events.RdzvEvent.deserialize("{}"),
    "deserialize text": lambda w: w.events.Event.deserialize('"text"'),
    "deserialize number": lambda w: w.events.Event.deserialize("3"),
    "deserialize null": lambda w: w.events.Event.deserialize("null"),
    "deserialize null source": lambda w: w.events.Event.deserialize('{"name": "a", "source": null}'),
    "deserialize list source": lambda w: w.events.Event.deserialize('{"name": "a", "source": []}'),
    "deserialize value unchecked": lambda w: repr(w.events.Event.deserialize('{"name": 1, "source": "AGENT"}')),
    "deserialize nan": lambda w: repr(w.events.Event.deserialize('{"name": NaN, "source": "AGENT"}')),
    "deserialize empty": lambda w: w.events.Event.deserialize(""),
    "source by value": lambda w: w.events.EventSource("AGENT").name,
    "source unknown": lambda w: w.events.EventSource("X"),
    "state unknown": lambda w: w.events.NodeState["X"],
    "handler of none": lambda w: w.events.get_logging_handler(None),
    "handler is the same": lambda w: w.events.get_logging_handler("null") is w.handlers._log_handlers["null"],
    "destinations": lambda w: sorted(w.handlers._log_handlers),
    "own destination": lambda w: (
        w.handlers._log_handlers.update(mine="mine"),
        w.events.get_logging_handler("mine"),
        w.handlers._log_handlers.pop("mine"),
    )[1],
    "handler is the same everywhere": lambda w: w.events.get_logging_handler is w.handlers.get_logging_handler,
    "record keyword": lambda w: w.events.record(event=event(w), destination="null"),
    "record nothing": lambda w: w.events.record(),
    "construct returns": lambda w: w.events.construct_and_record_rdzv_event("r", "m", w.events.NodeState.INIT),
    "construct too few": lambda w: w.events.construct_and_record_rdzv_event("r", "m"),
    "put keywords": lambda w: w.metrics.put_metric(metric_name="a", metric_value=1, metric_group="g"),
    "put too few": lambda w: w.metrics.put_metric("a"),
    "put anything": lambda w: [w.metrics.put_metric("a", value) for value in (None, "x", [1], float("nan"))],
    "stream of none": lambda w: w.metrics.getStream(None).group_name,
    "stream is a MetricStream": lambda w: isinstance(w.metrics.getStream("g"), w.metrics_api.MetricStream),
    "stream of a handler": lambda w: w.metrics_api.MetricStream("g", w.metrics.NullMetricHandler()).add_value("a", 1),
    "stream raises": lambda w: w.metrics_api.MetricStream("g", None).add_value("a", 1),
    "configured": configured,
    "metric fields": lambda w: w.metrics.MetricData._fields,
    "metric data too few": lambda w: w.metrics.MetricData(1.0),
    "config keeps": lambda w: (given := {"a": "b"}) is w.metrics.MetricsConfig(given).params,
    "config slots": lambda w: setattr(w.metrics.MetricsConfig(), "other", 1),
    "initialize with": lambda w: w.metrics.initialize_metrics(w.metrics.MetricsConfig()),
    "half a handler": lambda w: type("Half", (w.metrics.MetricHandler,), {})(),
    "publish warns": lambda w: warned(lambda: w.metrics.publish_metric("g", "n", 1)),
    "profile warns": lambda w: warned(lambda: w.metrics.profile("g")),
    "prof does not": lambda w: warned(lambda: w.metrics.prof(int)),
    "prof keeps the name": lambda w: w.metrics.prof(warned).__name__,
    "prof of a partial's function": lambda w: w.metrics_api._get_metric_name(os.path.join),
    "name of a method": lambda w: w.metrics_api._get_metric_name(io.StringIO.getvalue),
    "add value": lambda w: w.metrics.getStream("g").add_value("a", 1),
}


@pytest.mark.parametrize("name", SAME)
def test_same_call_same_outcome(name: str) -> None:
    """The call returns or raises with us what it does with torch."""
    assert outcome(SAME[name], OURS) == outcome(SAME[name], THEIRS)


PUBLIC = ["events.record", "events.record_rdzv_event", "events.construct_and_record_rdzv_event"]
PUBLIC += ["events.get_logging_handler", "events.Event", "events.RdzvEvent", "events._get_or_create_logger"]
PUBLIC += ["events.Event.serialize", "metrics_api.MetricStream", "metrics_api.MetricStream.add_value"]
PUBLIC += [f"metrics.{name}" for name in ("configure", "getStream", "prof", "profile", "put_metric", "publish_metric")]
PUBLIC += [f"metrics.{name}" for name in ("get_elapsed_time_ms", "initialize_metrics", "MetricsConfig", "MetricData")]
PUBLIC += [f"metrics.{name}.emit" for name in ("MetricHandler", "ConsoleMetricHandler", "NullMetricHandler")]


@pytest.mark.parametrize("path", PUBLIC)
def test_parameters_are_the_same(path: str) -> None:
    """Every public callable takes the same parameters, by the same names and with the same defaults."""

    def parameters(world: Any) -> list[tuple[str, str, str]]:
        found = world
        for name in path.split("."):
            found = getattr(found, name)
        return [(p.name, p.kind.name, str(p.default)) for p in inspect.signature(found).parameters.values()]

    assert parameters(OURS) == parameters(THEIRS)


@pytest.mark.parametrize("which", ["events", "api", "handlers", "metrics", "metrics_api"])
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


def profiled(world: Any) -> None:
    """Run decorated functions in every form and with every end."""
    metrics = world.metrics

    @metrics.prof
    def bare(*args: int, **kwargs: int) -> int:
        return sum(args) + sum(kwargs.values())

    class Agent:
        @metrics.prof(group="g")
        def run(self) -> None:
            raise ValueError

        @classmethod
        @metrics.prof
        def of_class(cls) -> str:
            return cls.__name__

        @staticmethod
        @metrics.prof(group="")
        def of_none() -> None:
            """Return nothing."""

    class Child(Agent):
        """Inherits."""

    @metrics.prof()
    def leave(error: BaseException) -> None:
        raise error

    assert bare(1, 2, x=3) == 6
    assert (Child.of_class(), Agent.of_none()) == ("Child", None)
    for call, error in (
        (Child().run, ValueError),
        (lambda: leave(SystemExit()), SystemExit),
        (lambda: leave(KeyboardInterrupt()), KeyboardInterrupt),
        (lambda: leave(StopIteration()), StopIteration),
        (lambda: leave(TimeoutError()), TimeoutError),
    ):
        with pytest.raises(error):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metrics.profile("p")(bare.__wrapped__)(1) == 1
        assert metrics.profile()(bare.__wrapped__)(1) == 1
        with pytest.raises(SystemExit):
            metrics.profile("p")(leave.__wrapped__)(SystemExit())
        metrics.publish_metric("p", "n", 3)


def test_prof_emits_the_same_points() -> None:
    """`prof`, `profile` and `publish_metric` emit the same points, with `getStream` replaced as torch's tests do."""
    ours, theirs = points_of(OURS, profiled), points_of(THEIRS, profiled)
    assert len(ours) == 20
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


def made_by(world: Any, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> Any:
    """Return the event that `construct_and_record_rdzv_event` makes while an exception is active."""
    recorded: list[Any] = []
    monkeypatch.setattr(world.events, "get_logging_handler", lambda _destination="null": logging.StreamHandler())
    monkeypatch.setattr(world.events, "record_rdzv_event", recorded.append)
    state = getattr(world.events.NodeState, arguments.pop("state"))
    world.events.construct_and_record_rdzv_event("run", "message", state, **arguments)
    return recorded[0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"state": "RUNNING", "hostname": "h"},
        {"state": "FAILED", "hostname": "h", "name": "given", "pid": 3, "rank": 1, "local_id": 2},
        {"state": "SUCCEEDED", "hostname": "h", "pid": 0, "rank": 0, "local_id": 0, "master_endpoint": "e"},
    ],
)
@pytest.mark.parametrize("failing", [True, False])
def test_constructed_event_is_the_same(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], failing: bool
) -> None:
    """The event that is made has the same caller, process, fields and trace, with and without an active exception."""
    made = []
    for world in (OURS, THEIRS):
        try:
            if failing:
                raise ValueError("active")
            made.append(made_by(world, monkeypatch, **arguments))
        except ValueError:
            active = traceback.format_exc()
            made.append(made_by(world, monkeypatch, **arguments))
            assert made[-1].error_trace == (active if arguments["state"] == "FAILED" else "")
    assert made[0].serialize() == made[1].serialize()


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
