"""What JetStream gets: which records make a message, its subject and its id."""

import asyncio
import hashlib
import re
import zlib
from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Any

from elastic_events.bus.record import Record
from elastic_events.sinks.nats_target import token

__all__ = ("BATCH", "MESSAGE_BYTES", "Message", "block_messages", "blocks", "pack", "subject")

#: Sequence numbers a message of metric points spans: one message a record is a thirtieth of the rate.
BATCH = 256

#: Bytes a message at most, where server and stream allow as much; the server's own limit is 1 MiB unless it was changed.
MESSAGE_BYTES = 512 * 1024

# The header of a message: "NATS/1.0", "Nats-Msg-Id: ", the id, and four line ends (ADR-4). Server and stream count it, too.
_HEADER_BESIDE_ID = len("NATS/1.0") + len("Nats-Msg-Id: ") + 3 * 2
_HEADER = _HEADER_BESIDE_ID + 200
_SEQ, _CONTEXT = attrgetter("seq"), attrgetter("context")

_PLAIN_ID = re.compile(r"[!-~]{1,200}")


def subject(record: Record, prefix: str) -> str:
    """Return the subject of a record: `PREFIX.RUN.KIND.NAME`, where the dots of a name stay."""
    run = token(record.context.run_id)
    if record.kind == "metric":
        return f"{prefix}.{run}.metric.batch"
    name = record.channel if record.kind == "ledger" else record.name
    # NATS keeps counts by subject: a name of any length and depth must not become one.
    tokens = [token(part) for part in str(name)[:128].split(".")[:8]]
    return f"{prefix}.{run}.{record.kind}.{'.'.join(tokens)}"


def pack(records: Sequence[Record], lines: Sequence[bytes], prefix: str, most: int = MESSAGE_BYTES) -> "list[Message]":
    """Return the messages for `records` and their `lines`, of `most` bytes but one record at least.

    Metric points are cut at fixed sequence numbers, so that most messages are the same whatever batches they come in.
    """
    messages: list[Message] = []
    open_batches: dict[tuple[str, str], _Batch] = {}
    for record, line in zip(records, lines, strict=False):
        if record.kind != "metric":
            # Every lane of a bus writes a ledger, all at one sequence number.
            identity = f"{record.id}/{zlib.crc32(line):x}" if record.kind == "ledger" else record.id
            messages.append(Message(subject(record, prefix), identity, line, (record,)))
            continue
        speaker = (record.context.run_id, record.context.process)
        batch = open_batches.get(speaker)
        if batch is None or not batch.takes(record, line, most):
            if batch is not None:
                messages.append(batch.message(prefix))
            batch = open_batches[speaker] = _Batch(record.seq // BATCH)
        batch.records.append(record)
        batch.lines.append(line)
        batch.size += len(line) + 1
    messages += [batch.message(prefix) for batch in open_batches.values()]
    return messages


def blocks(records: Sequence[Record]) -> list[Sequence[Record]]:
    """Return metric points cut as `pack` does; nothing if they are not those of one process, one behind the other.

    Nearly all are: to look at each would cost as much as to encode it.
    """
    count = len(records)
    if not count or list(map(_CONTEXT, records)).count(records[0].context) != count:
        return []
    first = records[0].seq
    if list(map(_SEQ, records)) != list(range(first, first + count)):
        return []
    ends = [*range(BATCH - first % BATCH, count, BATCH), count]
    return [records[begin:end] for begin, end in pairwise([0, *ends])]


def block_messages(block: Sequence[Record], lines: bytes, prefix: str, most: int) -> "list[Message]":
    """Return the message for one of `blocks` and its `lines`; several, if it is longer than `most` bytes."""
    if len(lines) + _HEADER > most:
        return pack(block, lines.split(b"\n"), prefix, most)
    first = block[0]
    members = ((1 << len(block)) - 1) << first.seq % BATCH
    return [Message(subject(first, prefix), _identity(first, members), lines[:-1], tuple(block))]


def _identity(first: Record, members: int) -> str:
    """Return the id of a message of points: exactly which, since two may begin and end with the same and differ between."""
    return f"{first.context.run_id}/{first.context.process}/m/{first.seq // BATCH * BATCH}:{members:x}"


class _Batch:
    """Metric records of one process and one block of sequence numbers, on their way into one message."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.records: list[Record] = []
        self.lines: list[bytes] = []
        self.size = _HEADER

    def takes(self, record: Record, line: bytes, most: int) -> bool:
        return record.seq // BATCH == self.block and self.size + len(line) <= most

    def message(self, prefix: str) -> "Message":
        first = self.records[0]
        members = 0
        for record in self.records:
            members |= 1 << record.seq % BATCH
        return Message(subject(first, prefix), _identity(first, members), b"\n".join(self.lines), tuple(self.records))


class Message:
    """A message on its way, and the answer to it."""

    __slots__ = ("answer", "id", "payload", "records", "subject")

    answer: "asyncio.Future[Any]"

    def __init__(self, subject: str, identity: str, payload: bytes, records: tuple[Record, ...]) -> None:
        self.subject: str = subject
        # A run's id may be anything, and a header is a line: of what does not fit there, the digest.
        self.id: str = (
            identity
            if _PLAIN_ID.fullmatch(identity)
            else hashlib.sha256(identity.encode(errors="backslashreplace")).hexdigest()
        )
        self.payload: bytes = payload
        self.records: tuple[Record, ...] = records

    @property
    def size(self) -> int:
        """Bytes as the server counts them."""
        return _HEADER_BESIDE_ID + len(self.id) + len(self.payload)

    def settle(self, answer: object) -> None:
        """Take the first answer; a result, never an exception, so that nobody has to look at each."""
        if not self.answer.done():
            self.answer.set_result(answer)
