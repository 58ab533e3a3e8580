"""Tables for terminals of any width."""

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RichCast
from rich.table import Table
from rich.text import Text

__all__ = ("Fitted",)

_CUT = "…"


class Fitted:
    """A table; where the terminal is so narrow that it would be cut, its rows as sentences."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Draw the table, or say its rows."""
        rows = list(zip(*(column.cells for column in self.table.columns), strict=True))
        drawn = "".join(part.text for line in console.render_lines(self.table, options) for part in line)
        if drawn.count(_CUT) <= sum(_text(cell).plain.count(_CUT) for row in rows for cell in row):
            yield self.table
            return
        heads = [
            _text(column.header).plain.replace("-\n", "").replace("/\n", "/").replace("\n", " ")
            for column in self.table.columns
        ]
        yield Text()
        if self.table.title is not None:
            yield self.table.title
        for row in rows:
            named = zip(heads, map(_text, row), strict=True)
            said = [Text.assemble(head, " " if head else "", cell) for head, cell in named if cell.plain]
            yield Text(", ").join(said).append(".")
        yield Text()


def _text(cell: ConsoleRenderable | RichCast | str) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))
