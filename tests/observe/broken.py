"""Runs a loop once for each fault that is planted in the observer: `broken.py FOLDER PLANT...`, each in a child of its own."""

import os
import sys
from pathlib import Path

import torch

from tests.observe import loops

# As if it were raised in code of ours: what is raised in a script's own code is the script's.
planted = {}
exec(compile("def fail(*args, **options):\n    raise RuntimeError('planted')", "<frozen planted>", "exec"), planted)
exec(
    compile("def circle(*args, **options):\n    torch.save(1, 'circle.pt')", "<frozen planted>", "exec"),
    {"torch": torch},
    planted,
)


def plant(what):
    from elastic_events.observe import last_words, saving, seam, stepping

    kind, _, place = what.partition(":")
    owner, _, name = place.rpartition(".")
    modules = {"last_words": last_words, "saving": saving, "seam": seam, "steps": stepping.Steps}
    if kind == "gone":
        delattr(sys.modules["torch.optim.optimizer"], name)
    else:
        setattr(modules[owner], name, planted[kind])


def run(folder, what):
    os.environ.update(ELASTIC_EVENTS_DIR=str(folder / "recorders"), ELASTIC_EVENTS_OBSERVE="on", RANK="0")
    (folder / "work").mkdir(parents=True)
    os.chdir(folder / "work")
    plant(what)
    import elastic_events.observe

    elastic_events.observe.autoload()
    (folder / "steps").write_text(str(loops.saves()))
    if "last_words" in what:
        sys.exit(5)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    for number, what in enumerate(sys.argv[2:]):
        child = os.fork()
        if not child:
            run(Path(sys.argv[1], str(number)), what)
            sys.exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
