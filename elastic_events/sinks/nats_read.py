"""Reading a run back from a JetStream stream, from the start or live."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio

from elastic_events.bus.errors import ConfigError, InputError, TransientError
from elastic_events.bus.record import Record
from elastic_events.bus.text import counted
from elastic_events.sinks.nats_link import Link
from elastic_events.sinks.nats_target import Target, target, token
from elastic_events.sinks.options import Options, split_url
from elastic_events.sinks.stored import from_json

__all__ = ("PULL", "NatsReader", "read_nats", "read_nats_sync", "reader_of")

#: Messages asked for at once; a message holds up to 256 records.
PULL = 64

_STREAM_NOT_FOUND = 10059  # server/errors.json

#: Seconds a request for messages stays open at the server.
EXPIRES = 5.0

#: Seconds for which one who does not follow asks again where no message comes, though there are some.
PATIENCE = 60.0


class NatsReader:
    """Reads the records of a stream in the order in which it stored them, each record once, by its id.

    What the stream holds twice (sent again after a lost acknowledgement, replayed, recovered) is handed out the first time
    and counted in `repeated` then; of a durable reader, as far as it read since it was opened.

    A connection that breaks is made again, and reading goes on behind the last message; a stream that was deleted and made
    anew is read from its start, and who follows waits for it. Messages that hold no stored record are skipped and counted.

    Args:
        target: where the stream is.
        run: only this run; None for all.
        follow: whether to wait for more at the end.
        durable: name of a consumer that the server keeps: the next reader of that name goes on where this one stopped.
            A batch is acknowledged when the next one is asked for.
        live: begin with what arrives from now on.
    """

    def __init__(
        self,
        target: Target,
        *,
        run: str | None = None,
        follow: bool = False,
        durable: str | None = None,
        live: bool = False,
    ) -> None:
        self.target = target
        self.run = run
        self.follow = follow
        self.durable = durable
        self.live = live
        self.skipped: int = 0  #: messages that hold no stored record
        self.repeated: int = 0  #: records that had been handed out before
        self._seen = Seen()
        self._link = Link(target, 5.0)
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._last = 0  # sequence of the last message that was handed out, or is not wanted
        self._created: Any = None  # when the stream was made that this is a sequence of; None where we may not ask
        self._wanted = 0  # messages that the open request may still bring
        self._pending = self._held = 0  # messages behind the last one; all of the stream, under any subject
        self._waited = False  # the last request brought nothing, though messages were behind the last one
        self._handed = False  # a message is with whoever asked: nobody has its records for sure until he asks again
        self._unacknowledged: Any = None
        self._inbox = self._next = ""

    async def open(self) -> None:
        """Connect and find the stream.

        Raises:
            InputError: there is no such stream, or all that it holds is under another prefix, as in a mirror.
            ConfigError: no server, no JetStream, or a trio loop.
        """
        try:
            await self._connect()
        except TransientError as error:
            raise ConfigError(str(error)) from None
        if self._held and not (self._pending or self.run or self.follow or self.durable or self.live):
            await self.aclose()
            held = f"the NATS stream {self.target.stream!r} holds {counted(self._held, 'message')}"
            raise InputError(
                f"{held}, none of them under {self.target.root}.>: name the prefix that they have by ?prefix="
            )

    async def batch(self) -> list[Record] | None:
        """Return the next records, or None at the end.

        Raises:
            InputError: the stream is gone, or its server hands out nothing.
            ConfigError: the user has no right to read.
        """
        since = anyio.current_time()
        while True:
            try:
                message = await self._message()
                if message is None:
                    await self._acknowledge()
            except TransientError as error:
                if not self.follow and anyio.current_time() - since > PATIENCE:
                    raise InputError(f"the NATS server at {self.target.where} hands out nothing: {error}") from None
                await self._again()
                continue
            if message is None:
                return None
            records = self._records(message)
            if records:
                return records

    async def aclose(self) -> None:
        """Close the connection; the consumer of a reader that is not durable goes with it."""
        await self._link.drop()

    @property
    def behind(self) -> int:
        """How many messages of the stream are still to come, as far as the server said; of those read, the last one counts."""
        return self._pending + self._handed

    # --- inside ---

    async def _connect(self) -> None:
        await self._link.ready()
        self._arrived = asyncio.Queue()
        self._link.lost = self._lost(self._arrived)
        self._link.denied = self._denied(self._arrived)
        self._wanted, self._waited = 0, False
        self._unacknowledged = None
        client = self._link.client
        self._inbox = client.new_inbox()
        await client.subscribe(self._inbox, cb=self._arrived.put)
        info = await self._consumer(client)
        self._pending = info.num_pending
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{self.target.stream}.{info.name}"

    async def _consumer(self, client: Any) -> Any:
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
        from nats.js.errors import APIError

        manager = client.jsm(timeout=5.0)
        try:
            from_now = await self._find_stream(manager)
            config = ConsumerConfig(
                filter_subject=f"{self.target.root}.{token(self.run)}.>" if self.run else f"{self.target.root}.>",
                ack_policy=AckPolicy.ALL if self.durable else AckPolicy.NONE,
                deliver_policy=DeliverPolicy.NEW if from_now else DeliverPolicy.ALL,
            )
            if self.durable:
                config.name = config.durable_name = token(self.durable)
            elif self._last:
                config.deliver_policy, config.opt_start_seq = DeliverPolicy.BY_START_SEQUENCE, self._last + 1
            if self.durable:
                kept = await self._kept(manager, config)
                if kept is not None:
                    return kept
            return await self._link.api(manager.add_consumer, self.target.stream, config)
        except APIError as error:
            if error.err_code == _STREAM_NOT_FOUND:
                raise InputError(
                    f"the NATS server at {self.target.where} has no stream {self.target.stream!r}"
                ) from None
            raise ConfigError(f"JetStream: {error.description}") from None

    async def _find_stream(self, manager: Any) -> bool:
        """Note which stream it is: the sequences of one that was made anew are others. Return whether to begin behind its end."""
        if not self.target.manage:
            return self.live
        try:
            info = await self._link.api(manager.stream_info, self.target.stream)
        except ConfigError:  # a user who may read need not have the right to ask
            return self.live
        known, self._created = self._created, info.created
        self._held = info.state.messages
        if known not in (None, info.created):
            self._last = 0
            return False
        if self.live and not self.durable and known is None:
            self._last = info.state.last_seq  # not "new" to the server: that would be new at each connection
        return self.live and self.durable is not None

    async def _kept(self, manager: Any, config: Any) -> Any:
        """Return the consumer that the server kept, or None where it must be made.

        One that handed out what was never acknowledged is made again behind its last acknowledgement: the server would
        redeliver only after half a minute, and out of order.
        """
        from nats.js.api import DeliverPolicy
        from nats.js.errors import NotFoundError

        try:
            info = await self._link.api(manager.consumer_info, self.target.stream, config.name)
        except NotFoundError as error:
            if error.err_code == _STREAM_NOT_FOUND:
                raise
            return None
        if not info.num_ack_pending:
            return info
        config.deliver_policy = DeliverPolicy.BY_START_SEQUENCE
        config.opt_start_seq = info.ack_floor.stream_seq + 1
        await self._link.api(manager.delete_consumer, self.target.stream, config.name)
        return None

    async def _again(self) -> None:
        """Connect again, as long as it takes for one who follows, for half a minute otherwise."""
        for _ in range(60):
            await self._link.drop()
            try:
                return await self._connect()
            except TransientError:
                await asyncio.sleep(0.5)
            except InputError:  # the stream is gone; it may be made again
                if not self.follow:
                    raise
                await asyncio.sleep(0.5)
        if not self.follow:
            raise InputError(f"the NATS server at {self.target.where} went away and did not come back")
        return None

    async def _message(self) -> Any:
        """Return the next message of the stream, or None at its end."""
        while True:
            self._handed = False
            if self._arrived.empty():
                if not self._pending and not self.follow:
                    return None
                await self._ask()
            message = await self._arrival()
            if message.headers and "Status" in message.headers and not message.data:
                self._wanted = 0  # the request is over: nothing more within its time, or the consumer is gone
                if message.headers["Status"] not in ("404", "408"):
                    raise TransientError(str(message.headers))
                if message.headers["Status"] == "404":  # nor is there: what was behind the last one is removed
                    self._pending = 0
                self._waited = self._pending > 0
                continue
            self._wanted -= 1
            self._waited = False
            self._handed = True  # before there seems to be nothing behind it
            sequence, self._pending = _position(message)
            if sequence > self._last:
                await self._acknowledge()  # where that fails, this message comes again, and is new then, too
                self._last = sequence
                self._unacknowledged = message
                return message
            self._unacknowledged = message  # it came again, since its acknowledgement was lost

    async def _arrival(self) -> Any:
        """Return what came to the inbox: a message, or that there is none."""
        try:
            with anyio.fail_after(EXPIRES + 5.0):
                arrived = await self._arrived.get()
        except TimeoutError:
            raise TransientError("the NATS server does not answer") from None
        if arrived is None:
            raise TransientError("the connection to the NATS server is lost")
        if isinstance(arrived, ConfigError):
            raise arrived
        return arrived

    async def _ask(self) -> None:
        """Ask for more once the last request is used up."""
        if self._wanted > 0:
            return
        self._wanted = PULL
        # What the server counted may be removed before it comes: purged, too old, too many. "no_wait" asks whether any is there.
        until = '"no_wait": true' if self._waited else f'"expires": {int(EXPIRES * 1e9)}'
        await self._publish(self._next, f'{{"batch": {PULL}, {until}}}'.encode(), self._inbox)

    async def _acknowledge(self) -> None:
        message, self._unacknowledged = self._unacknowledged, None
        if message is not None and self.durable:
            await self._publish(message.reply, b"+ACK", "")

    async def _publish(self, subject: str, payload: bytes, reply: str) -> None:
        try:
            with anyio.fail_after(5.0):
                await self._link.client.publish(subject, payload, reply)
        except Exception as error:  # nats-py raises what its transport does
            raise TransientError(f"NATS: {error or type(error).__name__}") from error

    def _records(self, message: Any) -> list[Record]:
        try:
            records = [from_json(line) for line in message.data.split(b"\n")]
        except InputError:
            self.skipped += 1
            return []
        wanted = [record for record in records if self.run is None or record.context.run_id == self.run]
        new = [record for record in wanted if self._seen.first(record)]
        self.repeated += len(wanted) - len(new)
        return new

    @staticmethod
    def _lost(queue: "asyncio.Queue[Any]") -> Any:
        return lambda: queue.put_nowait(None)

    def _denied(self, queue: "asyncio.Queue[Any]") -> Any:
        def tell(subject: str) -> None:
            if subject == self._next.lower():  # nats-py lowers the server's sentence
                queue.put_nowait(ConfigError(f"the NATS user may not read: it has no right to publish to {self._next}"))

        return tell


class Seen:
    """Which records came before: a bit for each sequence number, so that millions fit into memory."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, str, str, int], int] = {}
        self._ledgers: set[str] = set()

    def first(self, record: Record) -> bool:
        """Whether this is the first record of its id; from then on it is not. A ledger is known by all that it says."""
        if record.kind == "ledger":  # every lane of a bus writes one, all at one sequence number
            said = repr((record.id, record.channel, record.fields))
            new = said not in self._ledgers
            self._ledgers.add(said)
            return new
        key = (record.context.run_id, record.context.process, record.ring, record.seq >> 10)
        block, bit = self._blocks.get(key, 0), 1 << (record.seq & 1023)
        self._blocks[key] = block | bit
        return not block & bit


def _position(message: Any) -> tuple[int, int]:
    """Return the message's sequence in the stream and how many are behind it (ADR-15: from the end of the reply)."""
    parts = message.reply.split(".")
    if len(parts) > 9:  # with domain, account hash and a random token
        return int(parts[7]), int(parts[10])
    return int(parts[5]), int(parts[8])


def reader_of(url: str, **options: Any) -> NatsReader:
    """Return the reader of a `nats:` or `tls:` URL, not yet opened.

    Raises:
        ConfigError: the URL is wrong, and how.
    """
    split = split_url(url)
    if split.scheme not in ("nats", "tls"):
        raise ConfigError(f"{split.scheme or 'this'} is no NATS URL: write nats://HOST:4222/STREAM")
    asked = Options(split)
    found = target(split, asked)
    options["run"] = options.get("run") or asked.text("run")
    options["durable"] = options.get("durable") or asked.text("durable")
    asked.finish()
    return NatsReader(found, **options)


async def read_nats(
    url: str, follow: bool = False, *, run: str | None = None, durable: str | None = None, live: bool = False
) -> AsyncIterator[Record]:
    """Yield the records of `nats://HOST:PORT/STREAM[?run=RUN&durable=NAME]`; see `NatsReader`. asyncio only.

    Raises:
        ConfigError: the URL is wrong, or there is no server with JetStream.
        InputError: there is no such stream, or its server went away.
    """
    reader = reader_of(url, follow=follow, run=run, durable=durable, live=live)
    try:
        await reader.open()
        while (records := await reader.batch()) is not None:
            for record in records:
                yield record
    finally:
        await reader.aclose()


def read_nats_sync(
    url: str,
    follow: bool = False,
    *,
    run: str | None = None,
    durable: str | None = None,
    live: bool = False,
    damaged: Callable[[str, str], object] = lambda _stream, _reason: None,
) -> Iterator[Record]:
    """As `read_nats`, from a thread that runs no event loop; the connection lives in a thread of its own.

    `damaged(stream, reason)` is told of each message that holds no stored record.
    """
    from anyio.from_thread import start_blocking_portal

    reader = reader_of(url, follow=follow, run=run, durable=durable, live=live)
    with start_blocking_portal("asyncio") as portal:
        try:
            portal.call(reader.open)
            while (records := portal.call(reader.batch)) is not None:
                yield from records
        finally:
            portal.call(reader.aclose)
    for _ in range(reader.skipped):
        damaged(reader.target.stream, "a message that holds no stored record")
