"""The catalogue of events, to hold against what was recorded."""

from collections.abc import Mapping
from typing import Any

from elastic_events.reading import json_schema

__all__ = ("FIELDS", "SCHEMA", "check")

SCHEMA = json_schema("events")

#: Event -> its fields.
FIELDS = {name: set(about["properties"]) for name, about in SCHEMA["$defs"].items() if not name.startswith("field.")}

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
}


def check(name: str, metadata: Mapping[str, Any]) -> None:
    """Hold an event that was recorded against the schema."""
    if name not in FIELDS:
        return  # torch's, or the program's own
    assert set(metadata) <= FIELDS[name], (name, set(metadata) - FIELDS[name])
    for field, value in metadata.items():
        about = SCHEMA["$defs"][f"field.{field}"]
        if "enum" in about:
            assert value in about["enum"], (name, field, value)
            continue
        kinds = [about["type"]] if isinstance(about["type"], str) else about["type"]
        assert type(value) in {kind for one in kinds for kind in _TYPES[one]}, (name, field, value)
