"""A plain script, without rank or agent, that marks its steps: nobody says what became of it."""

import os
from pathlib import Path

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def play(job: Play) -> Said:
    """Play it."""
    job.sources = [str(job.folder / "run.db")]
    assert job.program("-m", "tests.zoo.kinds.plain_script") == 0
    return Said("unknown", ["unknown"], may=frozenset({"world"}), unchecked=frozenset({"steps"}))


if __name__ == "__main__":
    import elastic_events

    elastic_events.start("sqlite:///run.db")
    me = Me(Path(os.environ["ZOO_FOLDER"]))
    me.train(0, 10)
    with me.checkpoint(9):
        pass
    me.train(10, 14)
