"""NATS JetStream: delivered exactly once, with a real server, through a proxy that fails."""

import errno
import itertools
import json
import math
import os
import queue
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from elastic_events import EventBus
from elastic_events.api import Event, EventSource
from elastic_events.bus.errors import ConfigError, InputError, PermanentError, TransientError
from elastic_events.bus.record import Record
from elastic_events.bus.retry import Retry
from elastic_events.sinks.nats import NatsReader, NatsSink, from_url, pack, read_nats, read_nats_sync, subject
from elastic_events.sinks.nats_follow import NatsFollower
from elastic_events.sinks.nats_link import Link
from elastic_events.sinks.nats_pack import Message, block_messages, blocks
from elastic_events.sinks.nats_read import PULL
from elastic_events.sinks.nats_target import Target
from elastic_events.sinks.rollup import Rollup
from elastic_events.sinks.stored import to_lines
from elastic_events.sinks.urls import open_url, parse_sinks
from elastic_events.testing import ListSink
from tests.servers.conftest import ASYNCIO, NatsServer
from tests.servers.factory import context, event, ledger, metric, rdzv
from tests.servers.proxy import Proxy


@pytest.fixture(params=ASYNCIO)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """nats-py runs on asyncio only."""
    return request.param


@asynccontextmanager
async def opened(sink: NatsSink) -> AsyncIterator[NatsSink]:
    """Open a sink for a block."""
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


def to(server: NatsServer | Proxy, stream: str, **options: Any) -> NatsSink:
    """Return a sink to that server or proxy."""
    return NatsSink(f"127.0.0.1:{server.port}", stream, **options)


async def stored(server: NatsServer, stream: str, **options: Any) -> list[Record]:
    """Return what the stream holds."""
    return [record async for record in read_nats(f"{server.url}/{stream}", **options)]


def ids(records: Sequence[Record]) -> list[str]:
    """Return the record ids."""
    return [record.id for record in records]


async def test_every_kind_comes_back_as_it_was_written(nats_server: NatsServer, stream: str) -> None:
    """What is read from the stream is what was written, every field of every kind."""
    written = [event(1, "job.started", {"a": [1, None, "ü"]}), rdzv(2), ledger(3, accepted=2), metric(4, value=1.25)]
    async with opened(to(nats_server, stream)) as sink:
        await sink.write(written)
    read = await stored(nats_server, stream)
    assert ids(read) == ids(written)
    for one, other in zip(read, written, strict=True):
        assert (one.kind, one.name, one.channel, one.time_ns, one.fields, one.context) == (
            *(other.kind, other.name, other.channel, other.time_ns, other.fields),
            other.context,
        )


async def test_events_are_messages_and_metrics_are_batches(nats_server: NatsServer, stream: str) -> None:
    """An event is one message with its name in the subject; 600 metric points are three messages."""
    sink = to(nats_server, stream)
    async with opened(sink):
        await sink.write([metric(n) for n in range(600)] + [event(1, "checkpoint.ended"), event(2, "a b>*")])
        info = await sink._link.client.jsm().stream_info(stream, subjects_filter=">")
        assert info.state.subjects == {
            f"{stream}.run-1.metric.batch": 3,
            f"{stream}.run-1.event.checkpoint.ended": 1,
            f"{stream}.run-1.event.a_b__": 1,
        }


async def test_the_stream_is_created_with_limits(nats_server: NatsServer, stream: str) -> None:
    """A missing stream is made with bounded size, bounded age and a duplicate window beyond the retry budget."""
    async with opened(to(nats_server, stream)) as sink:
        config = (await sink._link.client.jsm().stream_info(stream)).config
    assert (config.max_bytes, config.max_age, config.duplicate_window) == (2**30, 30 * 86400, 900)
    assert config.duplicate_window > 300


async def test_who_makes_a_stream_at_the_same_moment_with_other_settings_uses_it(
    nats_server: NatsServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two sinks that both find no stream, the slower one opens as well, and learns what the faster one made."""
    found = Link._find
    faster = NatsSink(Target((f"127.0.0.1:{nats_server.port}",), stream, max_bytes=10**6, duplicate_window=60))

    async def overtaken(link: Link, jetstream: Any) -> Any:
        monkeypatch.undo()
        nothing = await found(link, jetstream)
        async with opened(faster):
            return nothing

    monkeypatch.setattr(Link, "_find", overtaken)
    async with opened(to(nats_server, stream)) as slower:
        await slower.write([metric(1)])
        assert slower.remarks, "it was made with a short window, which is told"
    assert ids(await stored(nats_server, stream)) == [metric(1).id]


async def test_a_retried_batch_is_the_same_messages(nats_server: NatsServer, stream: str) -> None:
    """Writing the same records again adds nothing to the stream (F39)."""
    records = [*(metric(n) for n in range(300)), event(1)]
    async with opened(to(nats_server, stream)) as sink:
        await sink.write(records)
        await sink.write(records)
        assert sink.duplicates == 3
    assert len(await stored(nats_server, stream)) == 301


async def test_a_lost_acknowledgement_makes_no_duplicate(nats_server: NatsServer, stream: str, proxy: Proxy) -> None:
    """Stored, acknowledgement lost, sent again under the same id: once in the stream (F39)."""
    proxy.target = nats_server.port
    sink = to(proxy, stream, timeout=30)
    async with opened(sink):
        proxy.to_client = lambda chunk: None
        sink.timeout = 0.5
        with pytest.raises(TransientError, match="did not acknowledge"):
            await sink.write([event(1), metric(1)])
        proxy.to_client = lambda chunk: chunk
        sink.timeout = 30.0
        await sink.write([event(1), metric(1)])
    assert sink.duplicates == 2
    assert ids(await stored(nats_server, stream)) == ids([event(1), metric(1)])


async def test_a_half_open_connection_costs_one_timeout(nats_server: NatsServer, stream: str, proxy: Proxy) -> None:
    """A connection that swallows everything fails within the timeout; the next write uses another one."""
    proxy.target = nats_server.port
    sink = to(proxy, stream, timeout=30)
    async with opened(sink):
        proxy.stall()
        sink.timeout = 0.5
        with pytest.raises(TransientError), anyio.fail_after(5):
            await sink.write([event(1)])
        proxy.flow()
        sink.timeout = 30.0
        await sink.write([event(1)])
        assert proxy.connections == 2
    assert len(await stored(nats_server, stream)) == 1


async def test_a_connection_that_breaks_while_it_is_written_fails_at_once(nats_server: NatsServer, stream: str) -> None:
    """A reset that a write meets costs one retry, not a wait for answers that cannot come; the batch is stored once."""
    async with opened(to(nats_server, stream, timeout=60)) as sink:
        client = sink._link.client

        async def broken() -> None:
            client._pending.append(b"PING\r\n")  # what others of its tasks had to say meanwhile
            client._pending_data_size += 6
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

        client._transport.drain = broken
        with anyio.fail_after(30):
            with pytest.raises(TransientError):
                await sink.write([event(1)])
            await sink.write([event(1)])
    assert ids(await stored(nats_server, stream)) == ids([event(1)])


async def test_a_dropped_connection_fails_at_once(nats_server: NatsServer, stream: str, proxy: Proxy) -> None:
    """A broken connection wakes the write that waits for acknowledgements, and the next one connects again."""
    proxy.target = nats_server.port
    sink = to(proxy, stream, timeout=30.0)
    async with opened(sink):
        proxy.to_client = lambda chunk: None
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(_write_and_lose, sink)
                while not sink._waiting:
                    await anyio.sleep(0)
                await proxy.drop()
        proxy.to_client = lambda chunk: chunk
        await sink.write([event(1)])
    assert len(await stored(nats_server, stream)) == 1


async def _write_and_lose(sink: NatsSink) -> None:
    with pytest.raises(TransientError, match="lost"):
        await sink.write([event(1)])


async def test_exactly_once_over_killed_servers(mortal_server: NatsServer, stream: str) -> None:
    """50,000 records, the server killed twice meanwhile: each is in the stream once, in order (F38, F39)."""
    records = [metric(n) if n % 50 else event(n) for n in range(50_000)]
    batches = [records[n : n + 500] for n in range(0, len(records), 500)]
    sink = to(mortal_server, stream)
    failures = 0
    async with opened(sink), anyio.create_task_group() as group:
        for number, batch in enumerate(batches):
            if number in (30, 70):
                group.start_soon(_kill_and_start, mortal_server, group)
            failures += await _write_until_taken(sink, batch)
    assert failures >= 2, "the server was not missed"
    read = await stored(mortal_server, stream)
    assert len(read) == 50_000
    assert set(ids(read)) == set(ids(records))
    events = [record.seq for record in read if record.kind == "event"]
    assert events == sorted(events)


async def _kill_and_start(server: NatsServer, group: Any) -> None:
    await anyio.to_thread.run_sync(server.kill)
    await anyio.to_thread.run_sync(server.start)


async def _write_until_taken(sink: NatsSink, batch: Sequence[Record]) -> int:
    """Write as a lane does, with its backoff between; return how often it failed."""
    for failures in itertools.count():
        try:
            await sink.write(batch)
            return failures
        except TransientError:
            await anyio.sleep(0.02)
    raise AssertionError


async def test_an_oversized_record_is_refused_alone(nats_server: NatsServer, stream: str) -> None:
    """A record beyond the server's limit is rejected by name, the others are stored (F40, F41, F42)."""
    big = event(2, metadata={"x": "y" * 2_000_000})
    async with opened(to(nats_server, stream)) as sink:
        with pytest.raises(PermanentError) as caught:
            await sink.write([event(1), big, event(3)])
    assert caught.value.rejected == (big,)
    assert [record.seq for record in await stored(nats_server, stream)] == [1, 3]


def packed(records: list[Record]) -> Any:
    """Return the messages for `records`."""
    return pack(records, to_lines(records).split(b"\n"), "p")


def test_messages_are_bounded_in_bytes() -> None:
    """A message of metric points ends before the server's usual limit, however long they are (F42)."""
    messages = packed([metric(n, value="x" * 16_000) for n in range(200)])
    assert max(len(message.payload) for message in messages) <= 512 * 1024
    assert sum(len(message.records) for message in messages) == 200


@pytest.mark.parametrize("first", [0, 1, 255, 256, 1000])
@pytest.mark.parametrize("count", [1, 255, 256, 700])
@pytest.mark.parametrize("most", [512 * 1024, 20_000])
def test_blocks_of_points_are_the_messages_that_looking_at_each_makes(first: int, count: int, most: int) -> None:
    """Points one behind the other are cut at once, into the same messages by the same names, also where few bytes fit."""
    records = [metric(first + number) for number in range(count)]
    quick = [one for block in blocks(records) for one in block_messages(block, to_lines(block), "s", most)]
    slow = pack(records, to_lines(records).split(b"\n"), "s", most)
    assert [(one.id, one.subject, one.payload, one.records) for one in quick] == [
        (one.id, one.subject, one.payload, one.records) for one in slow
    ]


def test_points_that_are_not_one_behind_the_other_are_looked_at_one_by_one() -> None:
    """A gap, two processes, or another order make no blocks."""
    other = context(process="q")
    assert blocks([]) == []
    assert blocks([metric(1), metric(3)]) == []
    assert blocks([metric(2), metric(1)]) == []
    assert blocks([metric(1), metric(2, speaker=other)]) == []


async def test_points_and_events_of_one_write_are_all_stored(nats_server: NatsServer, stream: str) -> None:
    """Events between points, and more messages than may be under way at once, arrive each once."""
    records = [event(number) if number % 2 else metric(number // 2) for number in range(2600)]
    async with opened(to(nats_server, stream)) as sink:
        await sink.write(records)
    assert sorted(ids(await stored(nats_server, stream))) == sorted(ids(records))


def test_two_runs_never_share_a_message() -> None:
    """Metric points of two runs that alternate in a batch go under the subject of their own run."""
    other = context(run_id="run 2.x")
    messages = packed([metric(n, speaker=other if n % 2 else None) for n in range(10)])
    assert [message.subject for message in messages] == ["p.run-1.metric.batch", "p.run_2_x.metric.batch"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b", "p.run-1.event.a.b"),
        ("", "p.run-1.event._"),
        ("..", "p.run-1.event._._._"),
        ("é >", "p.run-1.event.___"),
    ],
)
def test_any_name_makes_a_valid_subject(name: str, expected: str) -> None:
    """No name of an event can break out of its subject."""
    assert subject(event(1, name), "p") == expected


def test_a_long_deep_name_makes_a_short_subject() -> None:
    """A name of any length and depth gives a bounded subject (F62)."""
    assert len(subject(event(1, "x" * 5000), "p")) < 200
    assert subject(event(1, ".".join("abcdefghijkl")), "p").count(".") == 10


# --- each record once, whatever it comes in ---


async def test_what_comes_again_in_other_company_is_read_once(nats_server: NatsServer, stream: str) -> None:
    """Records that are replayed in other batches are handed out once, and full blocks are not even stored twice."""
    records = [*(metric(n) for n in range(600)), event(1), rdzv(2)]
    async with opened(to(nats_server, stream)) as sink:
        for start in range(0, 600, 70):
            await sink.write(records[start : start + 70])
        await sink.write(records)
        already = sink.duplicates
        await sink.write(records[100:])
    assert sink.duplicates - already == 4  # two blocks of metric points from 256 on, two events
    reader = NatsReader(Target((f"127.0.0.1:{nats_server.port}",), stream))
    await reader.open()
    read: list[Record] = []
    while (batch := await reader.batch()) is not None:
        read += batch
    await reader.aclose()
    assert sorted(ids(read)) == sorted(ids(records))
    assert reader.repeated > 0


def test_a_message_is_named_by_exactly_its_records() -> None:
    """Two batches that begin and end alike and differ between are two messages, and the server drops neither."""
    one, other = (packed([metric(n) for n in seqs]) for seqs in ((1, 2, 4), (1, 3, 4)))
    assert one[0].id != other[0].id
    assert [len(message.records) for message in packed([metric(n) for n in range(200, 520)])] == [56, 256, 8]


async def test_a_run_of_any_name_is_stored_once(nats_server: NatsServer, stream: str) -> None:
    """A run's id that no header could hold, for its length or its line ends, neither breaks in nor is told apart wrongly."""
    speakers = [context(run_id=name) for name in ("a\r\nNats-Msg-Id: x", "ü" * 5000, "ü" * 5001)]
    records = [make(1, speaker=speaker) for speaker in speakers for make in (metric, event)]
    async with opened(to(nats_server, stream)) as sink:
        await sink.write(records)
        await sink.write(records)
        assert sink.duplicates == 6
    assert sorted(ids(await stored(nats_server, stream))) == sorted(ids(records))


async def others_stream(server: NatsServer, stream: str, **options: Any) -> None:
    """Make a stream as somebody else would."""
    import nats
    from nats.js.api import StreamConfig

    client = await nats.connect(server.url)
    await client.jetstream().add_stream(StreamConfig(name=stream, subjects=[f"{stream}.>"], **options))
    await client.close()


@pytest.mark.parametrize(
    ("budget", "window", "told"),
    [
        (300, 120, "for 120 s, and a batch is tried for 300 s"),
        (60, 120, None),
        (1200, 900, "for 900 s, and a batch is tried for 1200 s"),
        (math.inf, 900, None),
        (math.inf, 120, "for 120 s, and a batch is tried until it arrives"),
    ],
)
async def test_the_duplicate_window_is_held_against_the_lane_s_patience(
    nats_server: NatsServer, stream: str, budget: float, window: float, told: str | None, capfd: Any
) -> None:
    """A stream whose window is shorter than the time for which the lane tries a batch is told of, once; no other is."""
    await others_stream(nats_server, stream, duplicate_window=window)
    async with EventBus() as bus:
        bus.subscribe(Rollup(to(nats_server, stream), quantiles=()), retry=Retry(budget=budget))
        bus.record(Event("a", EventSource.AGENT))
        await bus.settled()
        bus._drain.notices.all[0].look(0.0)
    lines = [line for line in capfd.readouterr().err.splitlines() if "knows a message again" in line]
    assert len(lines) == (told is not None)
    assert all(str(told) in line for line in lines)


async def test_a_short_duplicate_window_is_told_and_read_once(nats_server: NatsServer, stream: str) -> None:
    """A stream that forgets ids before a lane gives up is told of once; what it stores twice is read once."""
    await others_stream(nats_server, stream, duplicate_window=0.1)
    records = [*(metric(n) for n in range(300)), event(1)]
    async with opened(to(nats_server, stream)) as sink:
        await sink.write(records)
        manager = sink._link.client.jsm()
        with anyio.fail_after(20):
            while (await manager.stream_info(stream)).state.messages == 3:  # until the server has forgotten them
                await sink.write(records)
        await sink._link.drop()
        await sink.write([event(2)])
    assert ["knows a message again for 0.1 s, and a batch is tried for 300 s" in one for one in sink.remarks] == [True]
    assert sorted(ids(await stored(nats_server, stream))) == sorted(ids([*records, event(2)]))


@pytest.mark.parametrize(
    ("habit", "told"),
    [
        ({"retention": "interest"}, "keeps a message only until its consumers have it"),
        ({"retention": "workqueue"}, "keeps a message only until its consumers have it"),
        ({"max_msgs_per_subject": 1}, "one subject has all metric points of a run: the older ones go"),
        ({"no_ack": True}, "no record counts as delivered"),
        ({"max_msgs_per_subject": -1, "retention": "limits", "no_ack": False}, ""),
    ],
)
async def test_a_stream_that_does_not_keep_what_it_takes_is_told(
    habit: dict[str, Any], told: str, nats_server: NatsServer, stream: str
) -> None:
    """A stream that others made may acknowledge a record and have it for no reader: that is said when the sink opens."""
    await others_stream(nats_server, stream, duplicate_window=900, **habit)
    async with opened(to(nats_server, stream)) as sink:
        await sink._link.drop()
        await sink._ready()
        assert [told in remark for remark in sink.remarks] == [True] * bool(told)


# --- limits of others ---


@pytest.fixture
def small_server(tmp_path: Any) -> Any:
    """A server that takes messages of 4 KiB."""
    server = NatsServer(tmp_path / "small", more="max_payload: 4096")
    server.start()
    yield server
    server.stop()


async def test_messages_fit_a_server_that_takes_little(small_server: NatsServer, stream: str) -> None:
    """Batches of metric points are cut to what the server takes; an event that is too large only with its header fails alone."""
    records = [*(metric(n, name="x" * 50) for n in range(500)), *(event(n) for n in range(40))]
    room = 4096 - len(to_lines([event(99, metadata={"x": ""})]).rstrip())
    edge = [event(99, metadata={"x": "y" * (room - header)}) for header in (10, 200)]
    async with opened(to(small_server, stream)) as sink:
        with pytest.raises(PermanentError) as caught:
            await sink.write([*records, edge[0]])
        await sink.write([edge[1]])
    assert caught.value.rejected == (edge[0],)
    assert sorted(ids(await stored(small_server, stream))) == sorted(ids([*records, edge[1]]))


@pytest.mark.parametrize("known", [True, False])
async def test_messages_fit_a_stream_that_takes_little(nats_server: NatsServer, stream: str, known: bool) -> None:
    """Batches are cut to the stream's own limit, known or not: what is refused is halved until one record stands alone."""
    await others_stream(nats_server, stream, max_msg_size=3000)
    big = metric(100, name="b" * 4000)
    records = [metric(n) if n != 100 else big for n in range(500)]
    target = Target((f"127.0.0.1:{nats_server.port}",), stream, manage=known)
    async with opened(NatsSink(target)) as sink:
        with pytest.raises(PermanentError, match="larger than") as caught:
            await sink.write(records)
        assert caught.value.rejected == (big,)
        await sink.write([metric(n) for n in range(500, 900)])
    read = await stored(nats_server, stream)
    assert sorted(record.seq for record in read) == [n for n in range(900) if n != 100]


# --- clear errors ---


async def test_no_server_is_a_clear_error(stream: str, unused_tcp_port: int) -> None:
    """A port that nothing listens on fails the opening in one sentence, soon; it may pass, so that a bus starts all the same."""
    with (
        pytest.raises(TransientError, match=f"no NATS server answers at 127.0.0.1:{unused_tcp_port}"),
        anyio.fail_after(5),
    ):
        await NatsSink(f"127.0.0.1:{unused_tcp_port}").open()
    async with EventBus(f"nats://127.0.0.1:{unused_tcp_port}/{stream}", timeout=0.1) as bus:
        assert bus.stats().state == "open"


async def test_a_server_of_another_kind_is_a_clear_error(proxy: Proxy) -> None:
    """Something that is no NATS server fails the opening in one sentence."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def http(client: Any) -> None:
        async with client:
            await client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, http)
        with pytest.raises(ConfigError, match="is no NATS server"):
            await NatsSink(f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}").open()
        group.cancel_scope.cancel()


@pytest.fixture
def plain_server(tmp_path: Any) -> Any:
    """A server without JetStream."""
    server = NatsServer(tmp_path / "plain", jetstream=False)
    server.start()
    yield server
    server.stop()


async def test_no_jetstream_is_a_clear_error(plain_server: NatsServer) -> None:
    """A server without JetStream fails the opening with what to do about it."""
    with pytest.raises(ConfigError, match="has no JetStream: start it with -js"):
        await to(plain_server, "s").open()


USERS = """
authorization: {users: [
  {user: admin, password: "s3cret/word"},
  {user: writer, password: w, permissions: {publish: ["runs.>"]}},
  {user: reader, password: r, permissions: {publish: ["_INBOX.>"]}},
]}
"""


@pytest.fixture
def guarded_server(tmp_path: Any) -> Any:
    """A server with users of different rights."""
    server = NatsServer(tmp_path / "guarded", more=USERS)
    server.start()
    yield server
    server.stop()


def guarded(server: NatsServer, login: str, query: str = "") -> NatsSink:
    """Return the sink of a URL with a login."""
    return from_url(urlsplit(f"nats://{login}@127.0.0.1:{server.port}/runs?{query}"))


async def test_a_wrong_password_is_a_clear_error_without_the_password(guarded_server: NatsServer) -> None:
    """A refused login says so, and tells no secret, neither in the error nor in a repr (F63)."""
    sink = guarded(guarded_server, "admin:wr0ng")
    with pytest.raises(ConfigError, match="refuses this user") as caught:
        await sink.open()
    assert "wr0ng" not in f"{caught.value!r} {sink!r} {sink.target!r}"


async def test_a_login_in_the_url_opens(guarded_server: NatsServer) -> None:
    """User and password come percent-encoded in the URL."""
    async with opened(guarded(guarded_server, "admin:s3cret%2Fword")) as sink:
        await sink.write([event(1)])


async def test_a_writer_without_other_rights_can_write(guarded_server: NatsServer) -> None:
    """`manage=0` needs no right but to publish; without it, the error names the way out."""
    async with opened(guarded(guarded_server, "admin:s3cret%2Fword")):
        pass
    with pytest.raises(ConfigError, match="manage=0"):
        await guarded(guarded_server, "writer:w", "timeout=1s").open()
    async with opened(guarded(guarded_server, "writer:w", "manage=0")) as sink:
        await sink.write([event(1), metric(1)])


async def test_no_right_to_publish_is_permanent(guarded_server: NatsServer) -> None:
    """Records that the user may not publish are refused at once, not tried for ever (F41)."""
    async with opened(guarded(guarded_server, "reader:r", "manage=0")) as sink:
        with pytest.raises(PermanentError, match="no right to publish to runs"), anyio.fail_after(5):
            await sink.write([event(1, "a")])


async def test_no_right_to_read_is_a_clear_error(tmp_path: Any, stream: str) -> None:
    """Who may find a stream and not have its messages is told so, and waits for none, also who follows."""
    right = 'publish: {deny: ["$JS.API.CONSUMER.MSG.NEXT.>"]}'
    users = f"{{user: a, password: a}}, {{user: b, password: b, permissions: {{{right}}}}}"
    server = NatsServer(tmp_path / "js", more=f"authorization: {{users: [{users}]}}")
    server.start()
    try:
        async with opened(from_url(urlsplit(f"nats://a:a@127.0.0.1:{server.port}/{stream}"))) as sink:
            await sink.write([event(1)])
        for follow in (False, True):
            reader = NatsReader(replace(sink.target, user="b", password="b"), follow=follow)
            await reader.open()
            with pytest.raises(ConfigError, match=r"no right to publish to .*NEXT"), anyio.fail_after(20):
                await reader.batch()
            await reader.aclose()
    finally:
        server.stop()


async def test_a_server_that_hands_out_nothing_is_not_asked_for_ever(
    nats_server: NatsServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where messages are counted and none comes, who does not follow gives up and says so."""
    monkeypatch.setattr("elastic_events.sinks.nats_read.PATIENCE", -1.0)
    async with opened(to(nats_server, stream)) as sink:
        await sink.write([event(1)])
        reader = NatsReader(sink.target)
        await reader.open()
        reader._link.lost()
        with pytest.raises(InputError, match="hands out nothing"), anyio.fail_after(20):
            await reader.batch()
        await reader.aclose()


@pytest.mark.parametrize("way", ["token", "nkey"])
async def test_a_token_or_an_nkey_opens(tmp_path: Any, stream: str, way: str) -> None:
    """A token in the URL, and the path of an nkey's seed, each open; without it the server refuses."""
    import nkeys

    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    (tmp_path / "seed").write_bytes(seed)
    rights = (
        f'users: [{{nkey: "{nkeys.from_seed(bytearray(seed)).public_key.decode()}"}}]'
        if way == "nkey"
        else "token: t0k"
    )
    server = NatsServer(tmp_path / "js", more=f"authorization: {{{rights}}}")
    server.start()
    try:
        login, query = ("t0k@", "") if way == "token" else ("", f"?nkey={tmp_path}/seed")
        async with opened(from_url(urlsplit(f"nats://{login}127.0.0.1:{server.port}/{stream}{query}"))) as sink:
            await sink.write([event(1)])
        with pytest.raises(ConfigError, match="refuses this user"):
            await to(server, stream).open()
        with pytest.raises(ConfigError, match="cannot be read"):
            await from_url(urlsplit(f"{server.url}/{stream}?nkey=/nowhere")).open()
        (tmp_path / "bad").write_text("SUAB")
        with pytest.raises(ConfigError, match="no valid key"):
            await from_url(urlsplit(f"{server.url}/{stream}?nkey={tmp_path}/bad")).open()
    finally:
        server.stop()


async def test_credentials_that_are_replaced_are_used(tmp_path: Any, stream: str) -> None:
    """A connection is made with the credentials that the file holds by then: those of before may have expired."""
    import nkeys

    seeds = [nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER) for _ in range(2)]
    users = [f'{{nkey: "{nkeys.from_seed(bytearray(seed)).public_key.decode()}"}}' for seed in seeds]
    server = NatsServer(tmp_path / "js", more=f"authorization: {{users: [{users[0]}]}}")
    server.start()
    try:
        (tmp_path / "seed").write_bytes(seeds[0])
        async with opened(from_url(urlsplit(f"{server.url}/{stream}?nkey={tmp_path}/seed"))) as sink:
            await sink.write([event(1)])
            server.stop()
            server.config.write_text(server.config.read_text().replace(users[0], users[1]))
            server.start()
            (tmp_path / "seed").write_bytes(seeds[1])
            with anyio.fail_after(20):
                await _write_until_taken(sink, [event(2)])
    finally:
        server.stop()


@pytest.fixture
def tls_server(tmp_path: Any) -> Any:
    """A server that insists on TLS, with a certificate of an authority in `ca.pem`."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    options = ("--tls", "--tlscert", str(tmp_path / "cert.pem"), "--tlskey", str(tmp_path / "key.pem"))
    server = NatsServer(tmp_path / "js", *options)
    server.start()
    yield server
    server.stop()


async def test_tls_is_checked_and_used(tls_server: NatsServer, tmp_path: Any, stream: str) -> None:
    """A known authority opens; an unknown one is a clear error."""
    url = f"{tls_server.url}/{stream}?tls=1"
    async with opened(from_url(urlsplit(f"{url}&tls_ca={tmp_path}/ca.pem"))) as sink:
        await sink.write([event(1)])
    with pytest.raises(ConfigError, match="TLS with the NATS server"):
        await from_url(urlsplit(url)).open()
    with pytest.raises(ConfigError, match="TLS files cannot be read"):
        await from_url(urlsplit(f"{url}&tls_ca=/nowhere.pem")).open()


async def test_a_server_that_goes_away_over_tls_prints_nothing(
    tls_server: NatsServer, tmp_path: Any, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of a TLS connection is the sink's to tell, not asyncio's."""
    sink = open_url(f"tls://127.0.0.1:{tls_server.port}/{stream}?tls_ca={tmp_path}/ca.pem&timeout=1s")
    assert isinstance(sink, NatsSink)
    async with opened(sink):
        await sink.write([event(1)])
        await anyio.to_thread.run_sync(tls_server.stop)
        with pytest.raises(TransientError):
            await sink.write([event(2)])
    assert [record.getMessage() for record in caplog.records] == []


async def test_a_connection_that_is_torn_as_it_becomes_tls_prints_nothing(
    tls_server: NatsServer, tmp_path: Any, stream: str, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind a proxy that takes connections and ends them, say: each attempt is a delay, and no line of asyncio's."""
    sent: list[bytes] = []

    def ends(chunk: bytes) -> bytes | None:
        sent.append(chunk)
        if len(sent) > 1:  # the handshake is over for the client, which logs in
            group.start_soon(proxy.end)
            return None
        return chunk

    proxy.target, proxy.to_server = tls_server.port, ends
    sink = open_url(f"tls://127.0.0.1:{proxy.port}/{stream}?tls_ca={tmp_path}/ca.pem&timeout=1s")
    async with anyio.create_task_group() as group:
        with pytest.raises(TransientError):
            await sink.open()
    assert [record.getMessage() for record in caplog.records] == []


async def test_a_url_with_tls_for_a_scheme_insists_on_it(
    tls_server: NatsServer, nats_server: NatsServer, tmp_path: Any, stream: str
) -> None:
    """`tls://` is `nats://` with TLS: it reaches a server that has it, and refuses one that has not."""
    url = f"tls://127.0.0.1:{tls_server.port}/{stream}?tls_ca={tmp_path}/ca.pem"
    sink = open_url(url)
    assert isinstance(sink, NatsSink)
    async with opened(sink):
        await sink.write([event(1)])
    assert len([record async for record in read_nats(url)]) == 1
    with pytest.raises(ConfigError, match="no TLS"):
        await open_url(f"tls://127.0.0.1:{nats_server.port}/{stream}").open()


async def test_of_several_servers_one_that_answers_is_enough(
    nats_server: NatsServer, stream: str, unused_tcp_port: int
) -> None:
    """A URL in a list of URLs names several servers, with commas between them; one that is down is passed over."""
    text = f"console:,nats://127.0.0.1:{unused_tcp_port},127.0.0.1:{nats_server.port}/{stream}"
    sink = open_url(parse_sinks(text)[1])
    assert isinstance(sink, NatsSink)
    async with opened(sink):
        await sink.write([event(1)])
    assert len(await stored(nats_server, stream)) == 1


async def test_tls_that_is_not_offered_is_a_clear_error(nats_server: NatsServer) -> None:
    """With `tls=1` nothing is sent in the clear, the login least of all."""
    with pytest.raises(ConfigError, match="offers no TLS"):
        await from_url(urlsplit(f"{nats_server.url}/s?tls=1")).open()


async def test_a_foreign_stream_of_that_name_is_left_alone(nats_server: NatsServer, stream: str) -> None:
    """A stream of other subjects under our name is an error, never reconfigured."""
    async with opened(to(nats_server, stream)):
        pass
    sink = from_url(urlsplit(f"{nats_server.url}/{stream}?prefix=other-{stream}"))
    with pytest.raises(ConfigError, match="none of its subjects"):
        await sink.open()


async def test_subjects_of_another_stream_are_a_clear_error(nats_server: NatsServer, stream: str) -> None:
    """Subjects that another stream has already fail the opening with what to do about it."""
    async with opened(to(nats_server, stream)):
        pass
    with pytest.raises(ConfigError, match="another stream has the subjects"):
        await from_url(urlsplit(f"{nats_server.url}/{stream}-x?prefix={stream}")).open()


async def test_a_stream_that_vanished_is_made_again(nats_server: NatsServer, stream: str) -> None:
    """A stream deleted under way costs a failed attempt, not the records."""
    async with opened(to(nats_server, stream)) as sink:
        await sink._link.client.jsm().delete_stream(stream)
        with pytest.raises(TransientError, match="no JetStream stream takes the subject"):
            await sink.write([event(1)])
        await sink.write([event(1)])
    assert len(await stored(nats_server, stream)) == 1


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nats://", "which NATS server"),
        ("nats://h:x/s", "the port a number"),
        ("nats://h/a.b", "letters, digits"),
        ("nats://h/s?color=red", "no option 'color'; known are"),
        ("nats://h/s?max_age=1m", "max_age must not be shorter"),
    ],
)
def test_a_wrong_url_says_what_is_wrong(url: str, sentence: str) -> None:
    """Each mistake in a NATS URL has its sentence."""
    with pytest.raises(ConfigError, match=sentence):
        from_url(urlsplit(url))


def test_a_url_says_everything() -> None:
    """Servers, login, stream and options of a URL arrive."""
    url = (
        "nats://me:p%40ss@a:1%2Cb/s?tls=1&prefix=p&replicas=3&max_bytes=2GB&duplicate_window=1h&creds=/c&tls_ca=/ca.pem"
    )
    found = from_url(urlsplit(url)).target
    assert found == Target(
        *(("a:1", "b:4222"), "s", "p", True, "/ca.pem"),
        user="me",
        password="p@ss",
        creds="/c",
        max_bytes=2 * 10**9,
        replicas=3,
        duplicate_window=3600.0,
    )


# --- reading ---


async def test_one_run_of_several_is_read(nats_server: NatsServer, stream: str) -> None:
    """`run` limits reading to that run, also where two ids make one token."""
    runs = [context(run_id=name) for name in ("a.b", "a_b", "c")]
    async with opened(to(nats_server, stream)) as sink:
        await sink.write([event(n, speaker=runs[n % 3]) for n in range(9)])
    assert [r.seq for r in await stored(nats_server, stream, run="a.b")] == [0, 3, 6]


async def test_reading_follows_a_live_stream(nats_server: NatsServer, stream: str) -> None:
    """`follow` gives what is there, then what arrives, and ends when its reader leaves."""
    async with opened(to(nats_server, stream)) as sink:
        await sink.write([event(1)])
        reader = NatsReader(sink.target, follow=True)
        await reader.open()
        with anyio.fail_after(5):
            assert ids(await reader.batch() or []) == ids([event(1)])
            await sink.write([metric(1), metric(2)])
            assert ids(await reader.batch() or []) == ids([metric(1), metric(2)])
        await reader.aclose()


async def test_live_skips_what_is_there(nats_server: NatsServer, stream: str) -> None:
    """`live` begins with what arrives after the reader opened."""
    async with opened(to(nats_server, stream)) as sink:
        await sink.write([event(1)])
        reader = NatsReader(sink.target, follow=True, live=True)
        await reader.open()
        await sink.write([event(2)])
        with anyio.fail_after(5):
            assert ids(await reader.batch() or []) == ids([event(2)])
        await reader.aclose()


async def test_following_survives_the_servers_death(mortal_server: NatsServer, stream: str) -> None:
    """A reader connects again after the server was killed, and misses and repeats nothing."""
    async with opened(to(mortal_server, stream)) as sink:
        await sink.write([event(1), event(2)])
        reader = NatsReader(sink.target, follow=True)
        await reader.open()
        seen = [*(await reader.batch() or []), *(await reader.batch() or [])]
        await anyio.to_thread.run_sync(mortal_server.kill)
        await anyio.to_thread.run_sync(mortal_server.start)
        await _write_until_taken(sink, [event(3)])
        with anyio.fail_after(20):
            seen += await reader.batch() or []
        await reader.aclose()
    assert [record.seq for record in seen] == [1, 2, 3]


@pytest.mark.parametrize("durable", [None, "tail"])
async def test_a_stream_that_was_made_anew_is_read_from_its_start(
    nats_server: NatsServer, stream: str, durable: str | None
) -> None:
    """The records of a stream that was deleted and made again are read, though it is shorter than the first was."""
    async with opened(to(nats_server, stream)) as sink:
        await sink.write([event(n) for n in range(5)])
        reader = NatsReader(sink.target, follow=True, durable=durable)
        await reader.open()
        seen = [r.seq for _ in range(5) for r in await reader.batch() or []]
        await sink._link.client.jsm().delete_stream(stream)
        await _write_until_taken(sink, [event(n) for n in range(10, 13)])
        with anyio.fail_after(20):
            seen += [r.seq for _ in range(3) for r in await reader.batch() or []]
        await reader.aclose()
    assert seen == [0, 1, 2, 3, 4, 10, 11, 12]


async def test_a_follower_waits_for_a_stream_that_is_gone(
    nats_server: NatsServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who follows a stream that is deleted goes on when it is made again."""
    async with opened(to(nats_server, stream)) as sink:
        await sink.write([event(1)])
        reader = NatsReader(sink.target, follow=True)
        await reader.open()
        await reader.batch()
        missed, find = anyio.Event(), reader._consumer

        async def look(client: Any) -> Any:
            try:
                return await find(client)
            except InputError:
                missed.set()
                raise

        monkeypatch.setattr(reader, "_consumer", look)
        await sink._link.client.jsm().delete_stream(stream)
        seen: list[Record] = []

        async def read() -> None:
            seen.extend(await reader.batch() or [])

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await missed.wait()
                await _write_until_taken(sink, [event(2)])
        await reader.aclose()
    assert ids(seen) == ids([event(2)])


@pytest.mark.parametrize("follow", [False, True])
async def test_a_stream_that_is_emptied_while_it_is_read_keeps_nobody_waiting(
    nats_server: NatsServer, stream: str, follow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads a stream comes to its end though what was behind is removed, and who follows it knows that none is left."""
    monkeypatch.setattr("elastic_events.sinks.nats_read.EXPIRES", 0.2)
    async with opened(to(nats_server, stream)) as sink:
        await sink.write([event(n) for n in range(PULL + 1)])
        reader = NatsReader(sink.target, follow=follow)
        await reader.open()
        read = [await reader.batch() for _ in range(PULL)]
        assert reader.behind == 2  # one at the server, and one that is with us
        await sink._link.client.jsm().purge_stream(stream)
        with anyio.fail_after(30):
            if follow:
                async with anyio.create_task_group() as group:
                    group.start_soon(reader.batch)
                    while reader.behind:
                        await anyio.sleep(0.01)
                    group.cancel_scope.cancel()
            else:
                assert await reader.batch() is None
        await reader.aclose()
    assert len(read) == PULL


async def test_what_is_there_after_a_request_in_vain_is_read(
    nats_server: NatsServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was only slow to answer is asked again, and nothing it holds is passed over."""
    monkeypatch.setattr("elastic_events.sinks.nats_read.EXPIRES", 0.2)
    async with opened(to(nats_server, stream)) as sink:
        await sink.write([event(n) for n in range(PULL + 9)])
        reader = NatsReader(sink.target)
        await reader.open()
        seen = [record.seq for _ in range(PULL) for record in await reader.batch() or []]
        reader._waited = True
        with anyio.fail_after(30):
            while (records := await reader.batch()) is not None:
                seen += [record.seq for record in records]
        await reader.aclose()
    assert seen == list(range(PULL + 9))


async def test_each_lane_of_a_bus_has_its_ledger_in_the_stream(nats_server: NatsServer, stream: str) -> None:
    """Lanes that share a stream, one for events and one for metrics say, leave a ledger each, once however often it comes."""
    url = f"{nats_server.url}/{stream}"
    async with EventBus() as bus:
        bus.subscribe(url, name="events", metrics=False)
        bus.subscribe(url, name="metrics", events=False)
        bus.record(Event("e", EventSource.AGENT))
        bus.put_metric("m", 1)
    read = await stored(nats_server, stream)
    assert {(one.channel, one.fields[0]["delivered"]) for one in read if one.kind == "ledger"} == {
        ("events", 1),
        ("metrics", 1),
    }
    async with opened(to(nats_server, stream)) as sink:
        await sink.write(read)
        assert sink.duplicates == len(read)
        await sink._publish(
            foreign := [Message(f"{stream}.r.ledger.x", "other", to_lines(read[-1:])[:-1], (read[-1],))]
        )
        await foreign[0].answer
    assert ids(await stored(nats_server, stream)) == ids(read)


async def test_live_means_from_the_opening_on(nats_server: NatsServer, stream: str, proxy: Proxy) -> None:
    """What arrives while the connection of a live reader is broken is read, also where it had read nothing before."""
    proxy.target = nats_server.port
    async with opened(to(nats_server, stream)) as sink:
        await sink.write([event(1)])
        reader = NatsReader(Target((f"127.0.0.1:{proxy.port}",), stream), follow=True, live=True)
        await reader.open()
        await proxy.drop()
        await sink.write([event(2)])
        with anyio.fail_after(20):
            assert ids(await reader.batch() or []) == ids([event(2)])
        await reader.aclose()


async def test_a_durable_reader_goes_on_where_it_stopped(nats_server: NatsServer, stream: str) -> None:
    """The next reader of a durable consumer gets what the last one had not finished, and no more."""
    async with opened(to(nats_server, stream)) as sink:
        await sink.write([event(n) for n in range(4)])
        first = NatsReader(sink.target, durable="tail")
        await first.open()
        assert [r.seq for _ in range(2) for r in await first.batch() or []] == [0, 1]
        await first.aclose()  # died while it worked on record 1
        second = [record async for record in read_nats(f"{nats_server.url}/{stream}", durable="tail")]
        assert [record.seq for record in second] == [1, 2, 3]
        assert [record async for record in read_nats(f"{nats_server.url}/{stream}", durable="tail")] == []


async def test_a_durable_reader_whose_server_dies_misses_nothing(mortal_server: NatsServer, stream: str) -> None:
    """What had arrived when the connection was lost is read, though the one before it could not be acknowledged."""
    async with opened(to(mortal_server, stream)) as sink:
        await sink.write([event(n) for n in range(4)])
        reader = NatsReader(sink.target, durable="tail")
        await reader.open()
        seen = [record.seq for record in await reader.batch() or []]
        with anyio.fail_after(30):
            while reader._arrived.qsize() < 3:
                await anyio.sleep(0.01)
            await anyio.to_thread.run_sync(mortal_server.kill)
            while not reader._link.client.is_closed:
                await anyio.sleep(0.01)
            await anyio.to_thread.run_sync(mortal_server.start)
            while (records := await reader.batch()) is not None:
                seen += [record.seq for record in records]
        await reader.aclose()
    assert seen == [0, 1, 2, 3]


async def test_a_durable_reader_whose_server_dies_at_the_last_acknowledgement_ends(
    mortal_server: NatsServer, stream: str
) -> None:
    """The end of a stream is its end though its last message must be acknowledged again; the next reader gets none of it."""
    async with opened(to(mortal_server, stream)) as sink:
        await sink.write([event(n) for n in range(2)])
        reader = NatsReader(sink.target, durable="tail")
        await reader.open()
        with anyio.fail_after(30):
            seen = [record.seq for _ in range(2) for record in await reader.batch() or []]
            await anyio.to_thread.run_sync(mortal_server.kill)
            while not reader._link.client.is_closed:
                await anyio.sleep(0.01)
            await anyio.to_thread.run_sync(mortal_server.start)
            assert await reader.batch() is None
        await reader.aclose()
    assert seen == [0, 1]
    assert [record.seq for record in await stored(mortal_server, stream, durable="tail")] == []


async def test_the_first_look_waits_for_a_batch_that_takes_long_to_decode(
    nats_server: NatsServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a stream held is in the first look, also what is decoded slowly: a tail that does not follow has no other."""

    class Arrived(queue.SimpleQueue[list[Record]]):
        looks = 0

        def get(self, block: bool = True, timeout: float | None = None) -> list[Record]:
            try:
                return super().get(block, timeout)
            except queue.Empty:
                self.looks += 1
                raise

    batch = NatsReader.batch

    async def slow(reader: NatsReader) -> list[Record] | None:
        records = await batch(reader)
        with anyio.move_on_after(20):
            while follower is None or follower._arrived.looks < 3:
                await anyio.sleep(0.01)
        return records

    follower: Any = None
    monkeypatch.setattr(NatsReader, "batch", slow)
    monkeypatch.setattr("elastic_events.sinks.nats_follow.queue.SimpleQueue", Arrived)

    def look() -> list[Record]:
        nonlocal follower
        follower = NatsFollower(f"{nats_server.url}/{stream}")
        try:
            return list(follower.look())
        finally:
            follower.close()

    async with opened(to(nats_server, stream)) as sink:
        await sink.write([event(1)])
    assert ids(await anyio.to_thread.run_sync(look)) == ids([event(1)])


async def test_the_first_look_at_a_stream_that_is_written_ends(nats_server: NatsServer, stream: str) -> None:
    """A tail gives what the stream held, though there is always one message more, and then what came meanwhile."""

    def look() -> list[list[int]]:
        follower = NatsFollower(f"{nats_server.url}/{stream}")
        try:
            first: list[int] = []
            for record in follower.look():
                first.append(record.seq)
                anyio.from_thread.run(sink.write, [event(10 + len(first))])
                until = time.monotonic() + 20
                while follower._arrived.empty() and time.monotonic() < until:
                    time.sleep(0.01)
                if len(first) > 10:
                    break
            later: list[int] = []
            until = time.monotonic() + 20
            while len(later) < len(first) and time.monotonic() < until:
                later += [record.seq for record in follower.look()]
            return [first, later]
        finally:
            follower.close()

    async with opened(to(nats_server, stream)) as sink:
        await sink.write([event(n) for n in range(3)])
        assert await anyio.to_thread.run_sync(look) == [[0, 1, 2], [11, 12, 13]]


async def test_a_foreign_message_is_skipped_and_counted(nats_server: NatsServer, stream: str) -> None:
    """A message that holds no record does not stop the reader (F68)."""
    async with opened(to(nats_server, stream)) as sink:
        await sink._link.client.jetstream().publish(f"{stream}.run-1.event.x", b"hello")
        await sink.write([event(1)])
        reader = NatsReader(sink.target)
        await reader.open()
        assert ids(await reader.batch() or []) == ids([event(1)])
        assert reader.skipped == 1
        assert await reader.batch() is None
        await reader.aclose()


async def test_a_mirror_is_read_by_its_records_prefix(nats_server: NatsServer, stream: str) -> None:
    """Who reads a mirror by its name is told of the prefix that its records have; an empty stream is an empty stream."""
    import nats
    from nats.js.api import StreamConfig, StreamSource

    async with opened(to(nats_server, stream)) as sink:
        client = await nats.connect(nats_server.url)
        manager = client.jetstream()
        await manager.add_stream(StreamConfig(name=f"{stream}-copy", mirror=StreamSource(name=stream)))
        assert await stored(nats_server, f"{stream}-copy") == []
        await sink.write([event(1)])
        with anyio.fail_after(20):
            while not (await manager.stream_info(f"{stream}-copy")).state.messages:
                await anyio.sleep(0.01)
        await client.close()
    with pytest.raises(InputError, match=rf"holds 1 message, none of them under {stream}-copy\.>: name the prefix"):
        await stored(nats_server, f"{stream}-copy")
    assert ids(await stored(nats_server, f"{stream}-copy?prefix={stream}")) == [event(1).id]


async def test_a_missing_stream_is_a_clear_error(nats_server: NatsServer) -> None:
    """Reading a stream that is not there says so, and does not create it."""
    for _ in range(2):
        with pytest.raises(InputError, match="has no stream 'nowhere'"):
            await stored(nats_server, "nowhere")


async def test_reading_from_synchronous_code(nats_server: NatsServer, stream: str) -> None:
    """`read_nats_sync` gives the same records to code without an event loop."""
    records = [*(metric(n) for n in range(500)), event(1)]
    async with opened(to(nats_server, stream)) as sink:
        await sink.write(records)
    url = f"{nats_server.url}/{stream}"
    read = await anyio.to_thread.run_sync(lambda: list(read_nats_sync(url)))
    assert sorted(ids(read)) == sorted(ids(records))


async def test_a_message_is_readable_by_anyone(nats_server: NatsServer, stream: str) -> None:
    """A message holds one strict JSON object a line, for readers that know nothing of this package."""
    async with opened(to(nats_server, stream)) as sink:
        await sink.write([metric(1, value=float("nan"))])
        message = await sink._link.client.jsm().get_msg(stream, 1)
    assert json.loads(message.data, parse_constant=pytest.fail)["value"] == "NaN"


# --- through a real bus ---


async def test_a_bus_delivers_exactly_once_over_a_killed_server(mortal_server: NatsServer, stream: str) -> None:
    """A server that dies under a bus costs retries: each record is stored once, and the ledger says so (F38, F39)."""
    bus = EventBus(capacity=65_536)
    lane = bus.subscribe(to(mortal_server, stream), retry=Retry(base=0.02, cap=0.1))
    async with bus:
        for n in range(5_000):
            bus.record(Event(f"e{n % 7}", EventSource.WORKER, 0, {"n": n}))
            bus.put_metric("loss", n, "train")
        await anyio.to_thread.run_sync(mortal_server.kill)
        for n in range(5_000, 10_000):
            bus.record(Event(f"e{n % 7}", EventSource.WORKER, 0, {"n": n}))
            bus.put_metric("loss", n, "train")
        while lane.stats().retries < 1:
            await anyio.sleep(0.005)  # until the lane met the dead server
        await anyio.to_thread.run_sync(mortal_server.start)
        await bus.settled()
        assert lane.stats().delivered == 20_000
        assert lane.stats().lost == 0
    *read, last = await stored(mortal_server, stream)
    assert [r.event.metadata["n"] for r in read if r.kind == "event"] == list(range(10_000))
    assert [r.fields[0] for r in read if r.kind == "metric"] == list(range(10_000))
    assert (last.kind, last.fields[0]["delivered"]) == ("ledger", len(read))


async def test_emitting_costs_no_wait_while_the_server_is_away(mortal_server: NatsServer, stream: str) -> None:
    """With the server gone, recording goes on and another sink gets everything (F35, F38)."""
    other = ListSink()
    bus = EventBus(other, timeout=0.2)
    lane = bus.subscribe(to(mortal_server, stream), retry=Retry(base=0.02, cap=0.1))
    async with bus:
        await anyio.to_thread.run_sync(mortal_server.kill)
        for n in range(1000):
            bus.record(Event(f"e{n}", EventSource.WORKER))
        while len(other.records) < 1000:
            await anyio.sleep(0.005)  # until the other lane has all
        assert lane.stats().delivered == 0
    assert lane.stats().balanced
    assert lane.stats().lost == 1000


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_its_own_connection(nats_server: NatsServer, stream: str) -> None:
    """Parent and child of a fork both deliver, each once, over connections of their own (F2, F3)."""
    with EventBus(to(nats_server, stream)) as bus:
        bus.record(Event("before", EventSource.WORKER))
        assert bus.flush_sync()
        child = os.fork()
        if child == 0:
            try:
                bus.record(Event("child", EventSource.WORKER))
                os._exit(0 if bus.flush_sync() else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        bus.record(Event("after", EventSource.WORKER))
        assert bus.flush_sync()
    names = [record.name for record in read_nats_sync(f"{nats_server.url}/{stream}")]
    assert names == ["before", "child", "after", "bus.ledger"]
