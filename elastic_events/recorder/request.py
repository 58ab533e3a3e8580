"""What a program asks of the collector of a directory: a sink for a run's records, as a private file there.

A file and not an argument, since `ps` shows arguments, and URLs hold passwords. Written before the ring that it is for, so
that a collector never sees a ring whose sink it does not know.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from threading import get_native_id

import msgspec

from elastic_events.recorder.directory import REQUESTS

__all__ = ("VARIABLES", "Request", "drop", "inherited", "patience", "read_requests", "submit")

#: Beginnings of environment variables that sinks and their libraries read.
VARIABLES = (
    *("OTEL_", "WANDB_", "MLFLOW_", "NATS_", "AWS_", "SSL_CERT_", "REQUESTS_CA_", "CURL_CA_"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
)

#: Seconds that a collector goes on for a sink that is away when its last writer has ended, and nothing was delivered since.
PATIENCE = 60.0

#: Keys of the requests that child processes join, in their environment, hexadecimal.
INHERITED = "ELASTIC_EVENTS_REQUESTS"


def patience(environ: Mapping[str, str] = os.environ) -> float:
    """Return the seconds of `ELASTIC_EVENTS_PATIENCE`: how long a collector goes on for a sink that is away, 60 by default."""
    try:
        return max(float(environ.get("ELASTIC_EVENTS_PATIENCE") or PATIENCE), 0.0)
    except ValueError:
        return PATIENCE


class Request(msgspec.Struct, frozen=True):
    """One sink that a program wants its records in."""

    url: str  #: with absolute paths: the collector has a working directory of its own
    run_id: str = ""  #: the run whose records it is for; "" for every run
    everyone: bool = False  #: all processes of the run; otherwise those whose files name the request
    patience: float = PATIENCE  #: seconds that the collector goes on for this sink when the last writer has ended
    private: bool = False  #: the directory was made for the run, and goes with it
    environ: dict[str, str] = {}  #: what the sink reads of the program's environment

    @property
    def key(self) -> int:
        """What a recorder's file names the request by: the same for all who ask the same."""
        asked = "\0".join((self.url, self.run_id, str(self.everyone)))
        return int.from_bytes(blake2b(asked.encode("utf-8", "replace"), digest_size=8).digest(), "little") or 1


def submit(directory: Path, request: Request) -> None:
    """Put `request` into `directory`, for one of the same key that may be there: its environment may be another now.

    Raises:
        OSError: the disk is full, or worse.
    """
    folder = directory / REQUESTS
    folder.mkdir(0o700, exist_ok=True)
    path = folder / f"{request.key:016x}.json"
    body = msgspec.json.encode(request)
    with suppress(OSError):
        if path.read_bytes() == body:
            return
    part = folder / f".{request.key:016x}.{get_native_id()}.part"  # a thread's own: two may ask the same at once
    with suppress(FileNotFoundError):
        part.unlink()  # of a thread that was killed and had our number
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(part, flags, 0o600), "wb") as file:
            file.write(body)
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_requests(directory: Path, seen: dict[str, int]) -> tuple[dict[int, Request], list[str]]:
    """Return the requests in `directory` that are new or changed, by key, and a sentence for each file that is none.

    `seen` holds the time of change of each file as it was read last.
    """
    found: dict[int, Request] = {}
    wrong: list[str] = []
    paths = sorted((directory / REQUESTS).glob("[!.]*.json"))
    for name in seen.keys() - {path.name for path in paths}:
        del seen[name]
    for path in paths:
        try:
            changed = path.lstat().st_ctime_ns
            if seen.get(path.name) == changed:
                continue
            seen[path.name] = changed
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                request = msgspec.json.decode(file.read(), type=Request)
            found[request.key] = request
        except FileNotFoundError:
            continue
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            wrong.append(f"{path.name} is no request: {error}")
    return found, wrong


def drop(directory: Path, key: int) -> None:
    """Remove a request: its run is over."""
    with suppress(OSError):
        (directory / REQUESTS / f"{key:016x}.json").unlink()


def inherited(variable: str | None) -> list[int]:
    """Return the keys of the requests that a process joins since one above it asked; see `INHERITED`. Never raises."""
    keys = []
    for text in (variable or "").split(","):
        with suppress(ValueError):
            keys.append(int(text, 16) & 0xFFFF_FFFF_FFFF_FFFF)
    return [key for key in keys if key]
