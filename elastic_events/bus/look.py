"""What a walk may spend, and how it looks for secrets: at a name, at some of a container, at all of one that is flat."""

import math
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec

from elastic_events.bus.redact import Redactor, is_word, nothing

__all__ = (
    "HEADER",
    "ITEMS",
    "KEY",
    "LARGE",
    "LONG_ITEM",
    "LOOK",
    "MANY",
    "MOST",
    "NOTE",
    "NUMBERS",
    "SHORT",
    "Look",
    "unused",
)

#: Items that a walk looks at one by one, at a microsecond each; of what holds nothing but numbers and short texts it takes
#: so many at once, which cost as much as one of the others.
ITEMS = 128
_FLATS = 8
MANY = ITEMS * _FLATS
MOST = 4096  # where nothing is said of time

#: Items that it costs beside to look at a name or a text alone for the first time, and to search a name that may be a secret's.
LOOK = 2
_SEARCH = 9

#: Characters of a long text, or of those that are looked at together, that cost as much as an item.
LONG_ITEM = 50

#: Names and texts of a large container that are looked at together: one by one that takes four times as long.
_CHUNK = 16

#: Characters of names and texts that are looked at at once; and names of numbers, the first time.
_LOOKED_AT = 3072
_LEARNT = 64

#: Characters of a key that stay, and of a text that is cut to let others in.
KEY = 256
SHORT = 128

#: Characters of a key in which a secret's name is looked for; what stands under a longer one is redacted.
_LONGEST_KEY = 2048

#: Items of a container that is large.
LARGE = 32

#: Bytes before a text; of a container with the note of what it lacks.
HEADER = 5
NOTE = 64

NUMBERS = frozenset({int, float, bool, type(None)})
_FLAT = NUMBERS | {str}

_encode = msgspec.msgpack.Encoder().encode


class Look:
    """Has `room` bytes and so many items to spend, or no bound."""

    def __init__(self, redactor: Redactor | None, room: float) -> None:
        self.redactor = redactor
        self.is_secret: Callable[[str], bool] = nothing if redactor is None else redactor.is_secret
        self._redacts = self.is_secret is not nothing
        self._safe: Container[str] = redactor.safe if redactor is not None else ()
        self._names: set[str] = set()  # looked at in this walk, and no secret's
        self._clean: set[str] = set()
        self.room: float = room
        self.bounded: bool = room < math.inf
        self.items: float = float(ITEMS) if self.bounded else math.inf

    def _vetted(self, some: list[Any], *, keyed: bool) -> Iterator[Any]:
        """Return items; the names and the short texts of many are looked at together, those that come first at first."""
        redactor = self.redactor
        if redactor is None or not self._redacts:
            yield from some
            return
        for at in range(0, len(some), _CHUNK):
            part = some[at : at + _CHUNK]
            values: Iterable[Any] = part
            if keyed:
                keys, values = zip(*part, strict=True)
                names = [key for key in keys if type(key) is str and key not in redactor.safe and len(key) <= KEY]
                if names and redactor.clears_names(names):
                    self._names.update(names)
            texts = [one for one in values if type(one) is str and len(one) <= SHORT]
            marked = [one for one in texts if one not in redactor.texts and not is_word(one)]
            if not marked or redactor.clears_texts(marked):
                self._clean.update(texts)
            yield from part

    def _is_secret_name(self, key: Any, name: Any) -> bool:
        redactor = self.redactor
        if redactor is None or not self._redacts:
            return False
        for text in (key,) if name is key else (key, name):
            if type(text) is str and text not in redactor.safe and text not in self._names:
                if len(text) > _LONGEST_KEY:
                    return True
                search = LOOK if redactor.is_quick(text) else _SEARCH + min(len(text), KEY // 4) // 3
                self.items -= search + len(text) // SHORT
                if redactor.is_secret(text):
                    return True
        return False

    def _flat(self, value: dict[Any, Any], size: int) -> dict[Any, Any] | None:
        """Return a dict of nothing but numbers and short texts, none of them a secret, at once. None for another."""
        if self.items <= 0 or self.room < 2 * NOTE:
            return None
        some = part = _first(value, LARGE)
        try:
            if not (some and self._is_flat(some, some.values())):
                return None
            if size > LARGE:  # few of which fit need not all be taken
                fit = self._bulk(some.values(), len(_encode(some)) / len(some))
                part = _first(value, fit)
                if not (part and self._is_flat(part, part.values())):
                    return None
            length = len(_encode(part))
            if length + NOTE > self.room and max([len(key) for key in part if type(key) is str], default=0) > KEY:
                return None
        except (ValueError, OverflowError):  # a lone surrogate, a number of more than 64 bits
            return None
        while length + NOTE > self.room:
            fewer = min(len(part) - 1, int(len(part) * max(self.room - NOTE, 0) / length))
            part = dict(islice(part.items(), fewer))
            length = len(_encode(part))
        self._pay(part.values(), length)
        if len(part) < size:
            part["truncated" if "truncated" not in part else unused("truncated", part, {})] = f"{size - len(part)} more"
        return part

    def _flat_list(self, items: Iterable[Any], size: int) -> list[Any] | None:
        """As `_flat`, of a list, from its first items."""
        if self.items <= 0 or self.room < 2 * NOTE:
            return None
        some = part = list(islice(items, LARGE))
        try:
            if not self._is_flat((), some):
                return None
            if size > LARGE:
                fit = self._bulk(some, len(_encode(some)) / len(some))
                part = [*some, *islice(items, min(size, fit) - LARGE)]
                if not self._is_flat((), part):
                    return None
            length = len(_encode(part))
        except (ValueError, OverflowError):
            return None
        while length + NOTE > self.room:
            part = part[: min(len(part) - 1, int(len(part) * max(self.room - NOTE, 0) / length))]
            length = len(_encode(part))
        self._pay(part, length)
        return part if len(part) == size else [*part, f"[truncated: {size - len(part)} more]"]

    def _bulk(self, values: Iterable[Any], length: float) -> int:
        """Return how many items such as these, each of so many bytes, fit and can be looked at."""
        if not self.bounded:
            return MOST
        room = 1.02 * self.room
        if str in map(type, values):
            room = min(room, _LOOKED_AT, self.items * LONG_ITEM)
        return int(max(min(self.items * _FLATS, room / length), LARGE))

    def _pay(self, values: Collection[Any], length: int) -> None:
        self.room -= length
        self.items -= len(values) / _FLATS + (length / LONG_ITEM if str in map(type, values) else 0)

    def _is_flat(self, names: Collection[Any], values: Collection[Any]) -> bool:
        """Whether these are numbers and short texts, and none is a secret. Of numbers none is, whatever its name."""
        kinds = set(map(type, values))
        if not _FLAT.issuperset(kinds):
            return False
        if str not in kinds:
            self._learn(names)
            return True
        texts = [one for one in values if type(one) is str]
        if len(max(texts, key=len)) > SHORT:
            return False
        if self.redactor is None or not self._redacts:
            return True
        new = [name for name in names if type(name) is str and name not in self._safe]
        marked = [text for text in texts if not is_word(text)]
        return (
            sum(map(len, new)) + sum(map(len, marked)) <= _LOOKED_AT
            and (not new or self.redactor.clears_names(new))
            and (not marked or self.redactor.clears_texts(marked))
        )

    def _learn(self, names: Iterable[Any]) -> None:
        """Look at some names of numbers, so that they are known the next time."""
        if self.redactor is None or not self._redacts:
            return
        new = [name for name in islice(names, _LEARNT) if type(name) is str and name not in self._safe]
        if new and not self.redactor.clears_names(new):
            for name in new:
                self._is_secret_name(name, name)
                if self.items < ITEMS // 2:
                    break


def _first(value: dict[Any, Any], count: int) -> dict[Any, Any]:
    """Return the first items; none if to hash their keys once more runs somebody's code."""
    if not _FLAT.issuperset(map(type, islice(dict.keys(value), count))):
        return {}
    return dict(islice(dict.items(value), count))


def unused(name: Any, taken: dict[Any, Any], repeats: dict[Any, int]) -> str:
    """Return another name than those `taken`; `repeats` knows where the search for the same name ended last."""
    while True:
        repeats[name] = number_ = repeats.get(name, 0) + 1
        other = f"{name}'" if number_ == 1 else f"{name}'{number_}"
        if other not in taken:
            return other
