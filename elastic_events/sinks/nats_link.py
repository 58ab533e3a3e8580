"""One connection to a NATS server with JetStream: how to reach it, the stream, and what its errors mean.

nats-py's own reconnect is off: it buffers what was published while it is away and sends it later, unasked. A connection
that fails is thrown away, and the next call makes another one.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

import anyio

from elastic_events.bus.errors import ConfigError, ElasticEventsError, MissingExtra, TransientError
from elastic_events.sinks.nats_target import Target
from elastic_events.sinks.tls import client_context

__all__ = ("Link",)

T = TypeVar("T")

# nats-server, server/errors.json: the codes are stable, the sentences are not.
_STREAM_NOT_FOUND, _NO_STORAGE, _OVERLAP, _NAME_IN_USE = 10059, 10047, 10065, 10058
_NO_JETSTREAM = (10039, 10076)

_NO_LIMIT = 2**31  # of the protocol; servers have one

_abandoned: list[Any] = []  # connections of the process that forked this one


class Link:
    """A connection that is made when it is needed. Belongs to one asyncio loop.

    Raises:
        MissingExtra: nats-py is not installed.
    """

    def __init__(self, target: Target, timeout: float) -> None:
        self.target = target
        self.timeout = timeout
        self.client: Any = None
        self._client_class = _client_class(insist_on_tls=target.tls or bool(target.tls_ca or target.tls_cert))
        self.largest: int = _NO_LIMIT  # bytes of a message, header included, that server and stream take
        self.duplicate_window: float | None = None  # seconds, of the stream; None where it is not known
        self.habits: tuple[str, ...] = ()  # what a person should know of a stream that somebody else made
        self._files: dict[str, Any] = {}
        self.last_error: Exception | None = None
        self.denied: Callable[[str], None] = lambda _subject: None  # told of each subject that we may not use
        self.lost: Callable[[], None] = lambda: None  # told when the connection is gone

    def forget(self) -> None:
        """Start anew without closing: the connection belongs to another process, or to a loop that is gone."""
        if self.client is not None:
            # Kept alive: freeing it would take the socket out of an epoll set that the parent still waits on.
            _abandoned.append(self.client)
        self.client = None

    async def ready(self) -> bool:
        """Connect if there is no connection; return whether one had to be made.

        Raises:
            ConfigError: the user must act.
            TransientError: no server answers now.
        """
        if self.client is not None and self.client.is_connected:
            return False
        _needs_asyncio()
        await self.drop()
        for server in self.target.servers:
            with contextlib.suppress(TransientError):
                self.client = await self._connect(server)
                return True
        raise TransientError(f"no NATS server answers at {self.target.where}: {_reason(self.last_error)}")

    async def drop(self) -> None:
        """Throw the connection away; takes a second at most."""
        client, self.client = self.client, None
        if client is not None:
            await _close(client)

    async def api(self, call: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        """Call JetStream's API.

        Raises:
            ConfigError: no JetStream, or no right to use it.
            nats.js.errors.APIError: anything else that JetStream says.
            TransientError: no answer in time.
        """
        from nats.errors import Error, NoRespondersError
        from nats.js.errors import APIError, ServiceUnavailableError

        self.last_error = None
        try:
            with anyio.fail_after(self.timeout):
                return await call(*args, **options)
        except ServiceUnavailableError as error:
            if error.err_code is None or error.err_code in _NO_JETSTREAM:
                raise self._no_jetstream() from None
            raise
        except APIError as error:
            if error.err_code in _NO_JETSTREAM:
                raise self._no_jetstream() from None
            raise
        except NoRespondersError:
            raise self._no_jetstream() from None
        except (TimeoutError, Error, OSError) as error:
            denied = self.last_error
            if denied is not None and "permissions violation" in str(denied):
                raise ConfigError(f"the NATS user may not manage streams ({_reason(denied)}): write manage=0") from None
            raise TransientError(f"the NATS server at {self.target.where} does not answer: {_reason(error)}") from None

    async def ensure_stream(self) -> None:
        """Find the stream, or create it.

        Raises:
            ConfigError: it can neither be found nor created, and why.
            TransientError: no answer in time.
        """
        self.largest = self.client.max_payload
        if not self.target.manage:
            return
        from nats.js.errors import APIError

        jetstream = self.client.jsm(timeout=self.timeout)
        subjects = f"{self.target.root}.>"
        try:
            info = await self._find(jetstream)
            if info is None and await self._create(jetstream, subjects):
                return
            # Another process was faster: what it made is looked at like any other stream, whatever its settings.
            info = info or await self.api(jetstream.stream_info, self.target.stream)
            if subjects not in (info.config.subjects or ()):
                raise ConfigError(
                    f"the NATS stream {self.target.stream!r} exists, and {subjects!r} is none of its subjects "
                    f"({', '.join(info.config.subjects or ())}): name another stream, or its prefix by prefix="
                )
            self._learn(info.config)
        except APIError as error:
            raise TransientError(f"JetStream: {error.description}") from None

    async def _find(self, jetstream: Any) -> Any:
        """Return what the server knows of the stream, None where there is none."""
        from nats.js.errors import APIError

        try:
            return await self.api(jetstream.stream_info, self.target.stream)
        except APIError as error:
            if error.err_code != _STREAM_NOT_FOUND:
                raise
            return None

    def _learn(self, config: Any) -> None:
        """Keep what the stream's configuration says of messages."""
        if config.max_msg_size is not None and config.max_msg_size > 0:
            self.largest = min(self.largest, config.max_msg_size)
        self.duplicate_window = config.duplicate_window
        self.habits = tuple(f"the NATS stream {self.target.stream!r} {habit}" for habit in _habits(config))

    async def _create(self, jetstream: Any, subjects: str) -> bool:
        """Create the stream; return whether it is ours, and not one that was made meanwhile with other settings."""
        from nats.js.api import DiscardPolicy, StorageType, StoreCompression, StreamConfig
        from nats.js.errors import APIError

        config = StreamConfig(
            name=self.target.stream,
            subjects=[subjects],
            storage=StorageType.FILE,
            # Records repeat their context and keys: S2 makes them a fraction on disk.
            compression=StoreCompression.S2,
            discard=DiscardPolicy.OLD,
            max_bytes=self.target.max_bytes,
            max_age=self.target.max_age,
            duplicate_window=self.target.duplicate_window,
            num_replicas=self.target.replicas,
        )
        try:
            await self.api(jetstream.add_stream, config)
        except APIError as error:
            if error.err_code == _NAME_IN_USE:
                return False
            if error.err_code == _NO_STORAGE:
                hint = f"it has no room for {self.target.max_bytes} bytes: write a smaller max_bytes="
            elif error.err_code == _OVERLAP:
                hint = f"another stream has the subjects {subjects}: name that stream, or another prefix="
            else:
                hint = str(error.description)
            raise ConfigError(f"JetStream refuses the stream {self.target.stream!r}: {hint}") from None
        return True

    # --- connecting ---

    async def _connect(self, server: str) -> Any:
        client = self._client_class()
        connected = False

        async def failed(error: Exception) -> None:
            self.last_error = error
            if not connected:
                raise _NotConnectedError(error)  # nats-py would try for ever
            denied = re.search(r'publish to "([^"]+)"', str(error))
            if denied:
                self.denied(denied[1])

        async def closed() -> None:
            self.lost()

        try:
            options = self._options(await self._login())
            with anyio.fail_after(self.timeout):
                await client.connect(server, error_cb=failed, closed_cb=closed, **options)
        except BaseException as error:
            await _close(client)
            cause = error.__cause__ or error.__context__ if isinstance(error, _NotConnectedError) else error
            if isinstance(cause, ElasticEventsError):
                raise cause from None
            if not isinstance(cause, Exception):
                raise
            self.last_error = cause
            self._explain(server, cause)
            raise TransientError(f"no NATS server answers at {server}: {_reason(cause)}") from None
        connected = True
        return client

    async def _login(self) -> dict[str, Any]:
        """Read the credentials, at each connection, since they are replaced when they expire; nats-py would in the event loop."""
        from nats.aio.client import RawCredentials

        target = self.target
        for option, path, kind in (
            ("user_credentials", target.creds, RawCredentials),
            ("nkeys_seed_str", target.nkey, str),
        ):
            if path is not None:
                try:
                    self._files[option] = kind(await anyio.Path(path).read_text())
                except (OSError, UnicodeError) as error:
                    if option not in self._files:  # those of before may still do
                        raise ConfigError(f"the NATS credentials cannot be read: {error}") from None
        return self._files

    def _options(self, login: Mapping[str, Any]) -> Mapping[str, Any]:
        target = self.target
        return {
            **login,
            "name": "elastic-events",
            "allow_reconnect": False,
            "connect_timeout": self.timeout,
            "flush_timeout": self.timeout,  # else publish() waits for ever for a server that is gone
            "ping_interval": 10,
            "user": target.user,
            "password": target.password,
            "token": target.secret,
            "tls": self._tls(),
            "tls_hostname": target.tls_hostname,
        }

    def _tls(self) -> ssl.SSLContext | None:
        target = self.target
        if not (target.tls or target.tls_ca or target.tls_cert):
            return None
        return client_context("in the nats URL", target.tls_ca, target.tls_cert, target.tls_key)

    def _explain(self, server: str, error: Exception) -> None:
        """Raise `ConfigError` where trying again cannot help."""
        text = str(error)
        if "authorization violation" in text.lower():
            raise ConfigError(f"the NATS server at {server} refuses this user: check user, password, token or creds")
        if isinstance(error, ssl.SSLError):
            raise ConfigError(f"TLS with the NATS server at {server} fails: {text}")
        if isinstance(error, ModuleNotFoundError):
            raise MissingExtra("NATS with credentials", "nats")
        if type(error).__module__.startswith("nkeys"):
            raise ConfigError("the NATS credentials hold no valid key")
        if "INFO" in text or "parse" in text:
            raise ConfigError(f"what answers at {server} is no NATS server")

    def _no_jetstream(self) -> ConfigError:
        return ConfigError(f"the NATS server at {self.target.where} has no JetStream: start it with -js")


def _habits(config: Any) -> Iterator[str]:
    """Yield what keeps a stream from having, for who reads it later, all that was written to it."""
    retention = getattr(config.retention, "value", config.retention) or "limits"
    if retention != "limits":
        yield (
            f"has the retention {retention!r}: it keeps a message only until its consumers have it, and elastic-events "
            "reads back what is left; name a stream whose retention is 'limits'"
        )
    if (config.max_msgs_per_subject or 0) > 0:
        yield (
            f"keeps the last {config.max_msgs_per_subject} messages of each subject, and one subject has all metric points "
            "of a run: the older ones go"
        )
    if config.no_ack:
        yield "acknowledges nothing (no_ack): no record counts as delivered, and each is sent until its retry budget is spent"


class _NotConnectedError(Exception):
    """Takes an error out of nats-py's endless loop of attempts."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.__cause__ = error


def _say_that_it_is_tls(client: Any) -> None:
    # asyncio's protocol knows only where asyncio began the TLS; else it prints a line when the server goes.
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001 - nats-py says it nowhere else
    if writer is not None and writer.get_extra_info("ssl_object") is not None:
        protocol = writer.transport.get_protocol()
        if hasattr(protocol, "_over_ssl"):
            protocol._over_ssl = True  # noqa: SLF001 - likewise


async def _close(client: Any) -> None:
    # close() waits for the server's side of the connection, which a half-open one never gives.
    with contextlib.suppress(Exception), anyio.move_on_after(1.0, shield=True):
        await client.close()


def _client_class(*, insist_on_tls: bool) -> Any:
    try:
        from nats.aio.client import Client
    except ImportError:
        raise MissingExtra("NATS", "nats") from None

    class Ending(Client):  # type: ignore[misc, unused-ignore]
        """Says that a connection is gone also where something waits to be sent: nats-py tries that once more, which raises."""

        async def _process_op_err(self, e: Exception) -> None:
            self._pending, self._pending_data_size = [], 0
            await super()._process_op_err(e)

        def _connect_command(self) -> bytes:
            _say_that_it_is_tls(self)  # it is, if it ever will be, and may be torn from here on
            command: bytes = super()._connect_command()
            return command

    class Insisting(Ending):
        """Refuses to log in in the clear: nats-py speaks TLS only where the server's greeting, itself unprotected, asks."""

        def _connect_command(self) -> bytes:
            if not self._server_info.get("tls_required"):
                raise _NotConnectedError(ConfigError("the NATS server offers no TLS: nothing was sent to it"))
            command: bytes = super()._connect_command()
            return command

    return Insisting if insist_on_tls else Ending


def _needs_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError(
            "NATS needs asyncio, and this event loop is trio's: open the bus in a background thread, "
            "with `with EventBus(...)` or elastic_events.start(...)"
        ) from None


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "no answer"
    return str(error).removeprefix("nats: ") or type(error).__name__
