"""Nothing leaves `record()` and `put_metric()`, whatever the object, the environment or the moment."""

import asyncio
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_events import Event, EventBus, EventSource, record, record_rdzv_event
from elastic_events.testing import ListSink, capture
from elastic_metrics import put_metric

#: What a method of a hostile object does.
DEEDS: dict[str, Callable[..., Any]] = {
    "exception": lambda *_: exec("raise RuntimeError('touched')"),
    "base": lambda *_: exec("raise BaseException('touched')"),
    "exit": lambda *_: exec("raise SystemExit(3)"),
    "interrupt": lambda *_: exec("raise KeyboardInterrupt"),
    "closed": lambda *_: exec("raise GeneratorExit"),
    "cancelled": lambda *_: exec("import asyncio; raise asyncio.CancelledError"),
    "stop": lambda *_: exec("raise StopIteration"),
    "itself": lambda self, *_: self,
    "nothing": lambda *_: None,
    "text": lambda *_: "text",
    "number": lambda *_: 7,
    "waits": lambda *_: threading.Event().wait(0.0005),
}


def recurse(self: Any, *_: Any) -> Any:
    """Never come back."""
    return again(self)


def again(thing: Any) -> Any:
    """Call itself; without `*_`, since Python 3.13.0 counts no such calls and never says that they are too deep."""
    return again(thing)


def change(self: Any, *_: Any) -> Any:
    """Change itself while it is looked at."""
    type(self).changed = getattr(type(self), "changed", 0) + 1
    if isinstance(self, dict):
        dict.__setitem__(self, type(self).changed, 1)
    if isinstance(self, list):
        list.append(self, 1)
    return type(self).changed


DEEDS |= {"recurses": recurse, "changes": change}
SPECIAL = ["str", "repr", "eq", "ne", "hash", "float", "int", "index", "len", "iter", "bool", "getitem", "contains"]
SPECIAL += [
    "format",
    "getattr",
    "getattribute",
    "del",
    "reduce",
    "array",
    "fspath",
    "bytes",
    "lt",
    "call",
    "instancecheck",
]
METHODS = [f"__{name}__" for name in SPECIAL] + ["keys", "values", "items", "serialize", "isoformat", "encode", "item"]
FIELDS = [
    "name",
    "source",
    "timestamp",
    "metadata",
    "node_state",
    "run_id",
    "dtype",
    "shape",
    "device",
    "args",
    "value",
]
BASES: list[type] = [object, dict, list, tuple, set, str, int, float, bytes, Exception, Event]


@st.composite
def hostile(draw: st.DrawFn) -> Any:
    """Make an object of a class of its own, some of whose methods and properties do something bad."""
    base = draw(st.sampled_from(BASES))
    methods = draw(st.dictionaries(st.sampled_from(METHODS), st.sampled_from(list(DEEDS)), max_size=6))
    fields = draw(st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(list(DEEDS)), max_size=6))
    body: dict[str, Any] = {name: DEEDS[deed] for name, deed in methods.items()}
    body |= {name: property(DEEDS[deed]) for name, deed in fields.items()}
    body |= {name: value for name, value in Event("e", EventSource.WORKER).__dict__.items() if name not in body}
    kind = type("Hostile", (base,), {**body, "__new__": base.__new__, "__init__": lambda *_, **__: None})
    made = base.__new__(kind)
    if base is dict:
        dict.__setitem__(made, "a", 1)
    if base is list:
        list.append(made, 1)
    return made


def in_some_place(data: st.DataObject, thing: Any) -> Any:
    """Put `thing` where a caller may put it."""
    return [thing, [thing], {"k": thing}, {"k": [thing, {"x": thing}]}, (thing, 1)][data.draw(st.integers(0, 4))]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of what the objects themselves do
@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_object_makes_an_emit_raise(data: st.DataObject) -> None:
    """Objects whose methods and properties raise, recurse, wait and change leave a record each and no exception."""
    thing = data.draw(hostile())
    event = Event("e", EventSource.WORKER, metadata={"v": in_some_place(data, thing)})
    setattr(event, data.draw(st.sampled_from(["name", "source", "timestamp", "metadata", "other"])), thing)
    as_metric: list[Any] = ["m", 1.0, "g"]
    as_metric[data.draw(st.integers(0, 2))] = in_some_place(data, thing)
    with capture(redact=data.draw(st.sampled_from([None, "token"]))) as seen:
        record(event, thing if data.draw(st.booleans()) else "null")
        record(thing)
        record_rdzv_event(thing)
        put_metric(*as_metric)
        assert len(seen) == 4
        assert all(not cursor.lost for tap in seen._taps for cursor in tap._cursors)
    record(thing, thing)  # where no bus is open


class Endless(Event):
    """Holds itself twice, so that an encoder that goes into it never comes back."""

    name = property(DEEDS["itself"])  # type: ignore[assignment]
    metadata = property(DEEDS["itself"])

    def __init__(self) -> None:
        """Have no fields of its own."""


@pytest.mark.parametrize("place", ["metric", "group", "name", "source", "timestamp", "destination", "value"])
def test_what_stands_for_a_text_has_an_end_and_no_secret(place: str) -> None:
    """An object where a name, a source, a time or a destination belongs is cut and redacted as one in the metadata is."""
    for thing in (Endless(), {"token": "abcdefgh"}):
        with capture() as seen:
            if place in ("metric", "group"):
                put_metric(*(thing, 1.0, "g") if place == "metric" else ("m", 1.0, thing))
            else:
                fields: dict[str, Any] = {"name": "e", "source": EventSource.WORKER, "timestamp": 0} | {place: thing}
                event = Event(fields["name"], fields["source"], fields["timestamp"], {"v": fields.get("value")})
                record(event, fields.get("destination", "null"))
            assert len(seen) == 1
            assert "abcdefgh" not in str(seen[0])


@pytest.mark.parametrize("deed", DEEDS)
def test_property_of_an_event(deed: str) -> None:
    """An event whose own `metadata` misbehaves is one record that says so, and the next one is recorded."""
    thing = type("Odd", (), {"metadata": property(DEEDS[deed]), "name": "odd", "source": "AGENT", "timestamp": 0})()
    with capture() as seen:
        record(thing)
        record(Event("next", EventSource.WORKER))
        assert len(seen) == 2
        assert seen[1].name == "next"


class _Meta(type):
    """A class of classes that will not say their name."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit


class _Nameless(Exception, metaclass=_Meta):
    """One of them."""


@pytest.mark.parametrize("kind", [_Nameless, type("N" * 1_000_000, (Exception,), {})], ids=["none", "long"])
def test_name_of_a_class_costs_no_record_and_no_memory(kind: type[Exception]) -> None:
    """A class whose name is asked of nobody, or is too long, gives a short name to what is recorded of it."""

    class Refusing:
        """An event that raises."""

        @property
        def name(self) -> str:
            raise kind

    with capture() as seen:
        record(Refusing())
        record(kind())
        put_metric("value", kind())
        assert len(seen) == 3
        assert max(one.size for one in seen) < 1000


class _Bytes(bytes):
    def __getitem__(self, key: Any) -> Any:
        raise SystemExit


class _Path(PurePosixPath):
    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (_Bytes(b"abc"), "abc"),
        (bytearray(b"abc"), "abc"),
        (_Path("/abc"), "/abc"),
        (memoryview(b"abcd").cast("B", (2, 2)), "abcd"),
        (memoryview(bytes(200_000)).cast("B", (2, 100_000)), "<builtins.memoryview>"),
        (memoryview(b""), ""),
    ],
)
def test_bytes_and_paths_are_read_by_the_builtin_s_own_methods(value: Any, text: str) -> None:
    """What a subclass of bytes or of a path does is not run, and of a view of a large array a few rows are copied, or none."""
    with capture() as seen:
        record(Event("e", EventSource.WORKER, metadata={"value": value}))
        assert seen[0].metadata == {"value": text}


def test_view_of_many_long_rows_is_not_copied() -> None:
    """Of a view of 64 MB in rows a frame's worth is copied, not as many rows as a frame has bytes."""
    view = memoryview(bytearray(64 << 20)).cast("B", (32_768, 2048))
    with capture() as seen:
        tracemalloc.start()
        try:
            record(Event("e", EventSource.WORKER, metadata={"value": view}))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert seen[0].size <= 16_384
    assert peak < 8 << 20


def test_endless_metadata_is_not_walked() -> None:
    """What is no dict is not iterated: it may have no end."""

    class Endless:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> int:
            raise AssertionError("iterated")

        keys = values = items = __iter__

    with capture() as seen:
        record(Event("e", EventSource.WORKER, metadata=Endless()))  # type: ignore[arg-type]
        assert "Endless" in seen[0].fields[2]


@pytest.mark.parametrize("depth", range(12))
def test_emit_where_the_stack_is_full(depth: int) -> None:
    """Near the limit of recursion the caller's own error is the only one: an emit that has no room is lost, not raised."""

    def down(left: int) -> None:
        if left:
            down(left - 1)
        else:
            record(Event("e", EventSource.WORKER, metadata={"new key": [{"a": object()}]}))

    with capture() as seen:
        room = sys.getrecursionlimit() - len(__import__("inspect").stack()) - 8 - depth
        raised = None
        try:
            down(room)
        except RecursionError as error:
            raised = error.__traceback__
            while raised.tb_next is not None:  # type: ignore[union-attr]
                raised = raised.tb_next  # type: ignore[union-attr]
        assert raised is None or raised.tb_frame.f_code.co_name == "down"
        assert len(seen) <= 1


class Alarm(Exception):
    """What the handler of a signal raises."""


@pytest.mark.parametrize("how", ["exception", "exit", "ctrl-c"])
def test_what_a_signal_handler_raises_reaches_the_caller(how: str) -> None:
    """A handler that strikes in the middle of an emit ends the caller's work, as it was meant to."""
    expected = {"exception": Alarm, "exit": SystemExit, "ctrl-c": KeyboardInterrupt}[how]

    def handler(*_: object) -> None:
        raise expected

    class Struck:
        name, source, timestamp = "e", "WORKER", 0

        @property
        def metadata(self) -> dict[str, Any]:
            signal.raise_signal(number)
            return {}

    number = signal.SIGINT if how == "ctrl-c" else signal.SIGUSR1
    before = signal.signal(number, signal.default_int_handler if how == "ctrl-c" else handler)
    try:
        with capture(), pytest.raises(expected):
            record(Struck())  # type: ignore[arg-type]
    finally:
        signal.signal(number, before)


def test_cancellation_of_a_task_is_no_ones_business_here() -> None:
    """A `CancelledError` that an object raises does not end the task that records it."""

    class Odd:
        name, source, timestamp = "e", "WORKER", 0

        @property
        def metadata(self) -> dict[str, Any]:
            raise asyncio.CancelledError

    async def main() -> str:
        record(Odd())  # type: ignore[arg-type]
        return "done"

    with capture() as seen:
        assert asyncio.run(main()) == "done"
        assert len(seen) == 1


class Speechless(Exception):
    """An error that nobody can print."""

    def __str__(self) -> str:
        raise SystemExit(9)

    __repr__ = __str__


async def test_error_that_cannot_be_printed_costs_its_lane_only() -> None:
    """A handler's error whose own words raise is counted as that handler's failure; the others get their records."""

    async def fails(_record: Any) -> None:
        raise Speechless

    sink = ListSink()
    async with EventBus(sink, recorder=False, interval=0.01) as bus:
        bus.subscribe(fails, name="fails")
        for number in range(5):
            bus.put_metric("m", number)
        assert await bus.flush(20)
        assert bus.stats().lanes["fails"].failed == 5
        assert bus.stats().lanes["fails"].last_error == "Speechless"
    assert len(sink.payload) == 5


@pytest.mark.parametrize("error", [GeneratorExit, SystemExit, asyncio.CancelledError, BaseException, Speechless])
async def test_whatever_a_filter_raises_costs_its_lane_only(error: type[BaseException]) -> None:
    """A predicate that raises, be it no `Exception`, loses its own lane's records, counted; the drain goes on."""

    def where(_record: Any) -> bool:
        raise error

    good, bad = ListSink(), ListSink()
    async with EventBus(good, recorder=False, interval=0.01) as bus:
        lane = bus.subscribe(bad, where=where, name="bad")
        for number in range(5):
            bus.put_metric("m", number)
        assert await bus.flush(20)
        assert lane.stats().dropped == {"filter_error": 5}
        assert lane.stats().balanced
    assert len(good.payload) == 5


ENVIRONMENTS: dict[str, tuple[dict[bytes, bytes], str, int]] = {
    "a run id that is no UTF-8": ({b"ELASTIC_EVENTS_RUN_ID": b"caf\xe9"}, "", 1),
    "a role that is no UTF-8": ({b"ROLE_NAME": b"\xff\xfe"}, "", 1),
    "a rank of 70 bits": ({b"RANK": b"999999999999999999999"}, "", 1),
    "a rank of 10,000 digits": ({b"RANK": b"9" * 10_000}, "", 1),
    "a role that fits no header": ({b"ROLE_NAME": b"r" * 100_000}, "", 0),
    "an environment that is cleared": ({}, "os.environ.clear()", 1),
    "a directory that cannot be": ({b"ELASTIC_EVENTS_DIR": b"/proc/nowhere"}, "", 0),
    "a directory that is no UTF-8": ({b"ELASTIC_EVENTS_DIR": b"\xe9"}, "", 1),
    "warnings that raise": ({b"ELASTIC_EVENTS_DIR": b"/proc/nowhere"}, "import warnings; warnings.warn = 1/1", 0),
    "no descriptor left": ({}, "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))", 0),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_environment_makes_an_emit_raise(name: str, tmp_path: Path) -> None:
    """Whatever the environment says of the recorder and of who speaks, the first emit raises nothing."""
    variables, before, files = ENVIRONMENTS[name]
    program = f"""
import os
from elastic_events import Event, record
from elastic_metrics import put_metric
{before}
record(Event("e", "WORKER"))
put_metric("m", 1)
os.write(1, b"done")
"""
    path = ":".join(filter(None, sys.path)).encode()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={b"PYTHONPATH": path, b"ELASTIC_EVENTS_DIR": b"rings", **variables},
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == (b"done", 0), done.stderr.decode()
    assert len(list(tmp_path.rglob("*.ring"))) == files
