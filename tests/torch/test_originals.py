"""Torch's own unit tests of both modules, with the import swapped.

They are not in torch's wheel. Where ELASTIC_TORCH_TESTS names a `test/distributed/elastic` directory of torch's sources,
they run from there; the promises they make are tested here in any case.
"""

import abc
import logging
import os
import types
import unittest
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import elastic_events
from elastic_metrics import MetricData, MetricHandler, prof
from elastic_metrics.api import MetricStream, _get_metric_name
from tests.torch.worlds import OURS

assert OURS  # importing it skips this module where torch is not to be had

SWAPS = {
    "torch.distributed.elastic.events": "elastic_events",
    "torch.distributed.elastic.metrics": "elastic_metrics",
    "from torch.testing._internal.common_utils import run_tests, TestCase": "from unittest import TestCase",
    "from torch.testing._internal.common_utils import run_tests": "",
}


@pytest.mark.skipif("ELASTIC_TORCH_TESTS" not in os.environ, reason="ELASTIC_TORCH_TESTS names no sources of torch")
@pytest.mark.parametrize("path", ["events/lib_test.py", "metrics/api_test.py"])
def test_torchs_own_tests_pass(path: str) -> None:
    """Torch's own unit tests pass with nothing changed but what they import."""
    source = (Path(os.environ["ELASTIC_TORCH_TESTS"]) / path).read_text(encoding="utf-8")
    for theirs, ours in SWAPS.items():
        source = source.replace(theirs, ours)
    assert "import torch" not in source
    module = types.ModuleType("torchs_own")
    exec(compile(source, path, "exec"), vars(module))
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    assert result.testsRun >= 3
    assert [text for _, text in (*result.failures, *result.errors)] == []


class Last(MetricHandler):
    """Keeps the last point of each name."""

    def __init__(self) -> None:
        self.points: dict[str, MetricData] = {}

    def emit(self, metric_data: MetricData) -> None:
        """Keep one."""
        self.points[metric_data.name] = metric_data


class Base(abc.ABC):
    """Calls what its children implement."""

    @abc.abstractmethod
    def step(self) -> None:
        """Take one step."""

    def run(self) -> None:
        """Take one step."""
        self.step()


class Derived(Base):
    """Decorates its implementation."""

    @prof
    def step(self) -> None:
        """Take one step."""

    @prof(group="torchelastic")
    def stop(self) -> None:
        """Fail."""
        raise RuntimeError


def module_function() -> None:
    """Stand for a function of a module."""


def test_metric_names() -> None:
    """A function is named by its module's last part, a bound method by its class."""
    assert _get_metric_name(module_function) == "test_originals.module_function"
    assert _get_metric_name(Derived().step) == "Derived.step"


def test_patched_stream_sees_each_call_at_once() -> None:
    """With `elastic_metrics.api.getStream` patched, a decorated call has been published when it returns."""
    last = Last()
    with patch("elastic_metrics.api.getStream", return_value=MetricStream("torchelastic", last)):
        derived = Derived()
        derived.run()
        assert last.points["Derived.step.success"].value == 1
        assert last.points["Derived.step.success"].group_name == "torchelastic"
        assert set(last.points) == {"Derived.step.success", "Derived.step.duration.ms"}
        with pytest.raises(RuntimeError):
            derived.stop()
        assert last.points["Derived.stop.failure"].value == 1
        assert "Derived.stop.duration.ms" in last.points
        assert "Derived.stop.success" not in last.points


@pytest.mark.parametrize(("handler", "calls"), [(logging.StreamHandler(), 1), (logging.NullHandler(), 0)])
def test_patched_package_decides_about_rendezvous_events(handler: logging.Handler, calls: int) -> None:
    """With both names patched on the package, an event is recorded only where the destination's handler writes."""
    with (
        patch("elastic_events.get_logging_handler", return_value=handler),
        patch("elastic_events.record_rdzv_event") as recorded,
    ):
        elastic_events.construct_and_record_rdzv_event(
            run_id="run", message="message", node_state=elastic_events.NodeState.RUNNING
        )
    assert recorded.call_count == calls


def test_patched_handler_is_the_loggers_only_one() -> None:
    """With `get_logging_handler` patched, a new destination's logger has that handler and no other."""
    made: Any = logging.NullHandler()
    with patch("elastic_events.get_logging_handler", return_value=made):
        logger = elastic_events._get_or_create_logger("originals")
    try:
        assert logger.handlers == [made]
    finally:
        elastic_events._events_loggers.pop("originals")
        logger.handlers.clear()
