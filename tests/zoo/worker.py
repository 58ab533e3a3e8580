"""A worker of a kind: `worker.py KIND FOLDER` does what the kind's `work` says; a variant stands in the environment."""

import sys
from importlib import import_module
from pathlib import Path


def main() -> None:
    """Live one life."""
    from tests.zoo.life import Me

    kind, folder = sys.argv[1:3]
    work = import_module(f"tests.zoo.kinds.{kind}").work
    me = Me(Path(folder))
    work(me)
    me.tell("done")


if __name__ == "__main__":
    main()
