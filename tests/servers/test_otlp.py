"""OTLP: every field back as sent, and each way in which a server fails is the right kind of error."""

import math
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpcore2  # noqa: F401 - reads a file when first imported, which blockbuster forbids within a loop
import httpx2
import pytest
import trustme
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from elastic_events import EventBus
from elastic_events.api import Event, EventSource
from elastic_events.bus.context import Context
from elastic_events.bus.errors import ConfigError, PermanentError, TransientError
from elastic_events.bus.pump import FEW
from elastic_events.bus.record import record_of
from elastic_events.bus.retry import Retry
from elastic_events.sinks.otlp import OtlpSettings, OtlpSink, from_url, read_settings
from tests.servers.collector import Answer, Collector
from tests.servers.factory import EPOCH, context, event, ledger, metric, rdzv
from tests.servers.proxy import Proxy


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A server that takes everything until the test says otherwise."""
    async with Collector.listening() as made:
        yield made


@asynccontextmanager
async def opened(settings: str | OtlpSettings) -> AsyncIterator[OtlpSink]:
    """Open a sink for a block."""
    sink = OtlpSink(settings)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


def impatient(url: str) -> OtlpSettings:
    """Return settings with a short timeout, in which a server on a busy machine answers all the same."""
    return OtlpSettings(f"{url}/v1/logs", f"{url}/v1/metrics", timeout=2)


async def test_every_field_of_an_event_arrives(collector: Collector) -> None:
    """Name, times, source, metadata of all types and the record's id are in the log record."""
    metadata = {
        "s": "ü",
        "i": -(2**63),
        "f": 0.5,
        "b": True,
        "n": None,
        "l": [1, "a"],
        "d": {"x": {}},
        "event.name": "mine",
    }
    record = record_of(
        "event", 7, EPOCH, 5, "worker.failed", "console", ("AGENT", 1_700_000_000_123, metadata), context(3)
    )
    async with opened(collector.url) as sink:
        await sink.write([record])
    ((_, log),) = collector.logs
    assert log["event_name"] == log["attributes"].pop("event.name") == "worker.failed"
    assert log["attributes"].pop("metadata.event.name") == metadata.pop("event.name")
    assert (log["time"], log["observed"]) == (1_700_000_000_123_000_000, EPOCH)
    assert log["severity"] == "ERROR"
    assert {key: log["attributes"].pop(key) for key in metadata} == metadata
    assert log["attributes"] == {
        "elastic.kind": "event",
        "elastic.record_id": record.id,
        "elastic.destination": "console",
        "elastic.source": "AGENT",
    }


async def test_every_field_of_a_rendezvous_arrives(collector: Collector) -> None:
    """The message is the body, a traceback OpenTelemetry's own attribute, the rest is under elastic.rdzv."""
    record = rdzv(1)
    failed = record_of(
        *("rdzv", 2, EPOCH, 1, "join", "null", (*record.fields[:4], "FAILED", "e", None, None, "Traceback")), context()
    )
    async with opened(collector.url) as sink:
        await sink.write([record, failed])
    first, second = (log for _, log in collector.logs)
    assert (first["body"], first["severity"], second["severity"]) == ("The node joined.", "INFO", "ERROR")
    assert second["attributes"]["exception.stacktrace"] == "Traceback"
    found = {key.removeprefix("elastic.rdzv."): v for key, v in first["attributes"].items() if "rdzv." in key}
    assert found == {
        "run_id": "run-1",
        "hostname": "node-a",
        "pid": 4242,
        "node_state": "RUNNING",
        "master_endpoint": "node-a:29500",
        "rank": 0,
        "local_id": 1,
    }


async def test_who_speaks_is_the_resource(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker is a resource with OpenTelemetry's names; what is not known is left out; the environment adds."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "trainer")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab%201,service.name=no")
    nobody = Context(process="p2")
    async with opened(collector.url) as sink:
        await sink.write([event(1), event(2, speaker=nobody), metric(1)])
    known = {
        "service.name": "trainer",
        "deployment.environment.name": "lab 1",
        "host.name": "node-a",
        "process.pid": 4242,
        "service.instance.id": "p1",
        "elastic.run_id": "run-1",
        "elastic.rank": 0,
        "elastic.local_rank": 0,
        "elastic.world_size": 8,
        "elastic.node_rank": 0,
        "elastic.role": "trainer",
        "elastic.restart": 1,
    }
    assert collector.logs[0][0] == known
    assert "elastic.rank" not in collector.logs[1][0]
    assert collector.points[0][0] == known


async def test_metric_points_are_gauges(collector: Collector) -> None:
    """Each point has its own time and value, NaN and bool included, under its name and group."""
    records = [metric(1), metric(2, "step_time", 3), metric(3, value=float("nan")), metric(4, value=True)]
    async with opened(collector.url) as sink:
        await sink.write(records)
    points = sorted((point for _, point in collector.points), key=lambda point: point["time"])
    assert [(p["name"], p["time"]) for p in points] == [(r.name, r.time_ns) for r in records]
    assert [p["value"] for p in points[:2] + points[3:]] == [0.5, 3.0, 1.0]
    assert math.isnan(points[2]["value"])
    assert {p["attributes"]["elastic.group"] for p in points} == {"train"}


async def test_a_batch_that_is_encoded_in_turns_is_one_request(collector: Collector) -> None:
    """Parts of a message of protobuf are the message: none is lost, none comes first."""
    async with opened(collector.url) as sink:
        await sink.write([metric(number, value=number) for number in range(3 * FEW)])
        await sink.write([event(number) for number in range(2 * FEW)])
    assert len(collector.requests) == 2
    assert [point["value"] for _, point in collector.points] == list(range(3 * FEW))
    assert len(collector.logs) == 2 * FEW


async def test_the_ledger_arrives(collector: Collector) -> None:
    """The bus's own ledger is a log record with its counts."""
    async with opened(collector.url) as sink:
        await sink.write([ledger(9, accepted=5, delivered=5)])
    assert collector.logs[0][1]["attributes"]["elastic.ledger"] == {
        "lane": "nats",
        "dropped": {},
        "accepted": 5,
        "delivered": 5,
    }


async def test_bodies_are_packed_unless_told_otherwise(collector: Collector) -> None:
    """Requests are gzip by default and say so; `gzip=0` sends them plain; headers come along."""
    for query in ("headers=Authorization%3DBearer%2520x", "gzip=0"):
        sink = from_url(urlsplit(f"otlp+{collector.url}?{query}"))
        await sink.open()
        await sink.write([event(1)])
        await sink.aclose()
    (_, first), (_, second) = collector.requests
    assert (first["content-encoding"], first["authorization"]) == ("gzip", "Bearer x")
    assert "content-encoding" not in second
    assert first["content-type"] == "application/x-protobuf"
    assert len(collector.logs) == 2


# --- failures ---


@pytest.mark.parametrize(
    ("answer", "retry_after"),
    [
        (Answer(503), None),
        (Answer(502), None),
        (Answer(504), None),
        (Answer(429, {"retry-after": "7"}), 7.0),
        (Answer(503, {"retry-after": "soon"}), None),
        (Answer(503, {"retry-after": "9" * 400}), None),
        (Answer(503, {"retry-after": "-5"}), None),
        (Answer(503, {"retry-after": "Mon, 01 Jan 2001 00:00:00 -0000"}), 0.0),
        (Answer(503, {"retry-after": "Mon, 01 Jan 99999999 00:00:00 GMT"}), None),
    ],
)
async def test_a_passing_failure_is_transient(collector: Collector, answer: Answer, retry_after: float | None) -> None:
    """What OTLP says may be retried is transient and carries the server's Retry-After (F41)."""
    collector.answers = [answer]
    async with opened(collector.url) as sink:
        with pytest.raises(TransientError, match=f"answers {answer.status}") as caught:
            await sink.write([event(1)])
        assert caught.value.retry_after == retry_after
        await sink.write([event(1)])
    assert len(collector.logs) == 1


async def test_a_retry_after_may_be_a_date(collector: Collector) -> None:
    """Retry-After as an HTTP date becomes the seconds until then."""
    collector.answers = [
        Answer(503, {"retry-after": format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)})
    ]
    async with opened(collector.url) as sink:
        with pytest.raises(TransientError) as caught:
            await sink.write([event(1)])
    assert caught.value.retry_after is not None
    assert 3500 < caught.value.retry_after <= 3600


@pytest.mark.parametrize("status", [401, 403, 407])
async def test_a_sender_who_is_not_let_in_waits(collector: Collector, status: int) -> None:
    """What is wrong with the credentials is wrong with no record: all of them wait, and arrive once they are let in."""
    collector.answers = [Answer(status)] * 3
    async with EventBus() as bus:
        lane = bus.subscribe(OtlpSink(collector.url), retry=Retry(base=0.01, cap=0.01))
        for number in range(20):
            bus.put_metric("m", number)
        with anyio.fail_after(20):
            await bus.settled()
        stats = lane.stats()
    assert (stats.delivered, stats.failed, stats.retries) == (20, 0, 3)
    assert f"answers {status}" in stats.last_error


@pytest.mark.parametrize("status", [404, 500, 302])
async def test_a_refusal_of_us_is_permanent_for_all(collector: Collector, status: int) -> None:
    """A failure that is not about the records refuses the whole batch at once: splitting it would not help (F41)."""
    collector.answers = [Answer(status)]
    records = [event(1), event(2)]
    async with opened(collector.url) as sink:
        with pytest.raises(PermanentError, match=f"answers {status}") as caught:
            await sink.write(records)
    assert caught.value.rejected == tuple(records)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refusal_of_records_lets_the_lane_split(collector: Collector, status: int) -> None:
    """A failure about the records names none, so that the lane finds the one (F40, F42)."""
    collector.answers = [Answer(status)]
    async with opened(collector.url) as sink:
        with pytest.raises(PermanentError) as caught:
            await sink.write([event(1), event(2)])
    assert caught.value.rejected == ()


async def test_a_refused_signal_does_not_cost_the_other(collector: Collector) -> None:
    """Where only one of the two requests is refused, the other's records are sent and not named as rejected."""
    collector.answers = [Answer(404), Answer(200)]
    async with opened(collector.url) as sink:
        with pytest.raises(PermanentError) as caught:
            await sink.write([event(1), metric(1)])
    assert [record.kind for record in caught.value.rejected] == ["event"]
    assert len(collector.points) == 1


async def test_what_arrived_is_not_sent_twice(collector: Collector) -> None:
    """When the metrics of a batch fail and the batch comes again, its events are not sent again."""
    collector.answers = [Answer(200), Answer(503)]
    batch = [event(1), metric(1)]
    async with opened(collector.url) as sink:
        with pytest.raises(TransientError):
            await sink.write(batch)
        await sink.write(batch)
        assert sink._through == {}
    assert (len(collector.logs), len(collector.points)) == (1, 1)


async def test_values_that_are_no_numbers_are_refused_alone(collector: Collector) -> None:
    """A metric whose value is text is rejected by name, its neighbours arrive (F40)."""
    strange = [metric(2, value="high"), metric(3, value=None), metric(4, value=10**400)]
    async with opened(collector.url) as sink:
        with pytest.raises(PermanentError, match="no number") as caught:
            await sink.write([metric(1), *strange, event(1)])
    assert caught.value.rejected == tuple(strange)
    assert (len(collector.points), len(collector.logs)) == (1, 1)


def partial_answer(rejected: int, reason: str = "too old") -> Answer:
    """Return the answer of a server that took a request of logs in part."""
    partial = ExportLogsServiceResponse()
    partial.partial_success.rejected_log_records = rejected
    partial.partial_success.error_message = reason
    return Answer(200, {}, partial.SerializeToString())


async def test_partial_success_is_in_the_ledger(collector: Collector) -> None:
    """What a server refuses of a request it took counts as failed, by the number that it says, and is not sent again."""
    collector.answers = [partial_answer(999)]
    async with EventBus() as bus:
        lane = bus.subscribe(OtlpSink(collector.url), batch_size=1000, linger=30)
        for step in range(1000):
            bus.record(Event("e", EventSource.WORKER, metadata={"step": step}))
        await bus.flush()
        stats = lane.stats()
    assert (stats.delivered, stats.failed) == (1, 999)
    assert "refused 999 of 1000 logs: too old" in stats.last_error
    assert len(collector.logs) == 1001  # each once, and the bus's ledger


async def test_a_partial_success_is_told_though_the_batch_comes_again(collector: Collector) -> None:
    """Where the other request of the batch must be sent again, the refused records are named then, and not sent again."""
    collector.answers = [partial_answer(1), Answer(503), Answer(200)]
    batch = [event(1), event(2), metric(1)]
    async with opened(collector.url) as sink:
        with pytest.raises(TransientError):
            await sink.write(batch)
        with pytest.raises(PermanentError, match="too old") as caught:
            await sink.write(batch)
        assert (sink.rejected, sink.last_rejection, sink._through) == (1, "too old", {})
    assert caught.value.rejected == (batch[1],)
    assert (len(collector.logs), len(collector.points)) == (2, 1)


async def test_an_answer_in_another_language_is_success(collector: Collector) -> None:
    """A back end that answers 200 with JSON or HTML took the request."""
    collector.answers = [Answer(200, {}, b'{"partialSuccess": {}}')]
    async with opened(collector.url) as sink:
        await sink.write([event(1)])
        assert sink.rejected == 0


async def test_an_answer_that_cannot_be_read_is_success(collector: Collector) -> None:
    """A request that a server took is not sent again because of what follows its status: it would be there twice."""
    collector.answers = [Answer(200, {"content-encoding": "gzip"}, b"no gzip")]
    async with opened(collector.url) as sink:
        await sink.write([event(1)])
        await sink.write([event(2)])
    assert len(collector.requests) == 2


async def test_silence_is_a_timeout(collector: Collector) -> None:
    """A server that takes the request and says nothing costs one timeout."""
    collector.answers = [Answer(None)]
    async with opened(impatient(collector.url)) as sink:
        with pytest.raises(TransientError, match="did not answer"), anyio.fail_after(30):
            await sink.write([event(1)])
        await sink.write([event(1)])
    assert len(collector.logs) == 1


async def test_no_server_is_transient(unused_tcp_port: int) -> None:
    """A refused connection is worth another try, and opening needs no server."""
    async with opened(f"http://127.0.0.1:{unused_tcp_port}") as sink:
        with pytest.raises(TransientError, match="ConnectError"):
            await sink.write([event(1)])


async def test_a_half_open_connection_is_left_behind(collector: Collector, proxy: Proxy) -> None:
    """A connection that went dead while idle costs one timeout; the next request uses another one."""
    proxy.target = collector.port
    async with opened(impatient(f"http://127.0.0.1:{proxy.port}")) as sink:
        await sink.write([event(1)])
        proxy.stall()
        with pytest.raises(TransientError), anyio.fail_after(30):
            await sink.write([event(2)])
        await proxy.drop()
        proxy.flow()
        await sink.write([event(2)])
    assert [log["attributes"]["step"] for _, log in collector.logs] == [1, 2]


async def test_a_connection_that_breaks_is_transient(collector: Collector, proxy: Proxy) -> None:
    """A server that accepts and closes is worth another try."""
    proxy.target = collector.port
    proxy.refusing = True
    async with opened(f"http://127.0.0.1:{proxy.port}") as sink:
        with pytest.raises(TransientError):
            await sink.write([event(1)])
        proxy.refusing = False
        await sink.write([event(1)])


async def test_a_bus_rides_out_an_outage(collector: Collector) -> None:
    """Through a real bus: a server that is down for some attempts costs retries and no record (F38)."""
    collector.answers = [Answer(503), Answer(429, {"retry-after": "0"}), Answer(503)]
    async with EventBus() as bus:
        lane = bus.subscribe(OtlpSink(collector.url), retry=Retry(base=0.01, cap=0.02))
        for n in range(100):
            bus.record(Event(f"e{n}", EventSource.WORKER))
            bus.put_metric("loss", n, "train")
        await bus.settled()
        assert lane.stats().retries >= 2
        assert lane.stats().balanced
    assert [log["event_name"] for _, log in collector.logs][:100] == [f"e{n}" for n in range(100)]
    assert len(collector.points) == 100


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_script_that_ends_at_once_delivers(collector: Collector) -> None:
    """Records of a script's last moment arrive, though the ending interpreter can look up no host any more (F16)."""
    script = (
        f"import elastic_events as e; e.start('otlp+http://localhost:{collector.port}'); "
        "e.record(e.Event('last', e.EventSource.WORKER))"
    )
    done = await anyio.run_process([sys.executable, "-c", script], check=False, stderr=None)
    assert done.returncode == 0
    assert [log["event_name"] for _, log in collector.logs] == ["last", "bus.ledger"]


async def test_tls_is_checked_also_without_a_look_up(tmp_path: Path) -> None:
    """The certificate must be the host's, by name as by the address that was looked up when the sink opened."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    async with Collector.listening(context) as collector:
        url = f"https://localhost:{collector.port}/v1/logs"
        async with opened(OtlpSettings(url, None, certificate=str(tmp_path / "ca.pem"))) as sink:
            await sink.write([event(1)])
            assert "127.0.0.1" in sink._addresses["localhost"]
            body = sink._encoder.logs([event(2)])
            with pytest.raises(httpx2.ConnectError):
                await sink._send_to("127.0.0.1", url.replace("localhost", "elsewhere"), body, {})
            answer = await sink._send_to("127.0.0.1", url, body, {})
            assert answer.status_code == 200
        async with opened(OtlpSettings(url, None)) as sink:
            with pytest.raises(TransientError, match="CERTIFICATE_VERIFY_FAILED"):
                await sink.write([event(3)])
    assert [log["attributes"]["step"] for _, log in collector.logs] == [1, 2]


# --- settings ---


def test_the_environment_says_all() -> None:
    """OpenTelemetry's standard variables give endpoints, headers, timeout, compression and certificates."""
    settings = read_settings(
        None,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:4318/base/",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m/own",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%3Db, X-Two = 2",
            "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "only=logs",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": "/ca.pem",
        },
    )
    assert settings == OtlpSettings(
        logs="https://c:4318/base/v1/logs",
        metrics="http://m/own",
        logs_headers={"only": "logs"},
        metrics_headers={"api-key": "a=b", "x-two": "2"},
        gzip=False,
        timeout=2.5,
        certificate="/ca.pem",
    )


def test_without_anything_it_is_the_local_collector() -> None:
    """With no variable set it is the specification's default."""
    assert read_settings(None, {}) == OtlpSettings("http://localhost:4318/v1/logs", "http://localhost:4318/v1/metrics")


@pytest.mark.parametrize(
    ("environ", "logs", "metrics", "remark"),
    [
        ({"OTEL_SDK_DISABLED": "True"}, False, False, "nothing is sent"),
        ({"OTEL_SDK_DISABLED": "yes"}, True, True, None),
        ({"OTEL_LOGS_EXPORTER": "none"}, False, True, "OTEL_LOGS_EXPORTER is none"),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "otlp"}, True, False, "OTEL_METRICS_EXPORTER is none"),
        ({"OTEL_LOGS_EXPORTER": "console"}, True, True, "OTEL_LOGS_EXPORTER names"),
        ({"OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "5"}, True, True, "LOGS_TIMEOUT is not supported"),
        (
            {"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"},
            *(True, False, "OTEL_METRICS_EXPORTER is none"),
        ),
    ],
)
def test_the_environment_says_whether(
    environ: Mapping[str, str], logs: bool, metrics: bool, remark: str | None
) -> None:
    """Variables that turn a signal off do, where no URL names a server; what is not supported is told."""
    settings = read_settings(None, environ)
    assert (settings.logs is not None, settings.metrics is not None) == (logs, metrics)
    assert len(settings.remarks) == (remark is not None)
    assert all(str(remark) in said for said in settings.remarks)
    named = read_settings("http://h:4318", environ)
    assert named.logs is not None
    assert named.metrics is not None


async def test_what_is_not_supported_is_told_once(collector: Collector, capfd: pytest.CaptureFixture[str]) -> None:
    """Each remark is one line on stderr, however often the drain looks."""
    settings = OtlpSettings(f"{collector.url}/v1/logs", None, remarks=("Not here.",))
    async with EventBus(OtlpSink(settings)) as bus:
        for now in range(3):
            bus._drain.notices.all[0].look(now)
    assert capfd.readouterr().err == "elastic_events: sink 'otlp' says: Not here.\n"


@pytest.mark.parametrize("status", [400, 413])
async def test_a_server_that_refuses_everything_is_only_probed(collector: Collector, status: int) -> None:
    """Of a server that answers all with one refusal the circuit opens: a request now and then, and the others wait for it."""
    collector.answers = [Answer(status)] * 10_000
    async with EventBus() as bus:
        lane = bus.subscribe(OtlpSink(collector.url), name="otlp", retry=Retry(base=0.2, cap=0.2))
        for number in range(2000):
            bus.put_metric("m", number)
        with anyio.fail_after(20):
            while lane.stats().circuit != "open":
                await anyio.sleep(0.01)
        asked = len(collector.requests)
        assert asked < 30
        await anyio.sleep(0.5)
        assert len(collector.requests) < asked + 40
        collector.answers = []
        with anyio.fail_after(20):
            await bus.settled()
        stats = lane.stats()
    assert stats.circuit == "closed"
    assert stats.delivered == len(collector.points) == 2000 - stats.failed
    assert stats.failed < 60


async def test_no_proxy_stands_before_this_machine(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is not asked for 127.0.0.1."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with opened(collector.url) as sink:
        await sink.write([event(1)])
    assert len(collector.logs) == 1


def test_secrets_do_not_show() -> None:
    """Neither a header nor a login in the URL shows in a repr (F63)."""
    sink = OtlpSink(OtlpSettings("https://me:s3cret@h/v1/logs?key=s3cret", None, {"authorization": "s3cret"}))
    assert "s3cret" not in repr(sink)
    assert "authorization" not in repr(sink.settings)


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "only http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "garbage"}, "LOGS_PROTOCOL asks"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "http://HOST:PORT"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "10s"}, "milliseconds"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "gzip or none"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "secret"}, "has no ="),
    ],
)
def test_a_wrong_variable_says_what_is_wrong(environ: Mapping[str, str], sentence: str) -> None:
    """Each mistake in a variable has its sentence."""
    with pytest.raises(ConfigError, match=sentence):
        read_settings(None, environ)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [("otlp+http:x", "which server"), ("otlp+http://h?x=1", "no option 'x'"), ("otlp+http://h:0", "HOST")],
)
def test_a_wrong_url_says_what_is_wrong(url: str, sentence: str) -> None:
    """Each mistake in a URL has its sentence."""
    with pytest.raises(ConfigError, match=sentence):
        from_url(urlsplit(url))


async def test_a_missing_certificate_is_a_clear_error() -> None:
    """A certificate that cannot be read fails the opening."""
    sink: Any = from_url(urlsplit("otlp+https://h?certificate=/nowhere.pem"))
    with pytest.raises(ConfigError, match="cannot be read"):
        await sink.open()
