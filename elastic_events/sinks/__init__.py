"""Sinks: handlers that write records somewhere. A class each, or its URL (`sinks.urls`).

Nothing here is imported before it is asked for: a process that names no sink pays for none, and one that names SQLite
does not need the packages of the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elastic_events.sinks.console import ConsoleSink
    from elastic_events.sinks.jsonl import JsonlSink, read_jsonl
    from elastic_events.sinks.sqlite import SqliteSink, read_sqlite
    from elastic_events.sinks.stored import from_json, to_json
    from elastic_events.sinks.urls import open_url, parse_sinks

__all__ = (
    "ConsoleSink",
    "JsonlSink",
    "SqliteSink",
    "from_json",
    "open_url",
    "parse_sinks",
    "read_jsonl",
    "read_sqlite",
    "to_json",
)

_HOMES = {
    "ConsoleSink": "console",
    "JsonlSink": "jsonl",
    "SqliteSink": "sqlite",
    "from_json": "stored",
    "open_url": "urls",
    "parse_sinks": "urls",
    "read_jsonl": "jsonl",
    "read_sqlite": "sqlite",
    "to_json": "stored",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
