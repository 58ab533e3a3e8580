"""The marks that a framework's callback makes of its loop. They are a script's own: they win over what hooks observe."""

from collections.abc import Callable, Collection
from functools import wraps
from typing import Any

from elastic_events.observe.guard import guarded
from elastic_events.training import mark

__all__ = ("Marks",)

#: What is marked -> the part of `ELASTIC_EVENTS_OBSERVE` that it belongs to, and the field of its number.
_KINDS = {
    "step": ("steps", "step"),
    "epoch": ("steps", "epoch"),
    "evaluation": ("steps", "step"),
    "checkpoint": ("checkpoints", "step"),
    "restore": ("checkpoints", "step"),
}


class Marks:
    """The marks of one loop, which is in one step, one epoch and one evaluation at a time. No method raises.

    Args:
        parts: of `ELASTIC_EVENTS_OBSERVE`; what belongs to another one is not marked.
    """

    def __init__(self, parts: Collection[str] = ("steps", "checkpoints")) -> None:
        self._kinds = {what: field for what, (part, field) in _KINDS.items() if part in parts}
        self._open: dict[str, Any] = {}

    @guarded("marks")
    def begin(self, what: str, number: int | None) -> None:
        """Begin to mark `what`; where that is open already, go on with it."""
        if what in self._kinds and what not in self._open:
            self._open[what] = mark(what, **{self._kinds[what]: number}).__enter__()

    @guarded("marks")
    def end(self, what: str, error: type[BaseException] | None = None) -> None:
        """End the mark of `what`, if it is open; `error`: an exception left it."""
        if what in self._open:
            self._open.pop(what).__exit__(error, None, None)

    def close(self, error: type[BaseException] | None = None) -> None:
        """End whatever is open."""
        for what in reversed(list(self._open)):
            self.end(what, error)

    @guarded("marks")
    def around(
        self,
        owner: Any,
        name: str,
        what: str,
        number: Callable[..., int | None],
        held: str = "",
    ) -> None:
        """Mark each call of `owner.name` as `what`, with `number` of its arguments. The second time does nothing.

        Where only its result says how many steps it holds, `held` is the key of that.
        """
        original = getattr(owner, name)
        if getattr(original, "marks", None) is self:
            return

        @wraps(original)
        def call(*args: Any, **options: Any) -> Any:
            self._begin_call(what, number, args)
            try:
                result = original(*args, **options)
            except BaseException as error:
                self.end(what, type(error))
                raise
            self._learn(what, held, result)
            self.end(what)
            return result

        vars(call)["marks"] = self
        setattr(owner, name, call)

    @guarded("marks")
    def _learn(self, what: str, held: str, result: Any) -> None:
        count = result.get(held) if held else None
        if count and what in self._open:
            self._open[what].add(**{self._kinds[what]: count - 1})

    @guarded("marks")
    def _begin_call(self, what: str, number: Callable[..., int | None], args: tuple[Any, ...]) -> None:
        self.begin(what, number(*args))
