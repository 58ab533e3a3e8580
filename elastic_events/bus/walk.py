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
from collections.abc import Container, Iterable
from itertools import chain, islice
from typing import Any

import msgspec

from elastic_events.bus.errors import MetadataError
from elastic_events.bus.numbers import big, number
from elastic_events.bus.redact import NAMES, REDACTED, VALUES, Redactor, cut_secrets, redact_arguments
from elastic_events.bus.shape import class_name
from elastic_events.bus.signals import is_the_callers
from elastic_events.bus.text import LONG, LongText, both_ends, count_bytes, head_of, tail_of, utf8, whole

__all__ = ("Walk", "plain")

_DEPTH = 16

#: Items that a walk looks at one by one, at a microsecond each; of what holds nothing but numbers, so many at once.
ITEMS = 128
BULK = 1024

#: So many where there are more than `MANY`, numbers apart, of which most stay away in any case: not to stall who emits; and a
#: record's own fields, if they are no more than `BESIDE`.
MANY = 512
FEW = 48
BESIDE = 64
FEW_NUMBERS = 256

#: Items that it costs beside to look at a name or a text for the first time, and to search a name that may be a secret's.
_LOOK = 2
_SEARCH = 4

#: Items that it costs where an object raises: whose exception it is takes 40 microseconds to find out.
_RAISED = 16
_MOST = 4096  # where nothing is said of time

#: Names and texts that are new and are looked at together; each costs so much of an item; of a large one the first.
_TOGETHER = 16
_SHARE = 0.25
_FIRST = 32

#: Characters of a key that stay, and of a text that is cut to let others in.
KEY = 256
SHORT = 128

#: Bytes of a number; before a text; of a container with the note of what it lacks.
_NUMBER = 9
_HEADER = 5
_NOTE = 64

_PAIR = NAMES | VALUES
_PLAIN = frozenset({type(None), bool, float})
_NUMBERS = frozenset({int, float, bool, type(None)})
_KEYS = _NUMBERS | {str}
_NUMBER_64 = range(-(2**63), 2**64)
_CONTAINERS = (dict, list, tuple, set, frozenset)

_WORDS = (decimal.Decimal, fractions.Fraction, uuid.UUID, datetime.timedelta, complex)
_FIELDS = "__dataclass_fields__"
_ARGS: Any = vars(BaseException)["args"].__get__

_encode = msgspec.msgpack.Encoder().encode


def plain(value: Any) -> Any:
    """Return `value` as None, bool, int, float, str, list and dict, however large; see `Walk`."""
    walk = Walk()
    return walk.finish([walk.plain(value)])[0]


class Walk:
    """One pass over a caller's value, into at most `room` bytes of msgpack.

    What does not fit is left out whole, and a note says how many items that were. Long texts share the room that the rest
    leaves, each with its head and its tail. What is short comes before what is nested.

    Subclasses of builtins are read through the builtin's own methods, objects of unknown classes become `<module.Class>`:
    their `__str__` could raise, sleep or emit (F59).
    """

    def __init__(self, redactor: Redactor | None = None, *, room: float = math.inf, strict: bool = False) -> None:
        self.redactor = redactor
        self._redacts = redactor is not None and redactor.redacts
        self._safe: Container[str] = redactor.safe if redactor is not None else ()
        self.strict = strict
        self.room: float = room
        self.bounded: bool = room < math.inf
        self.items: float = float(ITEMS) if self.bounded else math.inf
        self.bulk = BULK if self.bounded else _MOST
        self._characters = 2.0 * LONG
        self._window: float = LONG if self.bounded else math.inf
        self._texts: list[tuple[Any, Any, LongText]] = []

    def fields(self, values: Iterable[Any]) -> list[Any]:
        """Return the plain forms of a record's fields, all of them."""
        given = list(values)
        self._learn(given)
        result: list[Any] = [None] * len(given)
        for place in sorted(range(len(given)), key=lambda place: isinstance(given[place], _CONTAINERS)):
            cost = self._put(result, place, self.plain(given[place]))  # which takes its own part of the room
            self.room -= cost
        return self.finish(result)

    def _learn(self, values: list[Any]) -> None:
        """Look at the new names and short texts in `values` and what they hold together, as far as the walk may come."""
        redactor = self.redactor
        if redactor is None or not self._redacts:
            return
        names: list[Any] = []
        found = [*values]
        size = 0
        for value in found:  # which grows meanwhile
            if (left := ITEMS - len(found)) <= 0:
                break
            if type(value) is dict:
                size += len(value) * (not _are_numbers(value, 1))  # those cost little
                names += islice(value, left)
                found += islice(value.values(), left)
            elif type(value) is list or type(value) is tuple:
                size += len(value) * (not _NUMBERS.issuperset(map(type, value[:1])))
                found += islice(value, left)
        names = [one for one in names if type(one) is str and len(one) <= SHORT and one not in redactor.safe]
        texts = [one for one in found if type(one) is str and len(one) <= SHORT and one not in redactor.texts]
        most = _FIRST if len(found) >= ITEMS else ITEMS  # it is large, and not all of it stays
        if size > MANY:
            beside = sum([len(value) for value in values if type(value) is dict and len(value) <= BESIDE])
            most = max(_TOGETHER, beside)
            self.items = min(self.items, FEW + beside)
        del names[most:], texts[most:]
        for at in range(0, max(len(names), len(texts)), _TOGETHER):
            redactor.learn(names[at : at + _TOGETHER], texts[at : at + _TOGETHER])
        self.items -= _SHARE * (len(names) + len(texts))

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
                holder[place] = text.cut(share - _HEADER)
                room -= min(share, text.size + _HEADER)
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
        size = dict.__len__(value)
        if size > 4 and (bulk := self._numbers(value, size)) is not None:
            return bulk
        result: dict[Any, Any] = {}
        repeats: dict[Any, int] = {}
        nested: list[tuple[Any, Any]] = []
        pair: dict[Any, Any] = {}
        self.room -= _NOTE
        for key, item in self._some(dict.items(value), size):
            known = type(key) is str and key in self._safe and key.isascii()
            secret = not known and self._is_secret_name(key)
            name = key if known else self.key(key)
            cut = name is not key
            if name in result:
                name = _unused(name, result, repeats)
            kind = type(item)
            cost = len(name) + _HEADER if known else _cost(name)
            deep = False
            if kind in _PLAIN:  # which is no secret
                held, cost = item, cost + _NUMBER
            else:
                # As it is, and as it was: of a long one the name is cut.
                secret = secret or (cut and self._is_secret_name(name))
                deep = issubclass(kind, _CONTAINERS) and not secret
                held = None if deep else self.plain(item, depth + 1)
                if secret and not _is_number(item, held):
                    held = REDACTED
                cost += _NOTE if deep else _cost(held)
                if name in _PAIR and (deep or not _is_number(item, held)):
                    pair[name] = item
            if cost > self.room or self.items <= 0:
                break
            self.items -= 1
            self.room -= cost
            if type(held) is LongText:
                self._put(result, name, held)
            else:
                result[name] = held
            if deep:
                nested.append((name, item))
        if nested:
            self._descend(result, nested, depth)
        if pair and depth and self._redacts and (self._names_a_secret(pair) or _lacks_a_name(result, size)):
            result |= dict.fromkeys(VALUES.intersection(pair, result), REDACTED)
        if len(result) < size:
            note = _unused("truncated", result, repeats) if "truncated" in result else "truncated"
            result[note] = f"{size - len(result)} more"
        return result

    def sequence(self, items: Iterable[Any], size: int, depth: int) -> list[Any]:  # noqa: C901 - as above
        """Return a list of the items that there is room for."""
        if size > 4:
            part = list(islice(items, self.bulk))
            if _NUMBERS.issuperset(map(type, part)) and (bulk := self._list_of_numbers(part, size)) is not None:
                return bulk
            items = chain(part, items)
        result: list[Any] = []
        nested: list[tuple[Any, Any]] = []
        self.room -= _NOTE
        for item in self._some(items, size):
            kind = type(item)
            deep = False
            if kind in _PLAIN:
                held, cost = item, _NUMBER
            else:
                deep = issubclass(kind, _CONTAINERS)
                held = self._secret_pair(item, kind) if deep else self.plain(item, depth + 1)
                deep = deep and held is None
                cost = _NOTE if deep else _cost(held)
            if cost > self.room or self.items <= 0:
                break
            self.items -= 1
            self.room -= cost
            if deep:
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
        return list(islice(items, int(min(size, max(self.items, 0), _MOST))))

    def _is_secret_name(self, name: Any) -> bool:
        redactor = self.redactor
        if redactor is None or not self._redacts or type(name) is not str or name in redactor.safe:
            return False
        quick = redactor.is_quick(name)
        self.items -= _LOOK if quick else _SEARCH + min(len(name), KEY // 4) // 6
        return redactor.is_secret(name, quick)

    def _secret_pair(self, item: Any, kind: type) -> list[Any] | None:
        """Return what stays of an item of a list that is the name of a secret and its value; None of another."""
        if not self._redacts or not issubclass(kind, (list, tuple)):
            return None
        base: Any = list if issubclass(kind, list) else tuple
        if base.__len__(item) != 2 or len(both := list(base.__iter__(item))) != 2:
            return None
        name, value = both
        if type(name) is bytes:  # as ASGI has its headers
            name = name[:KEY].decode("latin-1")
        elif isinstance(name, str):  # NumPy's, say
            name = str.__str__(name)
        if type(name) is not str or type(value) in _NUMBERS or not self._is_secret_name(name):
            return None
        self.room -= KEY + _NOTE
        return [self.key(name), REDACTED]

    def _names_a_secret(self, pair: dict[str, Any]) -> bool:
        """Whether a dict says that its value is a secret: {"name": "HF_TOKEN", "value": "..."}."""
        names = [name for place, name in pair.items() if place in NAMES and type(name) is str]
        return not VALUES.isdisjoint(pair) and any(self._is_secret_name(name) for name in names)

    def _descend(self, result: Any, nested: list[tuple[Any, Any]], depth: int) -> None:
        """Walk the containers in a container: each may take what those behind it are not likely to need."""
        self.room += _NOTE * len(nested)
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
                room = min(_NOTE * (len(nested) - at - 1) + 32.0 * behind, self.room * others)
                items = min(float(behind), self.items * others)
            self.room, self.items = self.room - room, self.items - items
            result[place] = self.plain(item, depth + 1)
            self.room, self.items = self.room + room, self.items + items

    def _numbers(self, value: dict[Any, Any], size: int) -> dict[Any, Any] | None:
        """Return a dict of nothing but numbers, at once: none of them is a secret. None for another."""
        try:
            count = self._how_many(value, size)
            if not _are_numbers(value, count):
                return None
            part = dict(islice(dict.items(value), count))
            length = len(_encode(part))
            names = [key for key in part if type(key) is str]
            too_long = length + _NOTE > self.room and max(map(len, names), default=0) > KEY
            if too_long or (self.redactor is not None and self.redactor.carry(names)):
                return None
        except (ValueError, OverflowError):  # a lone surrogate, a number of more than 64 bits
            return None
        for key in islice(part, _FIRST):  # next time they are known
            if type(key) is str and key not in self._safe:
                self._is_secret_name(key)
                if self.items < ITEMS // 2:
                    break
        while part and length + _NOTE > self.room:
            count = min(len(part) - 1, int(len(part) * max(self.room - _NOTE, 0) / length))
            part = dict(islice(part.items(), count))
            length = len(_encode(part))
        self.room -= length
        if len(part) < size:
            part["truncated" if "truncated" not in part else _unused("truncated", part, {})] = (
                f"{size - len(part)} more"
            )
        return part

    def _how_many(self, value: dict[Any, Any], size: int) -> int:
        """Return how many items of a dict need be taken: of one of numbers little more than fit, by its first."""
        count = min(size, self.bulk)
        if count <= _FIRST or not _are_numbers(value, _FIRST):
            return count
        some = dict(islice(dict.items(value), _FIRST))
        fit = self.room * len(some) / len(_encode(some))
        return count if count <= fit else FEW_NUMBERS if size > MANY else int(min(count, 1.2 * fit + _FIRST))

    def _list_of_numbers(self, part: list[Any], size: int) -> list[Any] | None:
        """As `_numbers`, of a list."""
        try:
            length = len(_encode(part))
        except OverflowError:
            return None
        while part and length + _NOTE > self.room:
            part = part[: min(len(part) - 1, int(len(part) * max(self.room - _NOTE, 0) / length))]
            length = len(_encode(part))
        self.room -= length
        return part if len(part) == size else [*part, f"[truncated: {size - len(part)} more]"]

    def key(self, key: Any, depth: int = 0) -> Any:
        """Return a key: a number as it is, all else as text."""
        kind = type(key)
        if kind is str:
            looks = self._redacts and key not in self._safe
            self.items -= looks * min(len(key), 5 * KEY) // (KEY // 4) + (depth > 0)
            return utf8(both_ends(key, KEY, cut_secrets if looks else whole))
        if kind in _NUMBERS:
            return key if kind is not int or key in _NUMBER_64 else big(key)
        if issubclass(kind, (tuple, frozenset)):
            base: Any = tuple if issubclass(kind, tuple) else frozenset
            few = 0 if depth > 2 or self.items <= 0 else 8
            some = [self.key(part, depth + 1) for part in islice(base.__iter__(key), few)]
            text = repr(some if len(some) == base.__len__(key) else [*some, "..."])
        else:
            self.items -= 1
            held = self.scalar(key, kind, _DEPTH)
            text = held if type(held) is str else held.head if type(held) is LongText else repr(held)
        return both_ends(text, KEY)

    # --- what holds nothing ---

    def text(self, value: str) -> Any:
        """Return text that UTF-8 can hold, without the secrets in it; a long one as `LongText`."""
        if self.redactor is not None and self._redacts:
            if value in self.redactor.texts:
                cut = whole
            else:
                self.items -= _LOOK
                cut = whole if len(value) <= SHORT and self.redactor.passes(value) else cut_secrets
        else:
            cut = whole
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
        """Take from the characters that are looked at in all; of each further text there are some."""
        self._characters -= characters
        self._window = max(min(self._characters, LONG), 4 * SHORT) if self.bounded else math.inf

    def scalar(self, value: Any, kind: type, depth: int) -> Any:
        """Return the plain form of anything that is no builtin container."""
        try:
            return self._scalar(value, kind, depth)
        except MetadataError:
            raise
        except Exception as error:  # a tensor that has no value to be read, a time zone that raises
            if is_the_callers(error):
                raise
            self.items -= _RAISED
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
            return self.text(_first_bytes(value, kind).decode(errors="backslashreplace"))
        if kind in (datetime.datetime, datetime.date, datetime.time):
            return str(value.isoformat())
        if issubclass(kind, pathlib.PurePath):
            return self.text(pathlib.PurePath.__str__(value))
        if kind in _WORDS:
            return self.text(str(value))
        if issubclass(kind, BaseException):
            return self.text(f"{class_name(value)}: {self._arguments(value)}")
        fields = next((vars(base)[_FIELDS] for base in kind.__mro__ if _FIELDS in vars(base)), None)
        if fields is not None and depth < _DEPTH:
            return self.mapping({name: _field(value, name) for name in fields}, depth)
        return _label(kind)

    def _arguments(self, error: BaseException) -> str:
        # It may hold exceptions, and they others: each takes of what the walk may still look at, and leaves half of it.
        inner = Walk(self.redactor, room=LONG // 2)
        start = inner.items = min(inner.items, self.items / 2)
        given = _ARGS(error)[: int(max(min(start, 16), 0))]
        inner.items -= len(given)
        inner._characters, inner._window = min(inner._characters, self._characters), min(inner._window, self._window)
        text = ", ".join(map(str, inner.fields(given)))
        self.items -= start - inner.items
        if self.bounded:
            self._characters, self._window = inner._characters, inner._window
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
        return count_bytes(held) + _HEADER
    if kind is LongText:
        return SHORT
    return 0 if kind is list or kind is dict else _NUMBER


def _unused(name: Any, taken: dict[Any, Any], repeats: dict[Any, int]) -> str:
    """Return another name than those `taken`; `repeats` knows where the search for the same name ended last."""
    while True:
        repeats[name] = number_ = repeats.get(name, 0) + 1
        other = f"{name}'" if number_ == 1 else f"{name}'{number_}"
        if other not in taken:
            return other


def _are_numbers(value: dict[Any, Any], count: int) -> bool:
    """Whether the first `count` items of a dict are numbers, each under a text or a number."""
    numbers = _NUMBERS.issuperset(map(type, islice(dict.values(value), count)))
    return numbers and _KEYS.issuperset(map(type, islice(dict.keys(value), count)))


def _lacks_a_name(result: dict[Any, Any], size: int) -> bool:
    """Whether what is left out of a dict may be the name of its value."""
    return len(result) < size and NAMES.isdisjoint(result)


def _is_number(value: Any, held: Any) -> bool:
    """Whether this is a number, True, False or None, of which none is a secret."""
    return type(held) in (int, float, bool, type(None)) or issubclass(type(value), int)


def _first_bytes(value: Any, kind: type) -> bytes:
    """Return the first bytes of an object of bytes, by the builtin's own method; of a view of many dimensions whole rows.

    Raises:
        ValueError: its first row is too long.
    """
    if kind is not memoryview:
        base: Any = bytes if issubclass(kind, bytes) else bytearray
        return bytes(base.__getitem__(value, slice(2 * LONG)))
    rows = len(value) if value.nbytes <= 2 * LONG else 2 * LONG * len(value) // value.nbytes
    if rows < min(len(value), 1):
        raise ValueError
    return bytes(value[:rows])


def _field(value: Any, name: str) -> Any:
    """Return a field of a dataclass without running a property."""
    state = getattr(value, "__dict__", {})
    if name in state:
        return state[name]
    for base in type(value).__mro__:
        member = vars(base).get(name)
        if type(member) is types.MemberDescriptorType:
            return member.__get__(value)
    return None


def _label(kind: type) -> str:
    """Return what stands for an object of `kind`; a metaclass that has its own opinion on names is not asked."""
    module, name = (vars(type)[what].__get__(kind) for what in ("__module__", "__qualname__"))
    return f"<{module}.{name}>" if type(module) is str else f"<{name}>"
