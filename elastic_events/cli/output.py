"""Files that a command makes: whole or not at all, private, and never through a link."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import click

from elastic_events.reading.shown import sentence
from elastic_events.sinks.files import check_path, open_private, refusal
from elastic_events.sinks.options import without_login

__all__ = ("STDOUT", "output", "tell", "write_page")

#: What stands for the standard output where a file is asked for.
STDOUT = Path("-")


@contextmanager
def output(path: Path) -> Iterator[IO[bytes]]:
    """Give a file of mode 0600 that becomes `path` when the block ends well; otherwise `path` stays what it was.

    `-` is the standard output.

    Raises:
        ConfigError: there is no such directory, or `path` is a link, no regular file, or not to be written.
    """
    if path == STDOUT:
        yield sys.stdout.buffer
        return
    check_path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        descriptor = open_private(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except OSError as error:
        raise refusal(path, error) from None
    try:
        with open(descriptor, "wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise refusal(path, error) from None
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def write_page(path: Path, text: str) -> None:
    """Write a picture or a page, and say so."""
    with output(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
    if path != STDOUT:
        tell(f"wrote {path}")


def tell(text: str, *, err: bool = True) -> None:
    """Say a sentence, on stderr: in one line, with nothing in it that is not printable, and no login of a URL."""
    click.echo(sentence(without_login(text)), err=err)
