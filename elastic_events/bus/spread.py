"""Several calls of one handler at a time, those of one key one after the other."""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import NamedTuple

import anyio

from elastic_events.bus.record import Record
from elastic_events.bus.signals import ends_the_program
from elastic_events.bus.thread import protect

__all__ = ("Outcome", "call_each")


class Outcome(NamedTuple):
    """What is left of records that were handed out."""

    failed: list[tuple[Record, BaseException]]
    untried: list[Record]  #: those behind a failed one of their key


async def call_each(
    call: Callable[[Record], Awaitable[BaseException | None]],
    records: Sequence[Record],
    at_once: int,
    key: Callable[[Record], Hashable] | None,
    end: Callable[[BaseException], object],
) -> Outcome:
    """Call `call(record)`, which returns what failed, for each of `records`, up to `at_once` at a time.

    What a signal brought into a `key`, so that the program ends, goes to `end`.
    """
    chains: dict[Hashable, list[Record]] = {}
    for number, record in enumerate(records):
        chains.setdefault(number if key is None else _key(key, record, end), []).append(record)
    outcome = Outcome([], [])
    waiting = iter(chains.values())

    async def work() -> None:
        for chain in waiting:
            for place, record in enumerate(chain):
                if (error := await call(record)) is not None:
                    outcome.failed.append((record, error))
                    outcome.untried.extend(chain[place + 1 :])
                    break

    async with anyio.create_task_group() as tasks:
        for _ in range(min(at_once, len(chains))):
            tasks.start_soon(protect(work))
    return outcome


def _key(key: Callable[[Record], Hashable], record: Record, end: Callable[[BaseException], object]) -> Hashable:
    try:
        hash(found := key(record))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - the user's function; such records keep their order
        if ends_the_program(error):
            end(error)
        return None
    return found
