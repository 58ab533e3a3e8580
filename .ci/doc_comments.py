"""For the API reference: a field's `#:` comment is its docstring. Loaded by mkdocstrings, see mkdocs.yml."""

from typing import Any

import griffe


class DocComments(griffe.Extension):
    """Reads the comments that Griffe leaves out: behind a field, or in the lines above it."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Give an attribute without a docstring its comment, if it has one."""
        if attr.docstring is None and attr.lineno and (text := _comment(attr)):
            attr.docstring = griffe.Docstring(text, lineno=attr.lineno, parent=attr)


def _comment(attr: griffe.Attribute) -> str:
    lines, index = attr.lines_collection[attr.filepath], (attr.lineno or 1) - 1
    _, mark, behind = lines[index].partition("  #: ")
    if mark:
        return behind.strip()
    above: list[str] = []
    while index and lines[index - 1].strip().startswith("#: "):
        index -= 1
        above.insert(0, lines[index].strip().removeprefix("#: "))
    return " ".join(above)
