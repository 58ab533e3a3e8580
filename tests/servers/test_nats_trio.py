"""NATS on trio: a clear error, and the way out that it names."""

import pytest

from elastic_events import EventBus
from elastic_events.api import Event, EventSource
from elastic_events.bus.errors import ConfigError
from elastic_events.sinks.nats import NatsSink, read_nats_sync
from tests.servers.conftest import NatsServer


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_trio_loop_is_a_clear_error(nats_server: NatsServer) -> None:
    """On trio the sink says that it cannot, and names the background thread."""
    with pytest.raises(ConfigError, match="with `with EventBus"):
        await NatsSink(f"127.0.0.1:{nats_server.port}").open()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_the_way_out_works(nats_server: NatsServer, stream: str) -> None:
    """A bus in a background thread delivers to NATS from a trio program."""
    import trio

    def work() -> list[str]:
        with EventBus(NatsSink(f"127.0.0.1:{nats_server.port}", stream)) as bus:
            bus.record(Event("from.trio", EventSource.WORKER))
        return [record.name for record in read_nats_sync(f"{nats_server.url}/{stream}")]

    assert await trio.to_thread.run_sync(work) == ["from.trio", "bus.ledger"]
