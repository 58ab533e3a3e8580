"""The flight recorder: rings in a mapped file, which outlive the process that wrote them."""

from elastic_events.recorder.collect import Collector, collect
from elastic_events.recorder.writer import MappedRing, open_rings
from elastic_events.recorder.reader import RecorderReader, read_directory

__all__ = ("Collector", "MappedRing", "RecorderReader", "collect", "open_rings", "read_directory")
