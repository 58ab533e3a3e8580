"""A TCP proxy that fails on purpose: refuse, drop, stall, half-open, lose what the server answers."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import SocketStream

BROKEN = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class Proxy:
    """Forwards bytes between clients and `target`, unless told otherwise.

    `to_client` and `to_server` see each chunk on its way: what they return is forwarded, None or nothing is lost.
    """

    def __init__(self) -> None:
        self.port = 0
        self.target = 0
        self.connections = 0
        self.refusing = False  # accept, then close at once
        self.flowing = anyio.Event()
        self.flowing.set()
        self.to_client: Callable[[bytes], bytes | None] = lambda chunk: chunk
        self.to_server: Callable[[bytes], bytes | None] = lambda chunk: chunk
        self._open: set[SocketStream] = set()

    @classmethod
    @asynccontextmanager
    async def listening(cls) -> AsyncIterator["Proxy"]:
        """Listen on a free port of loopback while the block runs."""
        made = cls()
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        made.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, made._serve)
            yield made
            group.cancel_scope.cancel()

    def stall(self) -> None:
        """Forward nothing from now on, and say nothing: the connection is half-open."""
        self.flowing = anyio.Event()

    def flow(self) -> None:
        """Forward again."""
        self.flowing.set()

    async def drop(self) -> None:
        """Break every connection."""
        for stream in list(self._open):
            await anyio.aclose_forcefully(stream)

    async def end(self) -> None:
        """Say on every connection that nothing more comes."""
        for stream in list(self._open):
            with suppress(*BROKEN):
                await stream.send_eof()

    async def _serve(self, client: SocketStream) -> None:
        self.connections += 1
        async with client:
            if self.refusing:
                return
            with suppress(*BROKEN):
                server = await anyio.connect_tcp("127.0.0.1", self.target)
                self._open |= {client, server}
                try:
                    async with server, anyio.create_task_group() as group:
                        group.start_soon(self._pipe, client, server, "to_server", group.cancel_scope)
                        group.start_soon(self._pipe, server, client, "to_client", group.cancel_scope)
                finally:
                    self._open -= {client, server}

    async def _pipe(self, source: SocketStream, sink: SocketStream, way: str, scope: anyio.CancelScope) -> None:
        with suppress(*BROKEN):
            while True:
                chunk = await source.receive()
                await self.flowing.wait()
                kept = getattr(self, way)(chunk)
                if kept:
                    await sink.send(kept)
        scope.cancel()
