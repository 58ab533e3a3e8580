"""`prof`: success, failure and duration of functions, coroutines and generators."""

import inspect
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from typing import Any, TypeVar, overload

__all__ = ("get_metric_name", "prof", "profile_with")

F = TypeVar("F", bound=Callable[..., Any])


@overload
def prof(fn: F, group: str = ...) -> F: ...
@overload
def prof(fn: None = ..., group: str = ...) -> Callable[[F], F]: ...
def prof(fn: Callable[..., Any] | None = None, group: str = "torchelastic") -> Any:
    """Publish `{name}.success` or `.failure` (1) and `{name}.duration.ms` for every call of the decorated function.

    Coroutines, generators and async generators are measured from their first step to their end, by a monotonic clock;
    one that is cancelled, closed early or left by Ctrl-C or `SystemExit` has a duration only. A handler that fails never
    changes what the function returns or raises. The name is `module.function`, or the qualified name of a method.
    """
    if fn is None:
        return lambda function: prof(function, group)
    return profile_with(fn, None, group)


def get_metric_name(fn: Callable[..., Any]) -> str:
    """Return the name under which calls of `fn` are published."""
    while isinstance(fn, partial):
        fn = fn.func
    name: str = getattr(fn, "__qualname__", type(fn).__name__)
    if len(name.split(".")) > 1:
        return name
    return f"{(getattr(fn, '__module__', None) or '').rpartition('.')[2]}.{name}"


def profile_with(fn: Callable[..., Any], name: str | None, group: str | None) -> Callable[..., Any]:
    """Return `fn` measured under `name`, or under the name of each call's own function where it is None."""
    key = name or get_metric_name(fn)
    if inspect.isasyncgenfunction(fn):
        wrapper: Callable[..., Any] = _async_generator(fn, key, group)
    elif inspect.iscoroutinefunction(fn):
        wrapper = _coroutine(fn, key, group)
    elif inspect.isgeneratorfunction(fn):
        wrapper = _generator(fn, key, group)
    else:
        wrapper = _function(fn, key, group)
    return wraps(fn)(wrapper) if not isinstance(fn, partial) else wrapper


class _Measure:
    """One call: a context manager that publishes its outcome and lets every exception through."""

    __slots__ = ("group", "key", "start")

    def __init__(self, key: str, group: str | None) -> None:
        self.key = key
        self.group = group

    def __enter__(self) -> None:
        self.start = time.monotonic_ns()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        took = (time.monotonic_ns() - self.start) // 1_000_000
        if kind is None:
            self.publish("success", 1)
        elif issubclass(kind, Exception):
            self.publish("failure", 1)
        self.publish("duration.ms", took)

    def publish(self, what: str, value: int) -> None:
        from elastic_metrics import api

        with suppress(Exception):  # a handler that fails must never change what the function does
            # Looked up at each call: programs and torch's tests replace it.
            api.getStream(self.group).add_value(f"{self.key}.{what}", value)


def _function(fn: Callable[..., Any], key: str, group: str | None) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with _Measure(key, group):
            return fn(*args, **kwargs)

    return wrapper


def _coroutine(fn: Callable[..., Any], key: str, group: str | None) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with _Measure(key, group):
            return await fn(*args, **kwargs)

    return wrapper


def _generator(fn: Callable[..., Any], key: str, group: str | None) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with _Measure(key, group):
            return (yield from fn(*args, **kwargs))

    return wrapper


def _async_generator(fn: Callable[..., Any], key: str, group: str | None) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with _Measure(key, group):
            source = fn(*args, **kwargs)
            step = source.asend(None)
            try:
                while True:
                    try:
                        item = await step
                    except StopAsyncIteration:
                        return
                    try:
                        sent = yield item
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001 - thrown in by the consumer: the source decides
                        step = source.athrow(error)
                    else:
                        step = source.asend(sent)
            finally:
                await source.aclose()

    return wrapper
