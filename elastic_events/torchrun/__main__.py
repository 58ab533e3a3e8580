"""`python -m elastic_events.torchrun ...`: torchrun with the plug-in, for torch versions that look for none."""

import os


def main() -> None:
    """Be torchrun."""
    os.environ.setdefault("ELASTIC_EVENTS_TORCHRUN", "1")
    from torch.distributed.run import main as torchrun

    from elastic_events.torchrun.plugin import register

    register()
    torchrun()


if __name__ == "__main__":
    main()
