"""`python -m elastic_events` is the command `elastic-events`."""

from elastic_events.cli import main

__all__ = ()

if __name__ == "__main__":
    main()
