"""A small OTLP/HTTP server that decodes with opentelemetry-proto and answers what the test wants."""

import gzip
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import Any, NamedTuple

import anyio
import h11
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.servers.proxy import BROKEN


class Answer(NamedTuple):
    """What the server says; None as a status says nothing, for ever."""

    status: int | None = 200
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""


class Collector:
    """Keeps every request it answered with 200, in order; `answers` are used up one a request, then all is well."""

    def __init__(self) -> None:
        self.port = 0
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.logs: list[tuple[dict[str, Any], dict[str, Any]]] = []  # (resource, log record)
        self.points: list[tuple[dict[str, Any], dict[str, Any]]] = []  # (resource, point)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    @classmethod
    @asynccontextmanager
    async def listening(cls, tls: ssl.SSLContext | None = None) -> AsyncIterator["Collector"]:
        """Listen on a free port of loopback while the block runs."""
        made = cls()
        listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
        made.port = listener.extra(SocketAttribute.local_port)
        if tls is not None:
            listener = TLSListener(listener, tls, standard_compatible=False)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, made._serve)
            yield made
            group.cancel_scope.cancel()

    async def _serve(self, client: ByteStream) -> None:
        connection = h11.Connection(h11.SERVER)
        with suppress(*BROKEN, h11.RemoteProtocolError):
            async with client:
                while await self._exchange(client, connection):
                    connection.start_next_cycle()

    async def _exchange(self, client: ByteStream, connection: h11.Connection) -> bool:
        body, request = b"", None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await client.receive())
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert request is not None
        answer = self.answers.pop(0) if self.answers else Answer()
        self._keep(request, body, answer)
        if answer.status is None:
            await anyio.sleep_forever()
        headers = {"content-length": str(len(answer.body)), **answer.headers}
        head = h11.Response(status_code=answer.status or 200, headers=list(headers.items()), reason=b"")
        for part in (head, h11.Data(answer.body), h11.EndOfMessage()):
            await client.send(connection.send(part) or b"")
        return connection.our_state is h11.DONE

    def _keep(self, request: h11.Request, body: bytes, answer: Answer) -> None:
        path = request.target.decode()
        headers = {name.decode(): value.decode() for name, value in request.headers}
        self.requests.append((path, headers))
        if answer.status != 200:
            return
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if path.endswith("/logs"):
            self._logs(ExportLogsServiceRequest.FromString(body))
        else:
            self._metrics(ExportMetricsServiceRequest.FromString(body))

    def _logs(self, request: Any) -> None:
        for resource in request.resource_logs:
            about = attributes(resource.resource.attributes)
            for record in (record for scope in resource.scope_logs for record in scope.log_records):
                fields = {
                    "time": record.time_unix_nano,
                    "observed": record.observed_time_unix_nano,
                    "event_name": record.event_name,
                    "severity": record.severity_text,
                    "body": value(record.body),
                    "attributes": attributes(record.attributes),
                }
                self.logs.append((about, fields))

    def _metrics(self, request: Any) -> None:
        for resource in request.resource_metrics:
            about = attributes(resource.resource.attributes)
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                for point in metric.gauge.data_points:
                    fields = {
                        "name": metric.name,
                        "time": point.time_unix_nano,
                        "value": point.as_double,
                        "attributes": attributes(point.attributes),
                    }
                    self.points.append((about, fields))


def attributes(pairs: Any) -> dict[str, Any]:
    """Return KeyValues as a dict; a key that is there twice fails."""
    found = {pair.key: value(pair.value) for pair in pairs}
    assert len(found) == len(pairs), "an attribute is there twice"
    return found


def value(any_value: Any) -> Any:
    """Return what an AnyValue holds."""
    kind = any_value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [value(item) for item in any_value.array_value.values]
    if kind == "kvlist_value":
        return attributes(any_value.kvlist_value.values)
    return getattr(any_value, kind)
