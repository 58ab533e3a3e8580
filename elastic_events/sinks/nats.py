"""NATS JetStream: the engine for more than one machine."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import SplitResult

import anyio
import msgspec

from elastic_events.bus.errors import ConfigError, PermanentError, TransientError
from elastic_events.bus.record import Record
from elastic_events.bus.slices import in_slices
from elastic_events.sinks.nats_link import Link
from elastic_events.sinks.nats_read import NatsReader, read_nats, read_nats_sync
from elastic_events.sinks.nats_target import Target, target, token
from elastic_events.sinks.options import Options
from elastic_events.sinks.stored import to_lines

__all__ = ("NatsReader", "NatsSink", "from_url", "read_nats", "read_nats_sync", "subject")

#: Metric records a message at most: one message a record is a thirtieth of the rate.
BATCH = 200

#: Bytes a message at most; the server's own limit is 1 MiB unless it was raised.
MESSAGE_BYTES = 512 * 1024

#: Messages of one write that may be under way at once.
WINDOW = 1000

# server/errors.json: the message is larger than the stream allows. Others may pass: leader elections, limits, storage.
_TOO_LARGE = 10054


class NatsSink:
    """Publishes records to a JetStream stream, events one a message, metric points up to 200 a message.

    Subjects are `PREFIX.RUN.KIND.NAME`; metrics are under `PREFIX.RUN.metric.batch`. The payload is one stored record
    (`sinks.stored`) a line.

    Delivered means: JetStream acknowledged it. A single server has then written it to its file, but not synced it: the
    record survives the death of the server, not a power failure within the server's `sync_interval`, unless the stream
    has 3 replicas (F45). An acknowledgement that was lost makes the lane send the batch again; the message id, made
    from the record ids, lets the server drop the second copy within the stream's duplicate window, 15 minutes unless
    set otherwise (F39). A record is in the stream exactly once as long as a batch is not retried for longer than that.

    The stream is created if it is missing: in files, 1 GiB, 30 days, oldest messages dropped first. asyncio only.

    Args:
        servers: `host:port`, one or more, or a `Target` with everything else.
        stream: name of the stream.
        timeout: seconds that connecting, and a write, may take.
    """

    name = "nats"

    def __init__(self, servers: str | Iterable[str] | Target, stream: str | None = None, timeout: float = 10.0) -> None:
        if not isinstance(servers, Target):
            servers = Target((servers,) if isinstance(servers, str) else tuple(servers))
        self.target = servers if stream is None else replace(servers, stream=stream)
        self.timeout = timeout
        self.duplicates = 0  #: messages that the server had already
        self._link = Link(self.target, min(timeout, 5.0))
        self._waiting: dict[str, _Message] = {}
        self._serial = 0
        self._inbox = ""

    async def open(self) -> None:
        """Connect, and create the stream if it is missing.

        Raises:
            ConfigError: no server, no JetStream, no rights, or a trio loop.
        """
        self._link.forget()
        self._link.denied, self._link.lost = self._denied, self._lost
        try:
            await self._ready()
        except TransientError as error:
            raise ConfigError(str(error)) from None

    async def write(self, records: Sequence[Record]) -> None:
        """Publish and wait until every message is acknowledged.

        Raises:
            PermanentError: records that the server can never take; the others are stored.
            TransientError: anything else; the same records may be written again.
        """
        try:
            # Not asyncio.wait_for: nats-py swallows a cancellation, anyio's scope asks again.
            with anyio.fail_after(self.timeout):
                await self._write(records)
        except TimeoutError:
            # Perhaps half-open: what is under way must not arrive on this connection in front of a newer batch.
            await self._link.drop()
            raise TransientError(f"the NATS server did not acknowledge within {self.timeout:g} s") from None
        except ConfigError as error:
            raise TransientError(str(error)) from None  # it worked when the sink opened: the server may come back

    async def aclose(self) -> None:
        """Close the connection, within a second."""
        await self._link.drop()

    def __repr__(self) -> str:
        return f"<NatsSink {self.target.where}/{self.target.stream}>"

    async def _ready(self) -> None:
        if await self._link.ready():
            try:
                await self._link.ensure_stream()
                self._inbox = self._link.client.new_inbox()
                await self._link.client.subscribe(f"{self._inbox}.*", cb=self._acknowledged)
            except BaseException:
                await self._link.drop()
                raise

    async def _write(self, records: Sequence[Record]) -> None:
        await self._ready()
        lines = b"".join(await in_slices(to_lines, records)).split(b"\n")
        messages = pack(records, lines, self.target.root)
        try:
            for start in range(0, len(messages), WINDOW):
                await self._publish(messages[start : start + WINDOW])
        finally:
            self._waiting.clear()
        await self._judge(messages)

    async def _publish(self, messages: "Sequence[_Message]") -> None:
        client = self._link.client
        largest = client.max_payload
        for message in messages:
            message.answer = asyncio.get_running_loop().create_future()
            if len(message.payload) > largest:
                message.answer.set_result(_Refusal(f"{len(message.payload)} bytes; the server takes {largest}"))
                continue
            self._serial += 1
            key = str(self._serial)
            self._waiting[key] = message
            try:
                await client.publish(
                    *(message.subject, message.payload, f"{self._inbox}.{key}"), headers={"Nats-Msg-Id": message.id}
                )
            except Exception as error:  # nats-py raises what its transport does
                raise TransientError(f"NATS: {error or type(error).__name__}") from error
        await asyncio.wait([message.answer for message in messages])

    async def _judge(self, messages: "Sequence[_Message]") -> None:
        """Raise what the answers come to: anything transient first, since that one is asked again."""
        refused: list[Record] = []
        reason = ""
        for message in messages:
            answer = message.answer.result()
            if isinstance(answer, TransientError):
                await self._link.drop()  # the next write finds out whether the stream is still there
                raise answer
            if isinstance(answer, _Refusal):
                refused += message.records
                reason = answer.reason
        if refused:
            raise PermanentError(f"NATS refuses {len(refused)} records: {reason}", refused)

    async def _acknowledged(self, reply: Any) -> None:
        message = self._waiting.get(reply.subject.rpartition(".")[2])
        if message is not None:
            answer = _read_answer(reply)
            self.duplicates += answer is _DUPLICATE
            message.settle(answer)

    def _denied(self, denied: str) -> None:
        for message in list(self._waiting.values()):
            if message.subject.lower() == denied:  # nats-py lowers the server's sentence
                message.settle(_Refusal(f"no right to publish to {message.subject}"))

    def _lost(self) -> None:
        for message in list(self._waiting.values()):
            message.settle(TransientError("the connection to the NATS server is lost"))


def from_url(url: SplitResult) -> NatsSink:
    """Return the sink of `nats://[USER:PASSWORD@]HOST[:PORT][/STREAM][?OPTIONS]`; see `Target` for the options.

    Raises:
        ConfigError: the URL is wrong, and how.
    """
    options = Options(url)
    found = target(url, options)
    timeout = options.seconds("timeout", 10.0)
    options.finish()
    return NatsSink(found, timeout=timeout or 10.0)


def subject(record: Record, prefix: str) -> str:
    """Return the subject of a record: `PREFIX.RUN.KIND.NAME`, where the dots of a name stay."""
    run = token(record.context.run_id)
    if record.kind == "metric":
        return f"{prefix}.{run}.metric.batch"
    name = record.channel if record.kind == "ledger" else record.name
    # NATS keeps counts by subject: a name of any length and depth must not become one.
    tokens = [token(part) for part in str(name)[:128].split(".")[:8]]
    return f"{prefix}.{run}.{record.kind}.{'.'.join(tokens)}"


def pack(records: Sequence[Record], lines: Sequence[bytes], prefix: str) -> "list[_Message]":
    """Return the messages for `records` and their `lines`: the same for the same records, so that a retry is recognised."""
    messages: list[_Message] = []
    open_batches: dict[str, _Batch] = {}
    for record, line in zip(records, lines, strict=False):
        if record.kind != "metric":
            messages.append(_Message(subject(record, prefix), record.id, line, (record,)))
            continue
        run = record.context.run_id
        batch = open_batches.get(run)
        if batch is None or len(batch.lines) >= BATCH or batch.size + len(line) > MESSAGE_BYTES:
            if batch is not None:
                messages.append(batch.message(prefix))
            batch = open_batches[run] = _Batch()
        batch.records.append(record)
        batch.lines.append(line)
        batch.size += len(line) + 1
    messages += [batch.message(prefix) for batch in open_batches.values()]
    return messages


class _Batch:
    """Metric records on their way into one message."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.lines: list[bytes] = []
        self.size = 0

    def message(self, prefix: str) -> "_Message":
        first, last = self.records[0], self.records[-1]
        identity = f"{first.id}..{last.id}+{len(self.records)}"
        return _Message(subject(first, prefix), identity, b"\n".join(self.lines), tuple(self.records))


class _Refusal(NamedTuple):
    """The server's answer where trying again cannot help."""

    reason: str


_STORED, _DUPLICATE = object(), object()


class _Message:
    """A message on its way, and the answer to it."""

    __slots__ = ("answer", "id", "payload", "records", "subject")

    answer: "asyncio.Future[Any]"

    def __init__(self, subject: str, identity: str, payload: bytes, records: tuple[Record, ...]) -> None:
        self.subject = subject
        self.id = identity
        self.payload = payload
        self.records = records

    def settle(self, answer: object) -> None:
        """Take the first answer; a result, never an exception, so that nobody has to look at each."""
        if not self.answer.done():
            self.answer.set_result(answer)


def _read_answer(reply: Any) -> object:
    if not reply.data:  # "no responders": the stream is gone, or has no leader now
        return TransientError("no JetStream stream takes the subject")
    try:
        answer = msgspec.json.decode(reply.data)
        error = answer.get("error")
    except (msgspec.DecodeError, AttributeError):
        return TransientError("the NATS server's acknowledgement cannot be read")
    if error is None:
        return _DUPLICATE if answer.get("duplicate") else _STORED
    if error.get("err_code") == _TOO_LARGE:
        return _Refusal(str(error.get("description")))
    return TransientError(f"JetStream: {error.get('description')}")
