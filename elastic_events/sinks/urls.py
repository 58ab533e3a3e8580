"""Sinks by URL, in code, on the command line and in ELASTIC_EVENTS_SINKS.

| URL | sink |
|---|---|
| `console:`, `console:stderr`, `console:stdout` | one line a record; `color=1` or `0` |
| `jsonl:///run.jsonl` | JSON Lines; `rotate=64MB`, `rotate_every=1h`, `keep=5`, `gzip=0` |
| `jsonl:stdout`, `jsonl:stderr`, `jsonl:////a/fifo?fifo=1` | JSON Lines to a stream, for a container's log |
| `sqlite:///run.db` | SQLite; `busy_timeout=10s`, `max_age=30d`, `max_size=10GB` |
| `nats://host:4222,host2:4222/stream`, `tls://...` | NATS JetStream, extra `nats`; the latter only over TLS |
| `otlp+http://host:4318`, `otlp+https://host` | OpenTelemetry, extra `otlp` |
| `prometheus:` | an exposition endpoint, extra `prometheus` |
| `tensorboard:///runs`, `wandb://PROJECT`, `mlflow:///store` | metric points by step, extras of those names |

As in SQLAlchemy, three slashes name a file relative to the working directory, four one from the root:
`sqlite:////data/run.db`. Characters that mean something in a URL or in a list of them (`?`, `#`, `%`, `,` and space, in a
login `/` and `@` too) are written percent-encoded. A sink's module is imported when its URL is opened.

Each takes the option `dead_letters=URL`, by default that of ELASTIC_EVENTS_DEAD_LETTERS: where the records go that the sink
refuses, `sqlite:///run.db?dead_letters=jsonl:///dead.jsonl`.
"""

import difflib
import os
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from elastic_events.bus.errors import ConfigError, ElasticEventsError
from elastic_events.bus.handler import Sink
from elastic_events.sinks.files import from_root
from elastic_events.sinks.options import split_url, without_login

__all__ = (
    "EXAMPLES",
    "SCHEMES",
    "SHIPPED",
    "STREAMS",
    "absolute",
    "open_dead_letters",
    "open_url",
    "parse_sinks",
    "split_dead_letters",
)


def _module(name: str) -> Callable[[SplitResult], Sink]:
    def load(url: SplitResult) -> Sink:
        sink: Sink = import_module(f"elastic_events.sinks.{name}").from_url(url)
        return sink

    return load


#: Scheme -> the function that makes the sink of a parsed URL. Others may add theirs.
SCHEMES: dict[str, Callable[[SplitResult], Sink]] = {
    "console": _module("console"),
    "jsonl": _module("jsonl"),
    "mlflow": _module("bridges"),
    "mlflow+http": _module("bridges"),
    "mlflow+https": _module("bridges"),
    "nats": _module("nats"),
    "otlp+http": _module("otlp"),
    "otlp+https": _module("otlp"),
    "prometheus": _module("prometheus"),
    "sqlite": _module("sqlite"),
    "tensorboard": _module("bridges"),
    "tls": _module("nats"),
    "wandb": _module("bridges"),
}

#: Scheme -> a URL to show.
EXAMPLES: dict[str, str] = {
    "console": "console:",
    "jsonl": "jsonl:///run.jsonl",
    "mlflow": "mlflow:///DIR",
    "mlflow+http": "mlflow+http://HOST:5000",
    "mlflow+https": "mlflow+https://HOST",
    "nats": "nats://HOST:4222/STREAM",
    "otlp+http": "otlp+http://HOST:4318",
    "otlp+https": "otlp+https://HOST",
    "prometheus": "prometheus:",
    "sqlite": "sqlite:///run.db",
    "tensorboard": "tensorboard:///runs",
    "tls": "tls://HOST:4222/STREAM",
    "wandb": "wandb://PROJECT",
}

#: The schemes that every process of this package knows.
SHIPPED = frozenset(SCHEMES)

#: What `jsonl:` is followed by where it is a stream of the process.
STREAMS = frozenset({"stdout", "stderr", "-"})

#: Schemes whose URLs name files.
_FILES = frozenset({"jsonl", "mlflow", "sqlite", "tensorboard"})

_DEAD_LETTERS = "dead_letters="

_SUFFIXES = {".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def open_url(url: str) -> Sink:
    """Return the sink that `url` names, not yet opened: nothing is read, written or connected.

    Raises:
        ConfigError: it names none; the sentence says what is wrong and what is known, and never repeats a password.
        MissingExtra: the sink needs a package that is not installed.
    """
    url, _ = split_dead_letters(url, {})
    parts = split_url(url)
    if not parts.scheme or ":" not in url:
        raise ConfigError(f"{_shown(url)} is not a sink's URL{_guess_file(url)}; {_known()}")
    loader = SCHEMES.get(parts.scheme)
    if loader is None and parts.scheme in ("otlp", "otlp+grpc", "grpc"):
        raise ConfigError("OTLP is spoken over HTTP only, not gRPC: write otlp+http://HOST:4318, or otlp+https://HOST")
    if loader is None:
        near = difflib.get_close_matches(parts.scheme, SCHEMES, 1, 0.6)
        guess = f", did you mean {near[0]}" if near else ""
        raise ConfigError(f"no sink is called {parts.scheme!r}{guess}; {_known()}")
    try:
        return loader(parts)
    except ElasticEventsError:
        raise
    except ValueError:  # a port that is no number, say; its own text repeats what may be a login
        raise ConfigError(f"the {parts.scheme} URL cannot be read: after a host comes :PORT, a number") from None


def open_dead_letters(url: str, environ: Mapping[str, str] = os.environ) -> Sink | None:
    """Return the sink for what that of `url` refuses, by its option or the environment; None where neither names one.

    Raises:
        ConfigError: as `open_url`.
        MissingExtra: likewise.
    """
    _, dead = split_dead_letters(url, environ)
    return open_url(dead) if dead else None


def absolute(url: str) -> str:
    """Return `url` such that it means the same in another process: the same files, and the dead letters of this one."""
    url, dead = split_dead_letters(url, os.environ)
    url = _absolute(url)
    if not dead:
        return url
    return f"{url}{'&' if '?' in url else '?'}{_DEAD_LETTERS}{quote(_absolute(dead), safe='/:')}"


def split_dead_letters(url: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return `url` without its option for dead letters, and what that or the environment says, or ""."""
    base, mark, query = url.partition("?")
    options = query.split("&")
    mine = [option for option in options if option.startswith(_DEAD_LETTERS)]
    dead = (
        unquote(mine[-1].removeprefix(_DEAD_LETTERS))
        if mine
        else environ.get("ELASTIC_EVENTS_DEAD_LETTERS", "").strip()
    )
    rest = "&".join(option for option in options if option not in mine)
    return (f"{base}{mark if rest else ''}{rest}" if mine else url), dead


def _absolute(url: str) -> str:
    parts = urlsplit(url.strip())
    path = parts.path.removeprefix("/")
    if parts.scheme == "wandb":  # its directory is an option, by default the working directory
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        query["dir"] = str(from_root(query.get("dir", "")))
        return urlunsplit(parts._replace(query=urlencode(query)))
    stream = parts.scheme == "jsonl" and parts.path in STREAMS
    if parts.scheme not in _FILES or parts.netloc or path.startswith("/") or not path or stream:
        return url.strip()
    # By hand: Pythons differ in what they make of a path that begins with two slashes.
    place = f"{parts.scheme}:////{quote(os.fsencode(from_root('.'))).lstrip('/')}/{path}"
    return place + (f"?{parts.query}" if parts.query else "") + (f"#{parts.fragment}" if parts.fragment else "")


def parse_sinks(text: str) -> list[str]:
    """Return the URLs in a variable such as ELASTIC_EVENTS_SINKS: separated by commas, white space, or both.

    A comma that no scheme follows is part of the URL: `nats://one:4222,two:4222/stream` names two servers.
    """
    known = "|".join(map(re.escape, SCHEMES))
    return [url for url in re.split(rf"[,\s]+(?=(?:{known}):|[A-Za-z][A-Za-z0-9+.-]*://|$)|^[,\s]+", text) if url]


def _known() -> str:
    return f"known are {', '.join(EXAMPLES.get(scheme, f'{scheme}:') for scheme in sorted(SCHEMES))}"


def _shown(url: str) -> str:
    shown = without_login(url)
    return repr(shown if len(shown) <= 80 and "@" not in shown else f"{shown.rpartition('@')[2][:80]}...")


def _guess_file(url: str) -> str:
    scheme = next((scheme for suffix, scheme in _SUFFIXES.items() if url.endswith(suffix)), None)
    return f", did you mean {scheme}:///{url}" if scheme else ""
