"""The public face: each public name, where it lives and how it is called, is what `face.txt` says.

A change to it is a change for users. Where it is meant, `python -m tests.test_face` writes the file anew; what its diff shows
belongs in CHANGELOG.md.
"""

import difflib
import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, UnionType
from typing import TypeVar, Union, get_origin

import pytest

FACE = Path(__file__).with_name("face.txt")

#: The modules that users import; every other one is internal, whatever it is called.
PUBLIC = (
    "elastic_events",
    "elastic_events.api",
    "elastic_events.reading",
    "elastic_events.sinks",
    "elastic_events.testing",
    "elastic_events.torchrun",
    "elastic_metrics",
    "elastic_metrics.api",
)

#: What makes a signature long and says nothing: the module of a class, and what handlers may be.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PLACE = re.compile(r"\b(?:[a-z_]+\.)+(?=[A-Z])")
_UNION = re.compile(r"(Union|Optional)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]")
_COMMA = re.compile(r", (?![^\[]*\])")
_HANDLER = "Sink | Callable[[Record], Awaitable[object]] | Callable[[Sequence[Record]], Awaitable[object]] | str | Any"


def face() -> str:
    """Return the public face as text: a line each name, with its members below it."""
    lines: list[str] = []
    for name in PUBLIC:
        module = importlib.import_module(name)
        lines += [f"[{name}]", *(line for public in _names(module) for line in _shown(public, getattr(module, public)))]
    return "\n".join(lines) + "\n"


def public_names() -> list[str]:
    """Return each public name, with its module."""
    return [name for name, _ in _objects()]


def _names(module: ModuleType) -> list[str]:
    return [name for name in getattr(module, "__all__", ()) if not name.startswith("_")]


def _shown(name: str, value: object) -> Iterator[str]:
    home = getattr(value, "__module__", None)
    home = home if isinstance(home, str) and home.startswith("elastic_") else ""
    if isinstance(value, type):
        signature = "" if issubclass(value, enum.Enum) else _signature(value)  # each Python has its own
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"{name}{signature}  class{f' of {bases}' if bases else ''}  {home}"
        if issubclass(value, enum.Enum):
            yield f"  {', '.join(f'{one.name}={one.value!r}' for one in value)}"
        else:
            yield from (f"  {_member(member, inner)}" for member, inner in _members(value))
    elif get_origin(value) in (Union, UnionType):
        yield f"{name} = {_plain(str(value))}"
    elif callable(value):
        yield f"{name}{_signature(value)}  {home}"
    else:
        yield f"{name}  {type(value).__name__}"


def _members(value: type) -> list[tuple[str, object]]:
    """Return what a class has from this package, inherited or not."""
    found: dict[str, object] = {}
    for base in reversed(value.__mro__):
        found.update(vars(base) if base.__module__.startswith("elastic_") else {})
    return [(name, found[name]) for name in sorted(found) if not name.startswith("_")]


def _member(name: str, value: object) -> str:
    if isinstance(value, property):
        return f"{name}  property{_signature(value.fget)}"
    plain = getattr(value, "__func__", value)  # of a class method or a static one
    if inspect.isroutine(plain):
        kind = "async " if inspect.iscoroutinefunction(plain) else ""
        return f"{kind}{name}{_signature(plain)}"
    fields = ("member_descriptor", "_tuplegetter")
    return f"{name}  field" if type(value).__name__ in fields else f"{name} = {value!r}"


def _signature(value: object) -> str:
    try:
        shown = str(inspect.signature(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    return _plain(shown).replace(_HANDLER, "Handler")


def _plain(shown: str) -> str:
    """Leave out modules and addresses; write a union with bars, as Python 3.14 does."""
    return _UNION.sub(_with_bars, _PLACE.sub("", _ADDRESS.sub("", shown)))


def _with_bars(union: re.Match[str]) -> str:
    parts = [*_COMMA.split(union[2]), *(["None"] if union[1] == "Optional" else [])]
    return " | ".join("None" if part == "NoneType" else part for part in parts)


def _objects() -> Iterator[tuple[str, object]]:
    for name in PUBLIC:
        module = importlib.import_module(name)
        yield from ((f"{name}.{public}", getattr(module, public)) for public in _names(module))


def test_public_face_is_as_written() -> None:
    """No public name comes, goes or changes its signature unnoticed; `python -m tests.test_face` renews `face.txt`."""
    written = FACE.read_text("utf-8").splitlines()
    change = "\n".join(difflib.unified_diff(written, face().splitlines(), "face.txt", "now", lineterm="", n=1))
    assert not change, f"the public face has changed; if that is meant, run python -m tests.test_face:\n{change}"


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_public_module_defines_is_public_or_has_an_underscore(name: str) -> None:
    """Nothing is importable from a public module by accident: what it defines is in `__all__`, or begins with `_`."""
    module = importlib.import_module(name)
    public = getattr(module, "__all__", ())
    here = [(key, value) for key, value in vars(module).items() if getattr(value, "__module__", None) == name]
    defined = {key for key, value in here if not isinstance(value, TypeVar)}
    assert {key for key in defined if not key.startswith("_")} <= set(public)
    assert {key for key in public if not hasattr(module, key)} == set()
    assert set(public) <= set(dir(module))


def test_no_public_name_is_without_a_docstring() -> None:
    """Each public function, class, method and property says what it promises."""
    missing = []
    for name, value in _objects():
        if not (callable(value) or isinstance(value, type)) or not getattr(value, "__module__", "").startswith(
            "elastic_"
        ):
            continue
        if not inspect.getdoc(value):
            missing.append(name)
        for member, inner in _members(value) if isinstance(value, type) else ():
            routine = inspect.isfunction(getattr(inner, "__func__", inner)) or isinstance(inner, property)
            if routine and not inspect.getdoc(getattr(value, member)):
                missing.append(f"{name}.{member}")
    assert missing == []


if __name__ == "__main__":
    FACE.write_text(face(), "utf-8")
