"""What every answer has in common: a notebook shows it as its command would."""

from functools import singledispatch
from html import escape

import msgspec

from elastic_events.bus.errors import MissingExtra

__all__ = ("Answer", "as_html")


class Answer(msgspec.Struct, frozen=True):
    """Immutable; its fields are what the command prints with `--json`."""

    def _repr_html_(self) -> str:
        try:
            return as_html(self)
        except MissingExtra as error:  # a cell would show its traceback
            return f"<pre>{escape(repr(self))}</pre><p>{escape(str(error))}</p>"


@singledispatch
def as_html(answer: Answer) -> str:
    """Return an answer as HTML for a page of somebody else's. All that was recorded is escaped; nothing in it runs.

    Of each kind of answer `reading.notebook` knows how.

    Raises:
        MissingExtra: rich is not installed, and this answer is no picture.
    """
    raise NotImplementedError(type(answer).__name__)
