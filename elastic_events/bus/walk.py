"""From a caller's value to what msgpack and JSON can hold: one walk, bounded in time and bytes, that runs no user code.

One file although it is long: containers, what they hold and what they cost call one another in turn.
"""

import datetime
import decimal
import enum
import fractions
import math
import pathlib
import types
import uuid
from collections.abc import Callable, Iterable
from itertools import chain, islice
from typing import Any

from elastic_events.bus.errors import MetadataError
from elastic_events.bus.look import (
    HEADER,
    ITEMS,
    KEY,
    LARGE,
    LONG_ITEM,
    LOOK,
    MANY,
    MOST,
    NOTE,
    NUMBERS,
    SHORT,
    Look,
    unused,
)
from elastic_events.bus.numbers import big, number
from elastic_events.bus.redact import REDACTED, Redactor, cut_secrets, is_word, redact_arguments
from elastic_events.bus.shape import Part
from elastic_events.bus.signals import is_the_callers
from elastic_events.bus.text import LONG, LongText, both_ends, count_bytes, head_of, tail_of, utf8, whole

__all__ = ("Walk", "plain")

_DEPTH = 16

#: Items that it costs to go into a container, to name an object, and to read an exception.
_CONTAINER = 4
_INNER = 2  # of which are for what is in it
_OBJECT = 3
_ERROR = 8

#: Characters that cost as much as an item, of a text with a mark of a name before a value.
_MARKED = 4

#: Characters of each text that is left where those before it took all: in a large container they share a quarter of `LONG`.
_GLIMPSE = 4 * SHORT

#: Bytes of a number.
_NUMBER = 9

_PLAIN = frozenset({type(None), bool, float})
_NUMBER_64 = range(-(2**63), 2**64)
_CONTAINERS = (dict, list, tuple, set, frozenset)

_WORDS = (decimal.Decimal, fractions.Fraction, uuid.UUID, datetime.timedelta, complex)
_FIELDS = "__dataclass_fields__"
_ARGS: Any = vars(BaseException)["args"].__get__


def plain(value: Any) -> Any:
    """Return `value` as None, bool, int, float, str, list and dict, however large; see `Walk`."""
    walk = Walk()
    return walk.finish([walk.plain(value)])[0]


class Walk(Look):
    """One pass over a caller's value, into at most `room` bytes of msgpack.

    What does not fit is left out whole, and a note says how many items that were. Long texts share the room that the rest
    leaves, each with its head and its tail. What is short comes before what is nested.

    Subclasses of builtins are read through the builtin's own methods, objects of unknown classes become `<module.Class>`:
    their `__str__` could raise, sleep or emit (F59).
    """

    room: float
    items: float

    def __init__(self, redactor: Redactor | None = None, *, room: float = math.inf, strict: bool = False) -> None:
        super().__init__(redactor, room)
        self.strict = strict
        self._is_large = False  # that one of the containers is
        self._characters = 2.0 * LONG
        self._window: float = LONG if self.bounded else math.inf
        self._texts: list[tuple[Any, Any, LongText]] = []

    def fields(self, values: Iterable[Any]) -> list[Any]:
        """Return the plain forms of a record's fields, all of them."""
        given = list(values)
        result: list[Any] = [None] * len(given)
        containers = []
        for place, value in enumerate(given):
            if issubclass(type(value), _CONTAINERS):  # they take what the others leave
                containers.append(place)
            else:
                cost = self._put(result, place, self.plain(value))  # which may take room itself
                self.room -= cost
        for place in containers:
            result[place] = self.plain(given[place])
        return self.finish(result)

    def finish(self, result: list[Any]) -> list[Any]:
        """Return `result` with its long texts, each as long as there is room for."""
        for place, value in enumerate(result):
            if type(value) is LongText:
                self._put(result, place, value)
        room = self.room + len(self._texts) * SHORT
        waiting = sorted(self._texts, key=lambda one: one[2].size)
        for at, (holder, place, text) in enumerate(waiting):
            if holder[place] is not REDACTED:
                share = room / (len(waiting) - at)
                holder[place] = text.cut(share - HEADER)
                room -= min(share, text.size + HEADER)
        return result

    def plain(self, value: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - one table of types
        """Return the plain form of `value`; of a long text, what `finish` makes a text of."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is str:
            return self.text(value)
        if kind is int:
            return value if value in _NUMBER_64 else big(value)
        if not issubclass(kind, _CONTAINERS):
            return self.scalar(value, kind, depth)
        if depth >= _DEPTH:
            return "[too deep]"
        if issubclass(kind, dict):
            return self.mapping(value, depth)
        base: Any = next(base for base in kind.__mro__ if base in _CONTAINERS)
        return self.sequence(base.__iter__(value), base.__len__(value), depth)

    # --- containers ---

    def mapping(self, value: dict[Any, Any], depth: int) -> dict[Any, Any]:  # noqa: C901, PLR0912 - one loop
        """Return a dict of the items that there is room for; keys stay apart as they were: 1 and "1" are two keys (F60)."""
        size = dict.__len__(value) + (value.missing if type(value) is Part else 0)
        if size > 4 and (bulk := self._flat(value, size)) is not None:
            return bulk
        result: dict[Any, Any] = {}
        repeats: dict[Any, int] = {}
        nested: list[tuple[Any, Any]] = []
        self.room -= NOTE
        if size > LARGE:
            self._enter_large(size)
        some = self._some(dict.items(value), size)
        for key, item in self._vetted(some, keyed=True) if size > 4 else some:
            known = type(key) is str and (key in self._safe or key in self._names) and key.isascii()
            name = key if known else self.key(key)
            if name in result:
                name = unused(name, result, repeats)
            kind = type(item)
            cost = len(name) + HEADER if known else _cost(name)
            deep = False
            if kind in _PLAIN:  # which is no secret
                held, cost = item, cost + _NUMBER
                if not known:  # the next time it is
                    self._is_secret_name(key, name)
            elif known and kind is str and item in self._clean and item.isascii():
                held, cost = item, cost + len(item) + HEADER
            else:
                # The key as it was, too: of a long one the name is cut.
                secret = not known and self._is_secret_name(key, name)
                deep = issubclass(kind, _CONTAINERS) and not secret
                held = None if deep else self.plain(item, depth + 1)
                if secret and not _is_number(item, held):
                    held = REDACTED
                cost += NOTE if deep else _cost(held)
            if cost > self.room or self.items <= 0:
                break
            self.items -= 1
            self.room -= cost
            if type(held) is LongText:
                self._put(result, name, held)
            else:
                result[name] = held
            if deep:
                self.items -= _CONTAINER
                nested.append((name, item))
        if nested:
            self._descend(result, nested, depth)
        if len(result) < size:
            note = unused("truncated", result, repeats) if "truncated" in result else "truncated"
            result[note] = f"{size - len(result)} more"
        return result

    def sequence(self, items: Iterable[Any], size: int, depth: int) -> list[Any]:  # noqa: C901 - as above
        """Return a list of the items that there is room for."""
        if size > 4:
            first = list(islice(items, MANY if self.bounded else MOST))
            if (bulk := self._flat_list(iter(first), size)) is not None:
                return bulk
            items = chain(first, items)
        result: list[Any] = []
        nested: list[tuple[Any, Any]] = []
        self.room -= NOTE
        if size > LARGE:
            self._enter_large(size)
        some = self._some(items, size)
        for item in self._vetted(some, keyed=False) if size > 4 else some:
            kind = type(item)
            deep = False
            if kind in _PLAIN:
                held, cost = item, _NUMBER
            else:
                deep = issubclass(kind, _CONTAINERS)
                held = None if deep else self.plain(item, depth + 1)
                cost = NOTE if deep else _cost(held)
            if cost > self.room or self.items <= 0:
                break
            self.items -= 1
            self.room -= cost
            if deep:
                self.items -= _CONTAINER
                nested.append((len(result), item))
            result.append(held)
            if type(held) is LongText:
                self._put(result, len(result) - 1, held)
        if self._redacts:
            redact_arguments(result)
        if nested:
            self._descend(result, nested, depth)
        if len(result) < size:
            result.append(f"[truncated: {size - len(result)} more]")
        return result

    def _some(self, items: Iterable[Any], size: int) -> list[Any]:
        """Return the items that may still be looked at, as they are now."""
        return list(islice(items, int(min(size, max(self.items, 0), MOST))))

    def _enter_large(self, size: int) -> None:
        """Leave less for the long texts of a record with a large container."""
        if self.bounded and not self._is_large:
            self._is_large = True
            self._characters = min(self._characters, LONG / 4)
            self._window = _GLIMPSE if size > ITEMS else max(self._characters, _GLIMPSE)

    def _descend(self, result: Any, nested: list[tuple[Any, Any]], depth: int) -> None:
        """Walk the containers in a container: each may take what those behind it are not likely to need."""
        self.room += NOTE * len(nested)
        self.items += _INNER * len(nested)
        sizes = [len(item) for _, item in nested]
        behind = sum(sizes)
        if 4 * behind < self.items and self.room > LONG / 2:  # there is room for all
            for place, item in nested:
                result[place] = self.plain(item, depth + 1)
            return
        for at, (place, item) in enumerate(nested):
            behind -= sizes[at]
            others = 1 - 1 / (len(nested) - at)
            room = items = 0.0
            if self.bounded:
                room = min(NOTE * (len(nested) - at - 1) + 32.0 * behind, self.room * others)
                items = min(float(behind), self.items * others)
            self.room, self.items = self.room - room, self.items - items
            result[place] = self.plain(item, depth + 1)
            self.room, self.items = self.room + room, self.items + items

    def key(self, key: Any, depth: int = 0) -> Any:
        """Return a key: a number as it is, all else as text."""
        kind = type(key)
        if kind is str:
            return key if len(key) <= KEY and key.isascii() else both_ends(utf8(key), KEY)
        if kind in NUMBERS:
            return key if kind is not int or key in _NUMBER_64 else big(key)
        if issubclass(kind, (tuple, frozenset)):
            self.items -= 1
            base: Any = tuple if issubclass(kind, tuple) else frozenset
            some = [] if depth > 2 else [self.key(part, depth + 1) for part in islice(base.__iter__(key), 8)]
            text = repr(some if len(some) == base.__len__(key) else [*some, "..."])
        else:
            held = self.scalar(key, kind, _DEPTH)
            text = held if type(held) is str else held.head if type(held) is LongText else repr(held)
        return both_ends(text, KEY)

    # --- what holds nothing ---

    def text(self, value: str) -> Any:
        """Return text that UTF-8 can hold, without the secrets in it; a long one as `LongText`."""
        redactor = self.redactor
        cut: Callable[[str], str] = whole
        if redactor is not None and self._redacts and value not in redactor.texts and value not in self._clean:
            short = len(value) <= SHORT
            if short and is_word(value):
                redactor.remember([value])
                return utf8(value)
            self.items -= LOOK + (len(value) // _MARKED if short and ("=" in value or ":" in value) else 0)
            cut = redactor.clean if short else cut_secrets
        if len(value) > self._window:
            half = int(self._window) // 2
            self._spend(2 * half)
            return LongText(utf8(head_of(value, half, cut)), len(value) - 2 * half, utf8(tail_of(value, half, cut)))
        if len(value) > SHORT:
            self._spend(len(value))
        value = utf8(cut(value))
        middle = len(value) // 2
        return value if len(value) <= SHORT else LongText(value[:middle], 0, value[middle:])

    def _spend(self, characters: int) -> None:
        """Take from the characters that are looked at in all; of each further text there are some, for items."""
        self._characters -= characters
        if self._redacts and (self._is_large or self._characters < 0):
            self.items -= characters / LONG_ITEM
        self._window = max(min(self._characters, self._window), _GLIMPSE) if self.bounded else math.inf

    def scalar(self, value: Any, kind: type, depth: int) -> Any:
        """Return the plain form of anything that is no builtin container."""
        self.items -= _OBJECT
        try:
            return self._scalar(value, kind, depth)
        except MetadataError:
            raise
        except Exception as error:  # a tensor that has no value to be read, a time zone that raises
            if is_the_callers(error):
                raise
            return _label(kind)

    def _scalar(self, value: Any, kind: type, depth: int) -> Any:  # noqa: C901, PLR0911 - one table of types
        if issubclass(kind, enum.Enum) and depth < _DEPTH:
            return self.plain(value._value_, depth + 1)
        if issubclass(kind, str):
            return self.text(str.__str__(value))
        if issubclass(kind, float):
            return float.__float__(value)
        if issubclass(kind, int):
            return self.plain(int.__int__(value))
        found = number(value, kind)
        if found is not None:
            return self.plain(found, _DEPTH)
        if self.strict:
            raise MetadataError(
                f"a value of type {kind.__name__} is not JSON: give str, int, float, bool, None, list or dict"
            )
        if issubclass(kind, (bytes, bytearray, memoryview)):
            return self.text(bytes(value[: 2 * LONG]).decode(errors="backslashreplace"))
        if kind in (datetime.datetime, datetime.date, datetime.time):
            return str(value.isoformat())
        if kind in _WORDS or issubclass(kind, pathlib.PurePath):
            return self.text(str(value))
        if issubclass(kind, BaseException):
            return self.text(f"{kind.__name__}: {self._arguments(value)}")
        fields = next((vars(base)[_FIELDS] for base in kind.__mro__ if _FIELDS in vars(base)), None)
        if fields is not None and depth < _DEPTH:
            return self.mapping({name: _field(value, name) for name in fields}, depth)
        return _label(kind)

    def _arguments(self, error: BaseException) -> str:
        inner = Walk(self.redactor, room=LONG // 2)
        inner.items = before = min(inner.items, self.items / 2)
        text = ", ".join(map(str, inner.fields(_ARGS(error)[:16])))
        self.items -= _ERROR + before - inner.items
        return text

    def _put(self, holder: Any, place: Any, held: Any) -> float:
        """Store what was walked; a long text as its head, until it is known how much of it fits. Return its cost."""
        if type(held) is LongText:
            self._texts.append((holder, place, held))
            holder[place] = held.head
        else:
            holder[place] = held
        return _cost(held)


def _cost(held: Any) -> int:
    """Bytes of what was walked; a container has paid for itself."""
    kind = type(held)
    if kind is str:
        return count_bytes(held) + HEADER
    if kind is LongText:
        return SHORT
    return 0 if kind is list or kind is dict else _NUMBER


def _is_number(value: Any, held: Any) -> bool:
    """Whether this is a number, True, False or None, of which none is a secret."""
    return type(held) in (int, float, bool, type(None)) or issubclass(type(value), int)


def _field(value: Any, name: str) -> Any:
    """Return a field of a dataclass without running a property."""
    for base in type(value).__mro__:
        state = vars(base).get("__dict__")
        if type(state) is types.GetSetDescriptorType and name in (held := state.__get__(value)):
            return held[name]
    for base in type(value).__mro__:
        member = vars(base).get(name)
        if type(member) is types.MemberDescriptorType:
            return member.__get__(value)
    return None


def _label(kind: type) -> str:
    """Return what stands for an object of `kind`; a metaclass that has its own opinion on names is not asked."""
    module, name = (vars(type)[what].__get__(kind) for what in ("__module__", "__qualname__"))
    return f"<{module}.{name}>" if type(module) is str else f"<{name}>"
