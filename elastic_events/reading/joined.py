"""Which nodes completed a rendezvous together, as their agents said: moments at which their clocks can be compared."""

from collections.abc import Iterable, Iterator

from elastic_events.reading.clocks import Joined
from elastic_events.reading.said import Said, Told, integer

__all__ = ("joins",)


def joins(told: Iterable[Told]) -> Iterator[Joined]:
    """Give who completed which rendezvous, and when; a static one has no rounds: there the first attempts of its nodes count."""
    static: list[Joined] = []
    for process, facts, _ in told:
        host = process.context.host
        for said in facts:
            if said.name == "rendezvous.completed":
                number, *about = _integers(said, "round", "rank", "world_size")
                if number is not None:
                    yield Joined(host, number, said.time_ns, *about)
            elif said.name == "attempt.started":
                number, own, *about = _integers(said, "round", "attempt", "group_rank", "group_world_size")
                if number is None and own == 0:  # each begins the next one when it sees a failure
                    restarts = sum(said.name == "attempt.started" for said in facts)
                    static.append(Joined(host, -restarts, said.time_ns, *about))
    yield from _begun_together(static)


def _begun_together(static: list[Joined]) -> Iterator[Joined]:
    """Give the nodes' first attempts of a static rendezvous, with a round for each time that the job was begun."""
    ranks: dict[int | None, list[Joined]] = {}
    for join in static:
        ranks.setdefault(join.rank, []).append(join)
    size = len(ranks)
    whole = size > 1 and {(join.rank, join.world_size) for join in static} == {(rank, size) for rank in range(size)}
    # Of a job that was begun anew each rank is told again; on other hosts nothing says which belong together.
    if whole and {(len(own), len({join.host for join in own})) for own in ranks.values()} == {(len(ranks[0]), 1)}:
        for at, met in enumerate(zip(*ranks.values(), strict=True)):
            if len({join.round for join in met}) == 1:  # else one is back for a later attempt of another
                yield from (join._replace(round=-1 - at) for join in met)


def _integers(said: Said, *names: str) -> list[int | None]:
    facts = said.facts
    return [integer(facts.get(name)) for name in names]
