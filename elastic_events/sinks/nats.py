"""NATS JetStream: the engine for more than one machine."""

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import SplitResult

import anyio
import msgspec

from elastic_events.bus.errors import ConfigError, PermanentError, TransientError
from elastic_events.bus.pump import BREATH
from elastic_events.bus.record import Record
from elastic_events.bus.retry import Retry
from elastic_events.bus.slices import in_slices
from elastic_events.bus.text import counted
from elastic_events.sinks.nats_link import Link
from elastic_events.sinks.nats_pack import MESSAGE_BYTES, Message, block_messages, blocks, pack, subject
from elastic_events.sinks.nats_read import NatsReader, read_nats, read_nats_sync
from elastic_events.sinks.nats_target import DUPLICATE_WINDOW, Target, target
from elastic_events.sinks.options import Options
from elastic_events.sinks.stored import to_lines

__all__ = ("NatsReader", "NatsSink", "from_url", "read_nats", "read_nats_sync", "subject")

#: Messages of one write that may be under way at once.
WINDOW = 1000

# server/errors.json: the message is larger than the stream allows. Others may pass: leader elections, limits, storage.
_MESSAGE_EXCEEDS_MAXIMUM = 10054


class NatsSink:
    """Publishes records to a JetStream stream, events one a message, metric points up to 256 a message.

    Subjects are `PREFIX.RUN.KIND.NAME`; metrics are under `PREFIX.RUN.metric.batch`. The payload is one stored record
    (`sinks.stored`) a line. A message of metric points holds those of one process and one block of 256 sequence numbers.

    Delivered means: JetStream acknowledged it. A single server has then written it to its file, but not synced it: the
    record survives the death of the server, not a power failure within the server's `sync_interval`, unless the stream
    has 3 replicas (F45). An acknowledgement that was lost makes the lane send the batch again; the message id, made
    from the ids of all its records, lets the server drop the second copy within the stream's duplicate window, 15
    minutes unless set otherwise (F39). What comes again later, or in other company (a replay, a recovery), may be
    stored twice: `NatsReader` hands each record out once, by its id; a consumer of another kind has to look at `id`.

    The stream is created if it is missing: in files, 1 GiB, 30 days, oldest messages dropped first. asyncio only.

    Args:
        servers: `host:port`, one or more, or a `Target` with everything else.
        stream: name of the stream.
        timeout: seconds that connecting, and a write, may take.
    """

    name = "nats"
    is_read_back = True  # its readers look for the ledger, whatever the lane wants
    batch_size = 2048  #: records a write: some are encoded while the server stores others

    def __init__(self, servers: str | Iterable[str] | Target, stream: str | None = None, timeout: float = 10.0) -> None:
        if not isinstance(servers, Target):
            servers = Target((servers,) if isinstance(servers, str) else tuple(servers))
        self.target: Target = servers if stream is None else replace(servers, stream=stream)
        self.timeout = timeout
        self.duplicates: int = 0  #: messages that the server had already
        self.budget: float = Retry().budget  #: seconds for which a batch is tried; its lane says
        self.remarks: list[str] = []  #: what a person should know of the stream; told by the lane
        self._link = Link(self.target, min(timeout, 5.0))
        self._most = MESSAGE_BYTES  # of a message, header included
        self._waiting: dict[str, Message] = {}
        self._serial = 0
        self._inbox = ""
        self._hurried = False

    async def open(self) -> None:
        """Connect, and create the stream if it is missing.

        Raises:
            ConfigError: no JetStream, no rights, or a trio loop.
            TransientError: no server answers now.
        """
        self._link.forget()
        self._link.denied, self._link.lost = self._denied, self._lost
        await self._ready()

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

    def hurry(self, on: bool) -> None:
        """Work without pauses from now on, or with them again."""
        self._hurried = on

    def __repr__(self) -> str:
        return f"<NatsSink {self.target.where}/{self.target.stream}>"

    async def _ready(self) -> None:
        if await self._link.ready():
            try:
                await self._link.ensure_stream()
                self._most = min(MESSAGE_BYTES, self._link.largest)
                self._look_at_stream()
                self._inbox = self._link.client.new_inbox()
                await self._link.client.subscribe(f"{self._inbox}.*", cb=self._acknowledged)
            except BaseException:
                await self._link.drop()
                raise

    async def _write(self, records: Sequence[Record]) -> None:
        await self._ready()
        done: list[Message] = []
        try:
            messages = await self._send_all(records)
            while messages:
                await asyncio.wait([message.answer for message in messages])
                settled, smaller = self._split(messages)
                done += settled
                messages = await self._send(smaller)
        finally:
            self._waiting.clear()
        await self._judge(done)

    async def _send_all(self, records: Sequence[Record]) -> list[Message]:
        """Send each block of metric points while the next one is encoded; the server is at work meanwhile."""
        cut = blocks([record for record in records if record.kind == "metric"])
        rest = [record for record in records if record.kind != "metric"] if cut else records
        messages: list[Message] = []
        if rest:
            lines = b"".join(await in_slices(to_lines, rest, hurried=self._hurried)).split(b"\n")
            messages += await self._send(pack(rest, lines, self.target.root, self._most))
        for block in cut:
            await anyio.sleep(0 if self._hurried else BREATH)
            messages += await self._send(block_messages(block, to_lines(block), self.target.root, self._most))
        return messages

    async def _send(self, messages: list[Message]) -> list[Message]:
        for start in range(0, len(messages), WINDOW):
            if start:
                await asyncio.wait([message.answer for message in messages[start - WINDOW : start]])
            await self._publish(messages[start : start + WINDOW])
        return messages

    def _split(self, messages: "Sequence[Message]") -> "tuple[list[Message], list[Message]]":
        """Return the messages that have their answer, and smaller ones for those that were too large for the stream."""
        settled: list[Message] = []
        large: list[Message] = []
        for message in messages:
            splits = message.answer.result() is _TOO_LARGE and len(message.records) > 1
            (large if splits else settled).append(message)
        if not large:
            return settled, []
        self._most = min(message.size for message in large) // 2
        smaller: list[Message] = []
        for message in large:
            smaller += pack(message.records, message.payload.split(b"\n"), self.target.root, self._most)
        return settled, smaller

    async def _publish(self, messages: "Sequence[Message]") -> None:
        client = self._link.client
        largest = min(client.max_payload, self._link.largest)
        for message in messages:
            message.answer = asyncio.get_running_loop().create_future()
            if message.size > largest:
                # Not to be tried: of a message beyond its limit the server closes the connection.
                message.answer.set_result(_TOO_LARGE)
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

    async def _judge(self, messages: "Sequence[Message]") -> None:
        """Raise what the answers come to: anything transient first, since that one is asked again."""
        refused: list[Record] = []
        reason = ""
        for message in messages:
            answer = message.answer.result()
            if isinstance(answer, TransientError):
                await self._link.drop()  # the next write finds out whether the stream is still there
                raise answer
            if answer is _TOO_LARGE:
                answer = _Refusal(f"a message of {message.size} bytes is larger than the server or the stream takes")
            if isinstance(answer, _Refusal):
                refused += message.records
                reason = answer.reason
        if refused:
            raise PermanentError(f"NATS refuses {counted(len(refused), 'record')}: {reason}", refused)

    async def _acknowledged(self, reply: Any) -> None:
        message = self._waiting.get(reply.subject.rpartition(".")[2])
        if message is not None:
            answer = _read_answer(reply)
            self.duplicates += answer is _DUPLICATE
            message.settle(answer)

    def _look_at_stream(self) -> None:
        """Remark, once each, what a person should know of the stream."""
        for remark in (*self._link.habits, *self._short_window()):
            if remark not in self.remarks:
                self.remarks.append(remark)

    def _short_window(self) -> Iterator[str]:
        """Yield that the stream forgets message ids sooner than a lane gives up trying.

        A lane that never gives up is held to the window of the streams that are made here: no window is long enough for it.
        """
        window, never = self._link.duplicate_window, self.budget == math.inf
        if window is None or window >= (DUPLICATE_WINDOW if never else self.budget):
            return
        yield (
            f"the NATS stream {self.target.stream!r} knows a message again for {window:g} s, and a batch is tried "
            f"{'until it arrives' if never else f'for {self.budget:g} s'}: what comes again later is stored twice; "
            "elastic-events reads it once"
        )

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


class _Refusal(NamedTuple):
    """The server's answer where trying again cannot help."""

    reason: str


_STORED, _DUPLICATE, _TOO_LARGE = object(), object(), object()


def _read_answer(reply: Any) -> object:
    if not reply.data:  # "no responders": the stream is gone, or has no leader now
        return TransientError("no JetStream stream takes the subject")
    try:
        answer = msgspec.json.decode(reply.data)
        error = answer.get("error")
    except (ValueError, AttributeError, RecursionError):
        return TransientError("the NATS server's acknowledgement cannot be read")
    if error is None:
        return _DUPLICATE if answer.get("duplicate") else _STORED
    if error.get("err_code") == _MESSAGE_EXCEEDS_MAXIMUM:
        return _TOO_LARGE
    return TransientError(f"JetStream: {error.get('description')}")
