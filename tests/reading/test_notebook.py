"""Answers as a notebook shows them: drawn, escaped, and with a sentence where what draws is missing."""

import base64
import builtins
import re
from typing import Any

import pytest

from elastic_events.reading.buckets import goodput
from elastic_events.reading.builder import build
from elastic_events.reading.compare import diff
from elastic_events.reading.overview import summary
from elastic_events.reading.rows import timeline
from elastic_events.reading.stragglers import slow
from tests.reading.runs import Run, two_attempts

NASTY = "<script>alert(1)</script>\x1b[2J"


def picture(html: str) -> str:
    """Return the SVG in an image."""
    (data,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    return base64.b64decode(data).decode()


def test_each_answer_is_drawn() -> None:
    """What the commands print is in the cell; the timeline is its picture."""
    (story,) = build(two_attempts().records)
    assert "rank 1 on a: SIGKILL" in summary(story)._repr_html_()
    assert "moved the training on" in goodput(story)._repr_html_()
    assert "no straggler" in slow(story)._repr_html_()
    assert "grew most" not in (same := diff(story, story)._repr_html_())
    assert "wall time" in same
    assert picture(timeline(story)._repr_html_()).startswith("<svg ")


def test_nothing_that_was_recorded_runs() -> None:
    """A record's texts are text: no tag, no control character."""
    run = Run(NASTY)
    for record in two_attempts().records:
        worker = record.context
        run.raw((record.time_ns - two_attempts().records[0].time_ns) / 1e9, worker, record.name, record.fields[2])
    (story,) = build(run.records)
    for answer in (summary(story), goodput(story), slow(story), diff(story, story)):
        html = answer._repr_html_()
        assert "<script" not in html
        assert "\x1b" not in html


def test_without_rich_a_cell_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is shown as Python writes it, with the extra's name; the picture needs nothing."""
    (story,) = build(two_attempts().records)
    found = builtins.__import__

    def lacking(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "rich":
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacking)
    html = goodput(story)._repr_html_()
    assert html.startswith("<pre>Goodput(run_id=")
    assert "'cli'" in html or "&#x27;cli&#x27;" in html
    assert picture(timeline(story)._repr_html_())
