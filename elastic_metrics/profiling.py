"""What `prof` measures: success, failure and duration of functions, coroutines and generators."""

import inspect
import time
import types
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from typing import Any

__all__ = ("get_metric_name", "profile_with")

#: Puts one point: group, name, value.
Publish = Callable[[str | None, str, int], object]


def get_metric_name(fn: Callable[..., Any]) -> str:
    """Return the name under which calls of `fn` are published."""
    while isinstance(fn, partial):
        fn = fn.func
    name: str = getattr(fn, "__qualname__", type(fn).__name__)
    module = getattr(fn, "__module__", None)
    return name if "." in name or not module else f"{module.rpartition('.')[2]}.{name}"


def profile_with(fn: Callable[..., Any], name: str | None, group: str | None, publish: Publish) -> Callable[..., Any]:
    """Return `fn` measured under `name`, or under its metric name where it is None.

    Its points go to `publish(group, name, value)`; what that raises changes nothing.
    """
    measure = partial(_Measure, fn if name is None else name, group, publish)
    own = _function_of(fn)
    if inspect.isasyncgenfunction(own):
        wrapper: Callable[..., Any] = _async_generator(fn, measure)
    elif inspect.iscoroutinefunction(own):
        wrapper = _coroutine(fn, measure)
    elif inspect.isgeneratorfunction(own):
        wrapper = _generator(fn, measure)
        if own.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE:  # decorated by `types.coroutine`: it can be awaited
            wrapper = types.coroutine(wrapper)
    else:
        wrapper = _function(fn, measure)
    return wraps(fn)(wrapper) if not isinstance(fn, partial) else wrapper


def _function_of(fn: Callable[..., Any]) -> Any:
    """Return what runs when `fn` is called: of a partial its function, of an object its `__call__`."""
    while isinstance(fn, partial):
        fn = fn.func
    # It says so itself: a function, also one that a compiler made, or that is marked.
    kinds = (inspect.isasyncgenfunction, inspect.iscoroutinefunction, inspect.isgeneratorfunction)
    return fn if any(is_one(fn) for is_one in kinds) else inspect.getattr_static(type(fn), "__call__", fn)


class _Measure:
    """One call: a context manager that publishes its outcome and lets every exception through."""

    __slots__ = ("_group", "_key", "_publish", "_start")

    def __init__(self, key: str | Callable[..., Any], group: str | None, publish: Publish) -> None:
        self._key = key
        self._group = group
        self._publish = publish

    def __enter__(self) -> None:
        self._start = time.monotonic_ns()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        took = (time.monotonic_ns() - self._start) // 1_000_000
        if kind is None:
            self._put("success", 1)
        elif issubclass(kind, Exception):
            self._put("failure", 1)
        self._put("duration.ms", took)

    def _put(self, what: str, value: int) -> None:
        with suppress(Exception):  # a handler that fails must never change what the function does
            # As torch: the name that the function has when it is called.
            key = self._key if isinstance(self._key, str) else get_metric_name(self._key)
            self._publish(self._group, f"{key}.{what}", value)


def _function(fn: Callable[..., Any], measure: Callable[[], "_Measure"]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with measure():
            return fn(*args, **kwargs)

    return wrapper


def _coroutine(fn: Callable[..., Any], measure: Callable[[], "_Measure"]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with measure():
            return await fn(*args, **kwargs)

    return wrapper


def _generator(fn: Callable[..., Any], measure: Callable[[], "_Measure"]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with measure():
            return (yield from fn(*args, **kwargs))

    return wrapper


def _async_generator(fn: Callable[..., Any], measure: Callable[[], "_Measure"]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with measure():
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
