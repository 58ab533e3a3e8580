"""Starting the collector of a directory: a process of its own, apart from the program that asks for it.

Exec'd, never forked: a fork of a training process copies its page tables and its locks. Through a small `/bin/sh`, which

- ends at once, so that the collector is no child of the program: a child makes a program's own `os.wait()` loop hang;
- ignores INT, HUP and TERM before the collector is there to do so: a batch system signals the whole group;
- starts the collector again if it is killed.

It gets the locked descriptor of the directory, and no other; no environment but what any program needs; nice 10.
"""

import os
import re
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from elastic_events.bus.errors import ConfigError
from elastic_events.recorder.directory import LOG

__all__ = ("launch", "why_not")

SHELL = "/bin/sh"

#: A collector that fails by itself is tried three times; one that is killed, as often as it is.
_SUPERVISE = """
trap '' INT HUP TERM
(
    failures=0 starts=0
    while [ $failures -lt 3 ] && [ $starts -lt 1000 ]; do
        "$@" && exit
        [ $? -lt 128 ] && failures=$((failures + 1))
        starts=$((starts + 1))
        sleep 0.1 2>/dev/null || sleep 1
    done
) &
"""

_PROGRAM = (
    "import sys; sys.path += sys.argv[4:]; "
    "from elastic_events.recorder.processors import Aside; aside = Aside(); aside.step([int(sys.argv[3])]); "
    "from elastic_events.recorder.daemon import main; main(sys.argv[1], int(sys.argv[2]), aside)"
)

#: Variables that programs need of any environment.
_ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")

_NEEDED = ("elastic_events", "anyio", "msgspec", "idna", "typing_extensions", "sniffio")


def why_not() -> str:
    """Return why no collector can be started from this program, or "" where one can."""
    if getattr(sys, "frozen", False) or "__compiled__" in vars(sys.modules["__main__"]):
        return "this is a frozen application, whose executable is no Python"
    if not re.match(r"(python|pypy)", Path(sys.executable or "").name.lower()):
        return f"{sys.executable or 'this program'} is no Python interpreter"
    if not os.access(SHELL, os.X_OK):
        return f"there is no {SHELL}"
    return ""


def launch(directory: Path, lock: int) -> None:
    """Start a collector of `directory`, whose lock the descriptor `lock` holds; the caller closes its copy.

    Returns when the process is on its way, some milliseconds later; whether it came to collect, the lock tells.

    Raises:
        ConfigError: it cannot be started from here, and why.
    """
    reason = why_not()
    if reason:
        raise ConfigError(f"no collector process: {reason}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    log = os.open(directory / LOG, flags, 0o600)
    try:
        program = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(directory), str(lock), str(os.getpid()), *_roots()]
        starter = subprocess.Popen(  # noqa: S603 - our own interpreter, and no argument but paths
            [SHELL, "-c", _SUPERVISE, "elastic-events", *program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=(lock,),
            start_new_session=True,
            cwd="/",
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"no collector process: {error}") from error
    finally:
        os.close(log)
    with suppress(OSError):
        starter.wait()


def _roots() -> list[str]:
    """Return the directories of the packages that a collector imports; `-S` leaves them out, and what hides there."""
    found: dict[str, None] = {}
    for name in _NEEDED:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            levels = 2 if spec.submodule_search_locations else 1
            found[str(Path(spec.origin).absolute().parents[levels - 1])] = None
    for place in sys.path:
        if place.rstrip("/").endswith(("site-packages", "dist-packages")):
            found[str(Path(place).absolute())] = None
    return list(found)
