"""Each rank is a shell script that runs two programs, one after the other: both make steps, and are one rank."""

import sys

from tests.zoo.life import Me
from tests.zoo.play import WORKER, Play, Said


def work(me: Me) -> None:
    """What each program does."""
    if me.once(f"prepared {me.rank}"):
        me.train(0, 4, stage="prepare")
    else:
        me.train(0, 8)


def play(job: Play) -> Said:
    """Play it."""
    program = f"{sys.executable} {WORKER} {job.kind} {job.folder}"
    # torchrun makes one of two $.
    script = ("/bin/sh", "-c", f"export ZOO_PID=$$$$; {program} && {program}; exit")
    assert job.torchrun("--no-python", script=script) == 0
    return Said("succeeded", ["succeeded"])
