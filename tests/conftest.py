"""Fixtures of every test: all backends, and nothing that fails in a thread goes unseen."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

import elastic_events
from elastic_metrics import api as metrics_api
from tests.reaper import watch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it runs in the background with Ctrl-C ignored, and the programs under test would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# In CI the same examples each time: what a new seed finds is a new fault, and no fault of the change that is tested.
settings.register_profile(
    "elastic", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("elastic")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have what the tests start ended with them, also where they are killed."""
    if Path("/proc/self/environ").exists():
        watch(session.config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {"restrict_keyboard_interrupt_to_checkpoints": True}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each async test on asyncio, uvloop and trio."""
    return request.param


@pytest.fixture(autouse=True)
def no_thread_fails(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the test when an exception ends any thread."""
    failures: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    yield
    assert not failures, failures


@pytest.fixture(autouse=True)
def no_loop_is_blocked() -> Iterator[None]:
    """Fail the test when the package blocks an event loop: by a file, a socket, a lock or a sleep."""
    with blockbuster_ctx(["elastic_events", "elastic_metrics"]) as guard:
        for function in guard.functions.values():
            function.can_block_in("bus/context.py", {"start_time"})  # /proc, read once as a bus is made
            function.can_block_in("recorder/writer.py", {"open_rings"})  # likewise
            function.can_block_in(
                "recorder/collector.py", {"last_look", "close"}
            )  # at the end, where no thread is to be had
            function.can_block_in("bus/subscription.py", {"check_url"})  # a path, looked at as its sink is named
            function.can_block_in("sinks/files.py", {"from_root"})  # the working directory, likewise
            function.can_block_in("bus/tell.py", {"say"})  # a sentence on stderr, once
        yield


@pytest.fixture(autouse=True)
def no_bus_left() -> Iterator[None]:
    """Fail the test when it leaves a bus open."""
    yield
    left = elastic_events.current_bus()
    if left is not None:
        elastic_events.stop()
    assert left is None, left


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """Have no handlers of metrics afterwards, as in a new process."""
    yield
    elastic_events.stop()
    metrics_api._metrics_map.clear()
    metrics_api._default_metrics_handler = metrics_api.NullMetricHandler()


@pytest.fixture
def fast_switching() -> Iterator[None]:
    """Let threads take turns at every few bytecodes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
