"""What "delivered" means is a sink's own to say."""

import ast
from pathlib import Path

import pytest

import elastic_events.sinks

SINKS = [
    node
    for path in sorted(Path(elastic_events.sinks.__file__).parent.glob("*.py"))
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.ClassDef)
    and (node.name.endswith("Sink") or node.name == "Rollup")
    and node.name not in ("BlockingSink", "EncodingSink")
]


@pytest.mark.parametrize("sink", SINKS, ids=lambda sink: sink.name)
def test_each_sink_says_what_delivered_means(sink: ast.ClassDef) -> None:
    """The documentation of each sink says where a record is once it counts as delivered (F45)."""
    assert "Delivered means" in (ast.get_docstring(sink) or "")


def test_all_sinks_are_asked() -> None:
    """The sinks of this package are among those asked."""
    assert {"NatsSink", "OtlpSink", "PrometheusSink", "Rollup", "JsonlSink", "SqliteSink"} <= {
        node.name for node in SINKS
    }
