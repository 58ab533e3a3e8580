"""The reading commands over a stream of a real server."""

import json
from pathlib import Path

import anyio

from elastic_events.bus.record import Record
from elastic_events.sinks.nats import NatsSink
from tests.reading.runs import two_attempts
from tests.reading.test_source import database
from tests.servers.conftest import NatsServer
from tests.sinks.test_tail import Tail
from tests.test_cli import command


def test_a_stream_says_what_a_database_says(nats_server: NatsServer, stream: str, tmp_path: Path) -> None:
    """Each command gives the same answer for a JetStream stream as for a SQLite file of the same records."""
    records = two_attempts().records
    database(tmp_path / "run.db", records)

    async def publish() -> None:
        sink = NatsSink(f"127.0.0.1:{nats_server.port}", stream)
        await sink.open()
        await sink.write(records)
        await sink.aclose()

    anyio.run(publish)
    for name in ("summary", "timeline", "goodput", "slow"):
        url = nats_server.url.replace("://", "://joe:hunter2@")  # which no answer repeats
        done = command(name, f"{url}/{stream}", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        own, others = (json.loads(out) for out in (done.stdout, command(name, "run.db", "--json", cwd=tmp_path).stdout))
        if name == "summary":  # each is named where it has no ledger
            assert (own.pop("unclosed"), others.pop("unclosed")) == ([f"{nats_server.url}/{stream}"], ["run.db"])
        assert own == others


def test_a_stream_is_followed(nats_server: NatsServer, stream: str, tmp_path: Path) -> None:
    """`tail -f -n` of a stream prints the last records that it holds, then what comes, also beside a file."""
    records = [record for record in two_attempts().records if record.kind == "event"]

    def publish(part: list[Record]) -> None:
        async def send() -> None:
            sink = NatsSink(f"127.0.0.1:{nats_server.port}", stream)
            await sink.open()
            await sink.write(part)
            await sink.aclose()

        anyio.run(send)

    publish(records[:5])
    publish(records[5:20])
    tail = Tail("-n", "2", f"{nats_server.url}/{stream}", "later.db", cwd=tmp_path)
    try:
        assert tail.says() == "waiting: later.db does not exist"
        tail.prints(*records[18:20])
        publish(records[20:23])
        tail.prints(*records[20:23])
        database(tmp_path / "later.db", records[22:24])
        tail.prints(*records[23:24])  # the other one was printed, as the stream's
        tail.ends()
    finally:
        tail.process.kill()
        tail.process.communicate()
