"""The collector is killed in the middle of the job, twice; the shell that looks after it starts it again."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 5)
    me.tell("ready")
    me.meet_file("go")
    for number in range(5, 12):
        with me.step(number):
            if number == 8 and me.rank == 1:
                me.die("SIGKILL")


def play(job: Play) -> Said:
    """Play it."""
    agent = job.agent()
    job.until("ready", 2)
    job.kill_collectors()
    (job.folder / "go").touch()
    job.until("dies")
    job.kill_collectors()
    assert agent.wait() == 1
    return Said("failed", ["failed"])
