"""A script under torchrun that starts a sink of its own: the job's database has its steps all the same."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    import elastic_events

    elastic_events.start(f"jsonl:///own-{me.rank}.jsonl")
    me.train(0, 6)


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 0
    return Said("succeeded", ["succeeded"])
