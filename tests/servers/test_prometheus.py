"""Prometheus: what a scrape shows, read by prometheus_client's own parser and by a Prometheus server."""

import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from elastic_events import EventBus
from elastic_events.api import Event, EventSource
from elastic_events.bus.errors import ConfigError, PermanentError
from elastic_events.sinks import prometheus_serve
from elastic_events.sinks.prometheus import OVERFLOW, PrometheusSink, from_url
from tests.missing import missing
from tests.servers.conftest import free_port, wait_for_port
from tests.servers.factory import EPOCH, context, event, ledger, metric, rdzv

RANK_0 = {"name": "loss", "group": "train", "run": "run-1", "rank": "0"}


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[PrometheusSink]:
    """Open a sink on a free port for a block."""
    sink = PrometheusSink(0, **options)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


def fetch(sink: PrometheusSink) -> str:
    """Scrape."""
    return urlopen(f"http://127.0.0.1:{sink.port}/metrics", timeout=10).read().decode()  # type: ignore[no-any-return]


async def scrape(sink: PrometheusSink) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return sample name -> labels and values."""
    text = await anyio.to_thread.run_sync(fetch, sink)
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


async def test_a_metric_shows_last_count_and_histogram() -> None:
    """Of each metric and rank: the last value, how many, their sum and how they are spread."""
    async with opened() as sink:
        await sink.write([metric(n, value=value) for n, value in enumerate((0.3, 40, 2))])
        await sink.write([metric(9, value=7, speaker=context(1))])
        found = await scrape(sink)
    assert (RANK_0, 2.0) in found["elastic_metric_value"]
    assert ({**RANK_0, "rank": "1"}, 7.0) in found["elastic_metric_value"]
    assert (RANK_0, 3.0) in found["elastic_metric_points_total"]
    assert found["elastic_metric_distribution_sum"] == [({"name": "loss", "group": "train", "run": "run-1"}, 49.3)]
    buckets = {labels["le"]: v for labels, v in found["elastic_metric_distribution_bucket"]}
    assert (buckets["0.25"], buckets["0.5"], buckets["2.5"], buckets["50.0"], buckets["+Inf"]) == (0, 1, 2, 4, 4)


async def test_events_are_counted_by_name_and_source() -> None:
    """Events and rendezvous events are counted; a lane's ledger is none."""
    async with opened() as sink:
        await sink.write([event(1, "a"), event(2, "a"), event(3, "b"), rdzv(4), ledger(5)])
        found = await scrape(sink)
    counts = {(labels["name"], labels["source"]): v for labels, v in found["elastic_events_total"]}
    assert counts == {("a", "WORKER"): 2, ("b", "WORKER"): 1, ("dynamic_rendezvous.py:join", "RDZV"): 1}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_million_names_are_a_bounded_number_of_series() -> None:
    """Names beyond the cap share one series, and how many records went there is counted (F62)."""
    async with opened(max_series=10) as sink:
        for start in range(0, 1_000_000, 50_000):
            await sink.write([metric(n, f"m{n}", 1) for n in range(start, start + 50_000)])
        await sink.write([event(n, f"e{n}") for n in range(100)])
        found = await scrape(sink)
    for name in ("elastic_metric_value", "elastic_events_total"):
        assert len(found[name]) == 10
    points = {labels["name"]: value for labels, value in found["elastic_metric_points_total"]}
    assert points[OVERFLOW] == 1_000_000 - 9
    assert sum(points.values()) == 1_000_000
    assert {labels["kind"]: v for labels, v in found["elastic_overflow_total"]} == {
        "metric": 999_991,
        "event": 91,
        "rank": 0,
    }


async def test_a_known_name_goes_on_beyond_the_cap() -> None:
    """The overflow takes new names only."""
    async with opened(max_series=2) as sink:
        await sink.write([metric(1, "a", 1), metric(2, "b", 2), metric(3, "a", 3)])
        found = await scrape(sink)
    assert {labels["name"]: v for labels, v in found["elastic_metric_value"]} == {"a": 3, OVERFLOW: 2}


async def test_each_rank_shows_how_far_it_is() -> None:
    """Of each rank: the last step, how long it took, when it last said anything, and its restarts."""
    slow = context(1, process="p2")
    records = [event(10), event(11, "step.ended", {"step": 10}), event(20, metadata={"step": 11})]
    records += [event(5, metadata={"step": 3}, speaker=slow), event(1005, "step.ended", {"step": 3}, speaker=slow)]
    records += [event(1, speaker=context(None, process="agent"))]
    async with opened() as sink:
        await sink.write(records)
        found = await scrape(sink)
    by_rank = {
        name: {labels["rank"]: value for labels, value in samples}
        for name, samples in found.items()
        if name.startswith("elastic_rank_")
    }
    assert by_rank["elastic_rank_last_step"] == {"0": 10, "1": 3}
    assert by_rank["elastic_rank_step_seconds"] == {"0": 0.001, "1": 1.0}
    assert by_rank["elastic_rank_restarts"] == {"0": 1, "1": 1}
    said = by_rank["elastic_rank_last_record_timestamp_seconds"]
    assert (said["0"], said["1"]) == ((EPOCH + 20_000_000) / 1e9, (EPOCH + 1_005_000_000) / 1e9)


async def test_a_rank_that_is_no_more_is_not_shown_as_quiet() -> None:
    """After a restart with fewer ranks the others are gone, which is no silence; one that comes back is there again."""
    large, small = (
        [context(rank, process=f"{size}-{rank}", world_size=size) for rank in range(size)] for size in (3, 2)
    )

    def ranks_at(sink: PrometheusSink) -> set[str]:
        families = {one.name: one for one in text_string_to_metric_families("".join(sink.render()))}
        names = "elastic_rank_last_record_timestamp_seconds", "elastic_metric_value"
        said, values = ({sample.labels["rank"] for sample in families[name].samples} for name in names)
        assert said == values
        return said

    async with opened() as sink:
        await sink.write([metric(1 + rank, speaker=speaker) for rank, speaker in enumerate(large)])
        assert ranks_at(sink) == {"0", "1", "2"}
        await sink.write([metric(10 + rank, speaker=speaker) for rank, speaker in enumerate(small)])
        await sink.write([metric(4, speaker=large[2])])  # came late
        assert ranks_at(sink) == {"0", "1"}
        await sink.write([metric(20 + rank, speaker=speaker) for rank, speaker in enumerate(large)])
        assert ranks_at(sink) == {"0", "1", "2"}


async def test_a_step_that_is_done_again_is_productive_once() -> None:
    """Seconds in finished steps count for the first time that a rank does a step, and not while it catches up."""
    async with opened() as sink:
        for begin, step in ((0, 1), (100, 2), (200, 1), (300, 2), (400, 3)):
            await sink.write([event(begin, metadata={"step": step}), event(begin + 10, "step.ended", {"step": step})])
        await sink.write([event(500, metadata={"step": 4}), event(550, "step.ended", {"step": 4, "error": "OSError"})])
        found = await scrape(sink)
    assert found["elastic_rank_productive_seconds_total"] == [({"run": "run-1", "rank": "0"}, pytest.approx(0.03))]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_thousand_ranks_fit_and_scrapes_do_not_stop_the_loop() -> None:
    """20 metrics of 1,000 ranks have series of their own; while four scrape them the loop goes on having its turns."""
    speakers = [context(rank, process=f"p{rank}", world_size=1000) for rank in range(1000)]
    async with opened() as sink:
        for speaker in speakers:
            await sink.write([metric(n, f"m{n}", n, speaker=speaker) for n in range(20)])
        longest = turns = 0.0
        async with anyio.create_task_group() as group:
            done = anyio.Event()

            async def scrape_all() -> None:
                texts: list[str] = []

                async def one() -> None:
                    texts.append(await anyio.to_thread.run_sync(fetch, sink))

                async with anyio.create_task_group() as scrapers:
                    for _ in range(4):
                        scrapers.start_soon(one)
                assert len(set(texts)) == 1  # rendered once
                assert texts[0].count("elastic_metric_value{") == 20_000
                done.set()

            group.start_soon(scrape_all)
            while not done.is_set():
                began = time.thread_time()  # what the loop's own thread computes, however busy the machine is
                await anyio.sleep(0)
                longest = max(longest, time.thread_time() - began)
                turns += 1
        assert sink._overflowed == {"event": 0, "metric": 0, "rank": 0}
    assert turns > 50
    assert longest < 0.5


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("said", [b"", b"a"])
async def test_connections_that_say_nothing_are_bounded(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-open connections, and those that come byte by byte without end, take a bounded number of threads, for a bounded
    time; then scrapes are answered again."""
    monkeypatch.setattr(prometheus_serve._Quiet, "timeout", 0.5)
    async with opened() as sink:
        await sink.write([metric(1)])
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", sink.port)) for _ in range(200)]
        try:
            assert threading.active_count() - before <= prometheus_serve.CONNECTIONS
            with anyio.fail_after(20):
                while True:
                    for one in silent:
                        with contextlib.suppress(OSError):
                            one.send(said)
                    with contextlib.suppress(OSError):
                        if (await scrape(sink))["elastic_metric_value"]:
                            break
                    await anyio.sleep(0.05)
        finally:
            for one in silent:
                one.close()


def test_a_thread_that_cannot_be_had_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrapes for which the system had no thread leave the endpoint as it was: the next one is answered."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    endpoint = prometheus_serve.Endpoint("127.0.0.1", 0, prometheus_serve.Fresh(lambda: iter(("up 1\n",))))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(prometheus_serve.ThreadingMixIn, "process_request", refuse)
            for _ in range(prometheus_serve.CONNECTIONS + 1):
                one, other = socket.socketpair()
                with one, other, pytest.raises(RuntimeError):
                    endpoint.process_request(one, None)
        with urlopen(f"http://127.0.0.1:{endpoint.server_port}/", timeout=30) as answer:
            assert answer.read() == b"up 1\n"
    finally:
        endpoint.close()


async def test_values_that_are_not_finite_do_not_spoil_the_sum() -> None:
    """NaN and infinity show as last value, and leave sum and buckets alone."""
    async with opened() as sink:
        await sink.write([metric(1, value=1), metric(2, value=math.inf), metric(3, value=math.nan)])
        found = await scrape(sink)
    assert math.isnan(found["elastic_metric_value"][0][1])
    assert found["elastic_metric_points_total"][0][1] == 3
    assert found["elastic_metric_distribution_sum"][0][1] == found["elastic_metric_distribution_count"][0][1] == 1


async def test_values_that_are_no_numbers_are_refused_alone() -> None:
    """A metric whose value is text is rejected by name, the others are counted (F40)."""
    strange = [metric(2, value="x"), metric(3, value=None), metric(4, value=10**400)]
    async with opened() as sink:
        with pytest.raises(PermanentError) as caught:
            await sink.write([metric(1), *strange])
        assert (await scrape(sink))["elastic_metric_points_total"][0][1] == 1
    assert caught.value.rejected == tuple(strange)


async def test_any_name_is_escaped() -> None:
    """Quotes, newlines and unicode in a name come back from the parser as they were."""
    name = 'a"b\\c\nd é'
    async with opened() as sink:
        await sink.write([metric(1, name), event(1, name)])
        found = await scrape(sink)
    assert found["elastic_metric_value"][0][0]["name"] == name
    assert found["elastic_events_total"][0][0]["name"] == name


async def test_the_buss_own_ledger_shows() -> None:
    """The sink finds the bus it is subscribed to, also behind a roll-up, and shows its ledger."""
    sink = PrometheusSink(0)
    async with EventBus() as bus:
        bus.subscribe(sink, name="prom", metrics=False)
        bus.record(Event("a", EventSource.AGENT))
        bus.put_metric("m", 1, "g")
        await bus.settled()
        found = await scrape(sink)
    assert found["elastic_lane_accepted_total"] == [({"lane": "prom"}, 2.0)]
    assert found["elastic_lane_delivered_total"] == [({"lane": "prom"}, 1.0)]
    assert found["elastic_lane_filtered_total"] == [({"lane": "prom"}, 1.0)]
    assert found["elastic_lane_pending"] == [({"lane": "prom"}, 0.0)]


async def test_it_listens_on_loopback_and_stops() -> None:
    """Only this machine can reach it by default, and a closed sink listens no longer."""
    async with opened() as sink:
        assert sink._server is not None
        assert sink._server.server_address[0] == "127.0.0.1"
        port = sink.port
    with pytest.raises(OSError, match="connect"):
        await anyio.connect_tcp("127.0.0.1", port)


async def test_a_taken_port_is_a_clear_error() -> None:
    """A second endpoint on the same port fails the opening with what to write instead."""
    async with opened() as sink:
        other = PrometheusSink(sink.port)
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{sink.port}"):
            await other.open()
        await other.aclose()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_exposes_nothing() -> None:
    """The port is free once the parent closed, whatever a forked child still does (F2)."""
    sink = PrometheusSink(0)
    anyio.run(sink.open)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            anyio.run(sink.open)
            anyio.run(sink.write, [event(1)])
            os.write(write, b"open")
            os.read(read, 0)
            time.sleep(30)
        finally:
            os._exit(0)
    assert os.read(read, 4) == b"open"
    anyio.run(sink.aclose)
    again = PrometheusSink(sink.port)
    anyio.run(again.open)
    anyio.run(again.aclose)
    os.kill(child, 9)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    ("url", "host", "port", "series"),
    [
        ("prometheus:", "127.0.0.1", 9464, 50_000),
        ("prometheus://0.0.0.0:9000?max_series=5", "0.0.0.0", 9000, 5),
        ("prometheus://127.0.0.1:0", "127.0.0.1", 0, 50_000),
    ],
)
def test_a_url_says_where(url: str, host: str, port: int, series: int) -> None:
    """Host, port and cap of a URL arrive."""
    sink = from_url(urlsplit(url))
    assert (sink.host, sink.port, sink.max_series) == (host, port, series)


@pytest.mark.parametrize(
    "url", ["prometheus://h:99999", "prometheus://h/metrics", "prometheus:?x=1", "prometheus:9464"]
)
def test_a_wrong_url_is_a_clear_error(url: str) -> None:
    """Each mistake in a URL is a ConfigError."""
    with pytest.raises(ConfigError):
        from_url(urlsplit(url))


CONFIG = """
global: {{scrape_interval: 200ms}}
scrape_configs: [{{job_name: training, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_prometheus_server_scrapes_it(tmp_path: Path) -> None:
    """A real Prometheus takes the endpoint without complaint, and answers for one rank."""
    program = shutil.which("prometheus")
    if program is None:
        missing("no prometheus in PATH (Debian's package has one)")
    async with opened() as sink:
        await sink.write([metric(1, value=0.75), metric(2, value=0.5, speaker=context(1)), event(1)])
        port = free_port()
        (tmp_path / "p.yml").write_text(CONFIG.format(port=sink.port))
        command = [program, f"--config.file={tmp_path}/p.yml", f"--web.listen-address=127.0.0.1:{port}"]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen([*command, f"--storage.tsdb.path={tmp_path}/db"], stdout=log, stderr=log)
        try:
            await anyio.to_thread.run_sync(wait_for_port, port, process)
            with anyio.fail_after(20):
                query = 'elastic_metric_value{rank="1"}'
                while not (result := await anyio.to_thread.run_sync(ask, port, query)):
                    await anyio.sleep(0.05)  # the server scrapes on a timer of its own
                up = await anyio.to_thread.run_sync(ask, port, "up")
        finally:
            process.terminate()
            process.wait(20)
    assert result[0]["value"][1] == "0.5"
    assert result[0]["metric"]["name"] == "loss"
    assert up[0]["value"][1] == "1"


def ask(port: int, query: str) -> list[Any]:
    """Return the result of an instant query."""
    try:
        text = urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={quote(query)}", timeout=10).read()
    except HTTPError:
        return []  # 503: it starts
    return list(json.loads(text)["data"]["result"])
