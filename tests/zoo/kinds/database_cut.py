"""The last twentieth of the database is cut off: it is told what was there, or said that it cannot be read."""

import os

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 40, 0.005)


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 0
    job.settle()
    path = job.folder / "node-0.db"
    os.truncate(path, path.stat().st_size * 95 // 100)
    return Said("unknown", ["unknown"], may=frozenset({"read"}), unchecked=frozenset({"steps", "productive", "quiet"}))
