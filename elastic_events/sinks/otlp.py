"""OpenTelemetry over HTTP: to any Collector or back end that takes OTLP in protobuf."""

import os
import re
import socket
import ssl
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import Any
from urllib.parse import SplitResult, urlsplit

import anyio

from elastic_events.bus.errors import ConfigError, MissingExtra, PermanentError, TransientError
from elastic_events.bus.record import Record
from elastic_events.bus.slices import in_slices
from elastic_events.sinks.options import Options, without_login
from elastic_events.sinks.otlp_encode import Encoder, is_point
from elastic_events.sinks.otlp_settings import OtlpSettings, parse_headers, read_settings
from elastic_events.sinks.tls import client_context

__all__ = ("OtlpSettings", "OtlpSink", "from_url", "read_settings")

# opentelemetry.io, OTLP 1.x, "Failures": these may be retried, all others must not.
_RETRYABLE = frozenset({429, 502, 503, 504})
# About who sends, not about what: by the specification this is given up at once. Here a record is given up where it is
# refused, and who is let in changes: credentials rotate, and what waits in a spool is sent by the next start.
_ABOUT_US = frozenset({401, 403, 407})
# About these records, so that splitting the batch finds the one: malformed, too large, not to be processed.
_ABOUT_RECORDS = frozenset({400, 413, 422})

_NOT_NUMBERS = "a metric's value is no number, which is all that OTLP can carry"

_REMEMBERED = 8192

#: Bytes of an answer that are kept, at most.
_LONGEST_ANSWER = 1 << 20

#: Seconds that looking up the hosts may take when the sink opens.
_LOOKUP = 2.0


class OtlpSink:
    """Sends events as log records and metric points as data points of gauges; one request of each a batch.

    Delivered means: the server answered 2xx. What a Collector does then, and whether its queue survives it, is its
    configuration (F45). OTLP knows no ids: a request whose answer was lost is sent again and may be there twice; each
    log record carries `elastic.record_id` to tell.

    Of a request that the server takes in part ("partial success") as many records count as failed as it says. OTLP does not
    say which and forbids sending them again: those named are the last of the request. `rejected` counts them,
    `last_rejection` is the server's sentence. Runs on asyncio and trio.

    Args:
        endpoint: base URL such as `http://collector:4318`, to which `/v1/logs` and `/v1/metrics` are appended, or
            complete settings. Without it, OpenTelemetry's standard environment variables say all.

    Raises:
        MissingExtra: opentelemetry-proto or httpx2 is not installed.
    """

    name = "otlp"

    def __init__(self, endpoint: str | OtlpSettings | None = None) -> None:
        self.settings: OtlpSettings = endpoint if isinstance(endpoint, OtlpSettings) else read_settings(endpoint)
        self.rejected: int = 0  #: records that a server refused within a request that it took
        self.last_rejection: str = ""
        self.remarks: tuple[str, ...] = (
            self.settings.remarks
        )  #: what the environment asks for that is not done; told by the lane
        self._client: Any = None
        self._hurried = False
        self._addresses: dict[str, list[str]] = {}  # of the hosts, for the end of the interpreter
        try:
            # Here, not in open(): an import reads files, and would block the drain's loop.
            import_module("httpcore2")  # else httpx2 does so when its first client is made
            self._http = import_module("httpx2")
            self._encoder = Encoder(self.settings.resource)
        except ImportError:
            raise MissingExtra("OTLP", "otlp") from None
        # Ids of a batch of which the other part has to come again: what arrived, and with a reason what was refused.
        self._through: dict[str, str] = {}

    async def open(self) -> None:
        """Make the client; connects to nothing yet, a Collector may start later.

        Raises:
            ConfigError: a certificate cannot be read.
        """
        self._client = self._http.AsyncClient(
            timeout=self.settings.timeout,
            # A proxy of the environment is for what is far away: this machine is reached without.
            trust_env=not all(map(_is_here, filter(None, (self.settings.logs, self.settings.metrics)))),
            verify=self._tls(),
            # At interpreter exit no name can be looked up: the connection of the last batch must still be there.
            limits=self._http.Limits(max_connections=4, keepalive_expiry=300.0),
        )
        with anyio.move_on_after(_LOOKUP):
            for url in filter(None, (self.settings.logs, self.settings.metrics)):
                await self._look_up(url)

    async def write(self, records: Sequence[Record]) -> None:
        """Send; return when the server took both requests.

        Raises:
            PermanentError: the server refuses them, or a metric's value is no number.
            TransientError: worth another try, after `retry_after` seconds where the server said so.
        """
        kinds = _sort([record for record in records if record.id not in self._through])
        refused = {record.id: reason for record in records if (reason := self._through.get(record.id))}
        refused |= {record.id: _NOT_NUMBERS for record in kinds.pop("strange")}
        arrived: list[Record] = []
        again: Exception | None = None
        for signal, part in kinds.items():
            try:
                await self._export(signal, part)
                arrived += part
            except PermanentError as error:
                refused |= {record.id: error.reason for record in error.rejected}
                arrived += part if error.rejected else ()
                again = again or (None if error.rejected else error)
            except TransientError as error:
                again = error
        if again is not None:
            self._remember({**{record.id: "" for record in arrived}, **refused})
            raise again
        for record in records:
            self._through.pop(record.id, None)
        if refused:
            reasons = "; ".join(dict.fromkeys(refused.values()))
            raise PermanentError(reasons, [record for record in records if record.id in refused])

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def hurry(self, on: bool) -> None:
        """Work without pauses from now on, or with them again."""
        self._hurried = on

    def __repr__(self) -> str:
        return f"<OtlpSink {_origin(self.settings.logs or self.settings.metrics or '')}>"

    async def _export(self, signal: str, records: Sequence[Record]) -> None:
        url: str | None = getattr(self.settings, signal)
        if not records or url is None:
            return
        # Messages of protobuf one behind the other are one message: their lists are joined.
        body = b"".join(await in_slices(getattr(self._encoder, signal), records, hurried=self._hurried))
        response, answer = await self._post(url, body, getattr(self.settings, f"{signal}_headers"))
        if response.status_code // 100 != 2:
            raise self._failure(response, records)
        self._look_for_rejected(signal, response, answer, records)

    def _remember(self, settled: Mapping[str, str]) -> None:
        """Note what is settled of a batch that comes again: OTLP knows no ids, so it must not be sent twice."""
        self._through.update(settled)
        while len(self._through) > _REMEMBERED:
            del self._through[next(iter(self._through))]

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[Any, bytes]:
        """Send; return the response, and what it says beside its status."""
        headers = {"content-type": "application/x-protobuf", "accept-encoding": "identity", **headers}
        if self.settings.gzip:
            pack = zlib.compressobj(1, wbits=31)  # 31: gzip's frame, as zlib's manual has it
            body = pack.compress(body) + pack.flush()
            headers["content-encoding"] = "gzip"
        response, answer = None, b""
        try:
            with anyio.move_on_after(self.settings.timeout):
                response = await self._send(url, body, headers)
                answer = await _read(response)
        except Exception as error:  # httpx2's own, the resolver's and TLS's: every one of them may pass
            # The status is the answer: a request that was taken is not sent again for what follows and cannot be read.
            if response is None:
                raise TransientError(f"{_origin(url)}: {_reason(error)}") from error
        finally:
            if response is not None:
                await response.aclose()
        if response is None:
            raise TransientError(f"{_origin(url)} did not answer within {self.settings.timeout:g} s")
        return response, answer

    async def _send(self, url: str, body: bytes, headers: Mapping[str, str]) -> Any:
        try:
            return await self._begin(url, body, headers)
        except RuntimeError:  # the interpreter ends: no thread to look up a name (F16)
            addresses = self._addresses.get(urlsplit(url).hostname or "", ())
            for address in addresses:
                with suppress(self._http.ConnectError):
                    return await self._send_to(address, url, body, headers)
            raise

    async def _send_to(self, address: str, url: str, body: bytes, headers: Mapping[str, str]) -> Any:
        """Send to an address in the name of the host that it belongs to, TLS included."""
        named = self._http.URL(url)
        headers = {**headers, "host": named.netloc.decode()}
        extensions = {"sni_hostname": named.host}
        return await self._begin(named.copy_with(host=address), body, headers, extensions)

    async def _begin(self, url: Any, body: bytes, headers: Mapping[str, str], extensions: Any = None) -> Any:
        """Send; return the response as soon as its status is there."""
        request = self._client.build_request("POST", url, content=body, headers=headers, extensions=extensions)
        return await self._client.send(request, stream=True)

    async def _look_up(self, url: str) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        with suppress(OSError, UnicodeError):  # not known now: the first request says so
            found = await anyio.getaddrinfo(host, parts.port or 0, type=socket.SOCK_STREAM)
            self._addresses[host] = list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def _failure(self, response: Any, records: Sequence[Record]) -> Exception:
        status = response.status_code
        reason = f"{_origin(str(response.request.url))} answers {status} {response.reason_phrase}".rstrip()
        if status in _RETRYABLE | _ABOUT_US:
            return TransientError(reason, _retry_after(response.headers.get("retry-after")))
        return PermanentError(reason, () if status in _ABOUT_RECORDS else records)

    def _look_for_rejected(self, signal: str, response: Any, said: bytes, records: Sequence[Record]) -> None:
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

        answer: Any = ExportLogsServiceResponse() if signal == "logs" else ExportMetricsServiceResponse()
        try:
            answer.ParseFromString(said)
        except DecodeError:
            return  # a back end that answers 200 with something of its own took the request all the same
        partial = answer.partial_success
        rejected = partial.rejected_log_records if signal == "logs" else partial.rejected_data_points
        if partial.error_message or rejected:
            self.last_rejection = partial.error_message
        count = min(max(rejected, 0), len(records))
        self.rejected += count
        if count:
            reason = f"{_origin(str(response.request.url))} refused {count} of {len(records)} {signal}"
            raise PermanentError(f"{reason}: {partial.error_message}".rstrip(": "), records[-count:])

    def _tls(self) -> ssl.SSLContext:
        settings = self.settings
        return client_context("OTLP", settings.certificate, settings.client_certificate, settings.client_key)


def from_url(url: SplitResult) -> OtlpSink:
    """Return the sink of `otlp+http://HOST:PORT[/BASE][?OPTIONS]`; without a host, the environment says where.

    Options: `headers=NAME=VALUE,...` percent-encoded, `gzip=0`, `timeout=10s`, `certificate=`, `client_certificate=`,
    `client_key=`, `logs=0` and `metrics=0`.

    Raises:
        ConfigError: the URL is wrong, and how.
    """
    options = Options(url)
    scheme = url.scheme.removeprefix("otlp+")
    base = f"{scheme}://{url.netloc}{url.path}" if url.netloc else None
    if base is None and url.path:
        raise ConfigError(f"{url.scheme}: which server? write {url.scheme}://HOST:4318")
    found = read_settings(base, os.environ)
    headers = options.text("headers")
    more = parse_headers(headers, "headers") if headers else {}
    settings = OtlpSettings(
        logs=found.logs if options.flag("logs", True) else None,
        metrics=found.metrics if options.flag("metrics", True) else None,
        logs_headers={**found.logs_headers, **more},
        metrics_headers={**found.metrics_headers, **more},
        gzip=options.flag("gzip", found.gzip),
        timeout=options.seconds("timeout", found.timeout) or found.timeout,
        certificate=options.text("certificate", found.certificate),
        client_certificate=options.text("client_certificate", found.client_certificate),
        client_key=options.text("client_key", found.client_key),
        resource=found.resource,
        remarks=found.remarks,
    )
    options.finish()
    return OtlpSink(settings)


async def _read(response: Any) -> bytes:
    """Return the body of a response, as it came: one that is packed though that was not asked for says nothing."""
    body = b""
    async for piece in response.aiter_raw():  # to its end: on trio nobody closes a generator that is left
        body += piece[: _LONGEST_ANSWER - len(body)]
    return body


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _sort(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records by signal, and those that none can carry."""
    kinds: dict[str, list[Record]] = {"logs": [], "metrics": [], "strange": []}
    for record in records:
        metric = record.kind == "metric"
        kinds["logs" if not metric else "metrics" if is_point(record) else "strange"].append(record)
    return kinds


def _retry_after(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3), or None."""
    if text is None:
        return None
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        # "-0000" says that the zone is not known (RFC 5322, 3.3): such a date has none.
        return max((when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, OverflowError, TypeError):
        return None


def _reason(error: BaseException) -> str:
    """Return an error's name and text; on trio the text of a failed connection is in what caused it."""
    deepest: BaseException | None = error
    while deepest is not None and not str(deepest):
        deepest = deepest.__cause__ or deepest.__context__
    return f"{type(error).__name__} {deepest or ''}".rstrip()


def _origin(url: str) -> str:
    """Return a URL without what may be secret: login and query."""
    return without_login(url).partition("?")[0]
