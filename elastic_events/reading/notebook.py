"""Answers in a notebook: the timeline as its picture, the others as their command draws them for a terminal.

What draws is imported when a cell shows the first answer.
"""

import base64
import io
from typing import TYPE_CHECKING

from elastic_events.bus.errors import MissingExtra
from elastic_events.reading.answer import as_html
from elastic_events.reading.buckets import Goodput
from elastic_events.reading.compare import Diff
from elastic_events.reading.overview import Summary
from elastic_events.reading.rows import Timeline
from elastic_events.reading.stragglers import Slow

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Columns of what is drawn as for a terminal.
WIDTH = 96

#: Red, green, blue of the terminal's eight colours, to be read on light and on dark ground.
_COLOURS = [
    *((110, 110, 110), (214, 64, 69), (38, 152, 92), (178, 126, 20)),
    *((52, 120, 214), (148, 98, 206), (24, 148, 164), (128, 128, 128)),
]
_WHITE, _GREY = (255, 255, 255), (128, 128, 128)

_BLOCK = '<pre style="overflow-x: auto; line-height: 1.35; white-space: pre">{code}</pre>'


@as_html.register
def _(answer: Timeline) -> str:
    from elastic_events.reading.timeline_svg import timeline_svg

    # As an image it keeps its styles to itself, and nothing in it can run.
    picture = base64.b64encode(timeline_svg(answer).encode()).decode()
    return f'<img alt="timeline" style="max-width: 100%" src="data:image/svg+xml;base64,{picture}">'


@as_html.register
def _(answer: Summary) -> str:
    _need_rich()
    from elastic_events.reading.summary_terminal import summary_terminal

    return _drawn(summary_terminal(answer))


@as_html.register
def _(answer: Goodput) -> str:
    _need_rich()
    from elastic_events.reading.goodput_terminal import goodput_terminal

    return _drawn(goodput_terminal(answer, WIDTH))


@as_html.register
def _(answer: Slow) -> str:
    _need_rich()
    from elastic_events.reading.slow_terminal import slow_terminal

    return _drawn(slow_terminal(answer))


@as_html.register
def _(answer: Diff) -> str:
    _need_rich()
    from elastic_events.reading.diff_terminal import diff_terminal

    return _drawn(diff_terminal(answer))


def _need_rich() -> None:
    try:
        import rich  # noqa: F401 - whether it is there
    except ImportError:
        raise MissingExtra("an answer in a notebook", "cli") from None


def _drawn(shape: "RenderableType") -> str:
    from rich.console import Console
    from rich.terminal_theme import TerminalTheme

    console = Console(file=io.StringIO(), record=True, width=WIDTH, color_system="truecolor", force_jupyter=False)
    console.print(shape)
    return console.export_html(theme=TerminalTheme(_WHITE, _GREY, _COLOURS), inline_styles=True, code_format=_BLOCK)
