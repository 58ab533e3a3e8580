"""Where a JetStream stream is, and how to get in: what a `nats://` URL says."""

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote

from elastic_events.bus.errors import ConfigError
from elastic_events.sinks.options import LOGIN_MARKS, Options

__all__ = ("DUPLICATE_WINDOW", "Target", "target", "token")

#: Seconds in which a retried message is recognised: three times the 300 s for which a lane retries a batch by default.
DUPLICATE_WINDOW = 900.0

STREAM = "elastic-events"

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")
_STREAM_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")


@dataclass(frozen=True)
class Target:
    """Where a stream is and how to get in. Its repr holds no secret.

    Args:
        servers: `host:port`, tried in turn.
        stream: its name; `prefix` is the first token of its subjects, by default the same.
        tls: whether to insist on TLS; `tls_ca`, `tls_cert` and `tls_key` are paths of PEM files.
        user, password, secret: a name and password, or a token.
        creds, nkey: paths of a credentials file and an nkey seed file; both need the package nkeys.
        manage: whether to look for the stream and create it; without, the rights to publish are enough.
        max_bytes, max_age, replicas, duplicate_window: of a stream that is created; bytes and seconds. A full stream
            loses its oldest messages.
    """

    servers: tuple[str, ...]
    stream: str = STREAM
    prefix: str = ""
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_hostname: str | None = None
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    creds: str | None = None
    nkey: str | None = None
    manage: bool = True
    max_bytes: int = 2**30
    max_age: float = 30 * 86400.0
    replicas: int = 1
    duplicate_window: float = DUPLICATE_WINDOW

    @property
    def root(self) -> str:
        """The first token of the subjects."""
        return self.prefix or self.stream

    @property
    def where(self) -> str:
        """The servers, for a sentence."""
        return ", ".join(self.servers)


def target(url: SplitResult, options: Options) -> Target:
    """Return what `nats://[USER:PASSWORD@|TOKEN@]HOST[:PORT][,HOST:PORT...][/STREAM][?OPTIONS]` says.

    Raises:
        ConfigError: the URL is no such thing.
    """
    login, _, hosts = url.netloc.rpartition("@")
    servers = tuple(_server(host) for host in unquote(hosts).split(",") if host)
    if not servers:
        raise ConfigError("which NATS server? write nats://HOST:4222/STREAM")
    stream = unquote(url.path.strip("/")) or STREAM
    prefix = options.text("prefix") or ""
    for name in (stream, prefix or stream):
        if not _STREAM_NAME.fullmatch(name):
            raise ConfigError(f"the NATS stream or prefix {name!r}: use letters, digits, - and _ only")
    user, colon, password = login.partition(":")
    defaults = Target(servers)
    found = Target(
        *(servers, stream, prefix),
        tls=options.flag("tls", url.scheme == "tls"),
        tls_ca=options.text("tls_ca"),
        tls_cert=options.text("tls_cert"),
        tls_key=options.text("tls_key"),
        tls_hostname=options.text("tls_hostname"),
        user=unquote(user) or None if colon else None,
        password=unquote(password) if colon else None,
        secret=options.text("token") or (unquote(user) or None if not colon else None),
        creds=options.text("creds"),
        nkey=options.text("nkey"),
        manage=options.flag("manage", True),
        max_bytes=options.size("max_bytes") or defaults.max_bytes,
        max_age=options.seconds("max_age") or defaults.max_age,
        replicas=options.integer("replicas") or 1,
        duplicate_window=options.seconds("duplicate_window") or DUPLICATE_WINDOW,
    )
    if found.max_age < found.duplicate_window:
        raise ConfigError("in the nats URL: max_age must not be shorter than duplicate_window")
    return found


def token(text: str, limit: int = 64) -> str:
    """Return `text` as one token of a subject: what is not a letter, digit, - or _ becomes _."""
    return _FORBIDDEN.sub("_", text)[:limit] or "_"


def _server(host: str) -> str:
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return f"{host}:4222"
    if not name or not port.isdigit() or not 0 < int(port) < 65536:
        # Not the host: where a login holds a mark that ends it, this is the login.
        raise ConfigError("in the nats URL: each server is HOST or HOST:PORT, the port a number; " + LOGIN_MARKS)
    return host
