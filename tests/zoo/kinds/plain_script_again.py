"""A plain script that ends before its training does, and is run again under the same run id: it goes on from its checkpoint."""

import os
from pathlib import Path

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def play(job: Play) -> Said:
    """Play it."""
    job.sources = [str(job.folder / "run.db")]
    script = ("-m", "tests.zoo.kinds.plain_script_again")
    for life in range(2):  # which the truth tells by the port
        assert job.program(*script, ELASTIC_EVENTS_RUN_ID="zoo", MASTER_PORT=str(life)) == 0
    return Said(
        "unknown", ["unknown", "unknown"], restarts=None, may=frozenset({"world"}), unchecked=frozenset({"steps"})
    )


if __name__ == "__main__":
    import elastic_events

    elastic_events.start("sqlite:///run.db")
    me = Me(Path(os.environ["ZOO_FOLDER"]))
    if me.once("first"):
        me.train(0, 10)
        with me.checkpoint(9):
            pass
        me.train(10, 14)
    else:
        me.train(10, 20)
