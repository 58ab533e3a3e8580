"""Torch's modules and ours side by side. Importing this skips a module of tests where torch is not to be had.

With ELASTIC_TORCH=1 a missing torch is an error: so runs the suite where these tests must not be skipped.
"""

import os
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

if os.environ.get("ELASTIC_TORCH") != "1":
    pytest.importorskip("torch", reason="the torch tests run in an environment of their own, which has it")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.distributed.elastic.events as torch_events
    import torch.distributed.elastic.events.api as torch_events_api
    import torch.distributed.elastic.events.handlers as torch_handlers
    import torch.distributed.elastic.metrics as torch_metrics
    import torch.distributed.elastic.metrics.api as torch_metrics_api

import elastic_events
import elastic_events.api as our_events_api
import elastic_events.handlers as our_handlers
import elastic_metrics
import elastic_metrics.api as our_metrics_api

THEIRS = SimpleNamespace(
    events=torch_events,
    api=torch_events_api,
    handlers=torch_handlers,
    metrics=torch_metrics,
    metrics_api=torch_metrics_api,
)
OURS = SimpleNamespace(
    events=elastic_events,
    api=our_events_api,
    handlers=our_handlers,
    metrics=elastic_metrics,
    metrics_api=our_metrics_api,
)


def outcome(call: Callable[[Any], Any], world: Any) -> Any:
    """Return what `call` gives or raises, without the names of modules."""
    try:
        result = call(world)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is compared
        return "raises", type(error).__name__
    plain = isinstance(result, (str, int, float, bool, list, dict, tuple, type(None)))
    return "returns", result if plain else repr(result)


def event(world: Any, **metadata: Any) -> Any:
    """Make an event in one of the two worlds."""
    return world.events.Event("n", world.events.EventSource.WORKER, 5, metadata)


def rdzv(world: Any, **changes: Any) -> Any:
    """Make a rendezvous event in one of the two worlds."""
    fields = {"name": "n", "run_id": "r", "message": "m", "hostname": "h", "pid": 1}
    return world.events.RdzvEvent(**{**fields, "node_state": world.events.NodeState.INIT, **changes})


def points_of(world: Any, body: Callable[[Any], object], *, durations: bool = False) -> list[tuple[Any, str, Any]]:
    """Run `body` with a synchronous stream in place of `getStream`; return what was emitted: group, name and value."""
    points: list[tuple[Any, str, Any]] = []

    class Keep(world.metrics.MetricHandler):  # type: ignore[misc]
        def emit(self, data: Any) -> None:
            shown = durations or not data.name.endswith("ms")
            points.append((data.group_name, data.name, data.value if shown else None))

    before = world.metrics_api.getStream
    world.metrics_api.getStream = lambda group: world.metrics_api.MetricStream(group, Keep())
    try:
        body(world)
    finally:
        world.metrics_api.getStream = before
    return points
