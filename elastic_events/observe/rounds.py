"""Which step of an optimizer ends a step of the loop, where there are several optimizers: learned from their order."""

from typing import Any
from weakref import ref

from elastic_events.api import Event, EventSource
from elastic_events.front import record

__all__ = ("Rounds",)

#: An optimizer that steps for the first time behind this many steps of others, and with a batch of its own, goes on alone.
_ALONE = 2


class Rounds:
    """The optimizers that step in turn, each once for a step of the loop. An optimizer is known by its `id`."""

    def __init__(self) -> None:
        self.only: int | None = None  #: the one optimizer that there is, if there is one: each step of it ends one
        self.unknown: bool = False  #: they step in no fixed round
        self.stepped: set[int] = set()  #: those that have stepped in this round
        self._ends: int | None = None  # the last of a round
        self._members: dict[int, Any] = {}  # of a round
        self._left: dict[int, Any] = {}  # those that were, and step no more
        self._formed = 0  # steps that had ended when the last one joined
        self._joined = False  # it has stepped but once, in the step that another one had ended

    def ended(self, optimizer: object, done: int, batch: bool) -> int:
        """Return how many steps of the loop have ended with this optimizer's: 0, 1, or 2, where the one before it was a step too.

        Args:
            optimizer: it has stepped.
            done: steps that ended before.
            batch: a batch was fetched since.
        """
        if self.unknown:
            return 1
        me = id(optimizer)
        if me not in self._members:
            return self._joins(optimizer, me, done, batch)
        if me == self._ends:
            alone = self._joined and len(self._members) == 2 and not self.stepped
            self._leave(self._members.keys() - self.stepped - {me})
            self._joined = False
            return 2 if alone else 1
        if me in self.stepped:
            self._have_no_order()
        self.stepped.add(me)
        return int(self.unknown)  # from now on each step of an optimizer is told

    def _joins(self, optimizer: object, me: int, done: int, batch: bool) -> int:
        alone = not self._members
        left = self._left.pop(me, None)
        if left is not None and left() is optimizer:
            self._have_no_order()
        elif (batch and done - self._formed >= _ALONE) or all(other() is None for other in self._members.values()):
            alone = True
            self._leave(self._members)
        self._members[me] = ref(optimizer)
        self._ends = me  # of those that join in a round, the last one
        self._formed, self._joined = done, not alone
        self._leave(())
        return int(alone or self.unknown)  # the first round's step has ended with its first optimizer

    def _leave(self, members: Any) -> None:
        for each in list(members):
            other = self._members.pop(each)
            if other() is not None:
                self._left[each] = other
        self.stepped.clear()
        self.only = self._ends if len(self._members) == 1 else None

    def _have_no_order(self) -> None:
        if not self.unknown:
            self.unknown = True
            reason = "several optimizers step in no fixed round"
            record(Event("observe.unknown", EventSource.WORKER, 0, {"what": "steps", "reason": reason}))
