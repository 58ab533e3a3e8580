"""Programs that a test runs: with this Python, in a folder, importing what the test itself imports."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ("environment", "python")


def environment(**more: str) -> dict[str, str]:
    """The environment of a program that finds what this one does, and `more`."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}


def python(*arguments: str, cwd: Path, timeout: float = 90, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run this Python to its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
