"""OTLP metrics into VictoriaMetrics, queried back."""

import json
import time
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import anyio
import pytest

from elastic_events import EventBus
from elastic_events.sinks.otlp import from_url
from elastic_events.sinks.urls import open_url
from tests.servers.factory import context, metric


def exported(base: str, name: str) -> list[dict[str, object]]:
    """Return the series of a name, each with its labels, values and times."""
    urlopen(f"{base}/internal/force_flush", timeout=10).read()
    end = time.time() + 60  # by default it ends at a whole second in the past
    text = urlopen(f"{base}/api/v1/export?match[]={quote(name)}&end={end}", timeout=10).read().decode()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_points_can_be_queried_by_rank_and_group(victoria_metrics: str, anyio_backend: str) -> None:
    """Every point is there with its value and millisecond, one series a rank."""
    now = time.time_ns() // 1_000_000 * 1_000_000
    name = f"loss_{anyio_backend}"
    speakers = [context(rank, process=f"p{rank}") for rank in range(2)]
    sink = from_url(urlsplit(f"otlp+{victoria_metrics}/opentelemetry"))
    await sink.open()
    await sink.write(
        [metric(n, name, n / 4, speaker=speakers[n % 2], time_ns=now + n // 2 * 1_000_000) for n in range(20)]
    )
    await sink.aclose()
    series = await anyio.to_thread.run_sync(exported, victoria_metrics, name)
    by_rank = {one["metric"]["elastic.rank"]: one for one in series}  # type: ignore[index]
    assert set(by_rank) == {"0", "1"}
    for rank in (0, 1):
        one = by_rank[str(rank)]
        assert one["values"] == [n / 4 for n in range(rank, 20, 2)]
        assert one["timestamps"] == [now // 1_000_000 + n for n in range(10)]
        assert one["metric"]["elastic.group"] == "train"  # type: ignore[index]
        assert one["metric"]["service.name"] == "torchelastic"  # type: ignore[index]


@pytest.mark.slow
def test_a_bus_delivers_to_it(victoria_metrics: str) -> None:
    """A bus with nothing but the URL delivers what was put."""
    with EventBus(open_url(f"otlp+{victoria_metrics}/opentelemetry")) as bus:
        for n in range(50):
            bus.put_metric("from_a_bus", n, "g")
        assert bus.flush_sync()
    assert len(exported(victoria_metrics, "from_a_bus")) == 1
