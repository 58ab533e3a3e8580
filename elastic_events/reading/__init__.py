"""From stored records to answers: what `elastic-events summary`, `timeline`, `goodput`, `slow` and `diff` tell, as objects.

from elastic_events import reading

answer = reading.summary("run.db")
if answer.outcome == "failed": ...
"""

import elastic_events.reading.notebook  # noqa: F401 - how a notebook shows them
from elastic_events.reading.answers import as_json, diff, goodput, json_schema, slow, summary, timeline
from elastic_events.reading.buckets import Goodput
from elastic_events.reading.compare import Diff
from elastic_events.reading.overview import Summary
from elastic_events.reading.rows import Timeline
from elastic_events.reading.stragglers import Slow

__all__ = (
    "Diff",
    "Goodput",
    "Slow",
    "Summary",
    "Timeline",
    "as_json",
    "diff",
    "goodput",
    "json_schema",
    "slow",
    "summary",
    "timeline",
)
