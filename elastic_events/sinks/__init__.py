"""Sinks: handlers that write records somewhere. A class each, or its URL (`sinks.urls`).

Nothing here is imported before it is asked for: a process that names no sink pays for none, and one that names SQLite
does not need the packages of the others.
"""

from typing import TYPE_CHECKING

from elastic_events import _lazily

if TYPE_CHECKING:
    from elastic_events.sinks.bridges import MlflowSink, TensorBoardSink, WandbSink
    from elastic_events.sinks.console import ConsoleSink
    from elastic_events.sinks.jsonl import JsonlSink, read_jsonl
    from elastic_events.sinks.nats import NatsSink, read_nats, read_nats_sync
    from elastic_events.sinks.otlp import OtlpSink
    from elastic_events.sinks.prometheus import PrometheusSink
    from elastic_events.sinks.rollup import Rollup
    from elastic_events.sinks.sqlite import SqliteSink, read_sqlite
    from elastic_events.sinks.stored import from_json, to_json
    from elastic_events.sinks.urls import open_url, parse_sinks

__all__ = (
    "ConsoleSink",
    "JsonlSink",
    "MlflowSink",
    "NatsSink",
    "OtlpSink",
    "PrometheusSink",
    "Rollup",
    "SqliteSink",
    "TensorBoardSink",
    "WandbSink",
    "from_json",
    "open_url",
    "parse_sinks",
    "read_jsonl",
    "read_nats",
    "read_nats_sync",
    "read_sqlite",
    "to_json",
)

_HOME = {
    "ConsoleSink": "console",
    "JsonlSink": "jsonl",
    "MlflowSink": "bridges",
    "NatsSink": "nats",
    "OtlpSink": "otlp",
    "PrometheusSink": "prometheus",
    "Rollup": "rollup",
    "SqliteSink": "sqlite",
    "TensorBoardSink": "bridges",
    "WandbSink": "bridges",
    "from_json": "stored",
    "open_url": "urls",
    "parse_sinks": "urls",
    "read_jsonl": "jsonl",
    "read_nats": "nats",
    "read_nats_sync": "nats",
    "read_sqlite": "sqlite",
    "to_json": "stored",
}

if not TYPE_CHECKING:  # a type checker must still find a name that is not here
    __getattr__, __dir__ = _lazily(__name__, _HOME)
