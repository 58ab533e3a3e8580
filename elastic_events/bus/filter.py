"""Which records a lane wants, as one predicate."""

from collections.abc import Callable, Iterable
from fnmatch import translate
from re import compile as compile_pattern
from typing import Any

from elastic_events.bus.errors import ConfigError
from elastic_events.bus.record import Record

__all__ = ("Patterns", "wanted")

#: True for all, False for none, or one or more shell-style patterns on the name.
Patterns = bool | str | Iterable[str]


def wanted(
    events: Patterns = True,
    metrics: Patterns | None = None,
    source: str | None = None,
    where: Callable[[Record], bool] | None = None,
) -> Callable[[Record], bool] | None:
    """Return the predicate, or None where every record is wanted.

    Who names events gets no metrics unless they are asked for.

    Raises:
        ConfigError: `events` or `metrics` is neither a bool nor patterns.
    """
    if metrics is None:
        metrics = isinstance(events, bool)
    tests: list[Callable[[Record], bool]] = []
    if events is not True or metrics is not True:
        tests.append(_by_name(_matcher(events), _matcher(metrics)))
    if source is not None:
        text = str(getattr(source, "value", source))
        tests.append(lambda record: record.kind == "event" and record.fields[0] == text)
    if where is not None:
        tests.append(where)
    if len(tests) < 2:
        return tests[0] if tests else None
    return lambda record: all(test(record) for test in tests)


def _by_name(events: Callable[[str], Any], metrics: Callable[[str], Any]) -> Callable[[Record], bool]:
    return lambda record: bool((metrics if record.kind == "metric" else events)(record.name))


def _matcher(patterns: Patterns) -> Callable[[str], Any]:
    if isinstance(patterns, bool):
        return lambda _name: patterns
    try:
        names = [patterns] if isinstance(patterns, str) else list(patterns)
        expression = "|".join(map(translate, names))
    except TypeError:
        raise ConfigError(
            f"events and metrics are True, False, or patterns on the name such as 'worker.*'; not {patterns!r}"
        ) from None
    return compile_pattern(expression or r"(?!)").match
