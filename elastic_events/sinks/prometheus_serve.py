"""The endpoint that Prometheus scrapes: one text, rendered now and then, for however many ask."""

import gzip
import io
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

__all__ = ("CONTENT_TYPE", "Endpoint", "Fresh")

#: Prometheus documentation, "Exposition formats": the text format, which every Prometheus reads.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Connections served at once; a further one is closed, and its scraper comes again.
CONNECTIONS = 32

#: Seconds in which a request must have come, and the answer gone.
REQUEST_TIMEOUT = 5.0

#: Seconds for which a text is good for further scrapers.
FRESH = 1.0


class Fresh:
    """A text that is rendered by one caller at a time, at most once in `FRESH` seconds.

    In pieces, between which the other threads of the process have their turn: a scrape must not hold the training back.
    """

    def __init__(self, render: Callable[[], Iterator[str]]) -> None:
        self._render = render
        self._lock = threading.Lock()  # between scrapers only
        self._made = (0.0, b"", b"")

    def text(self, *, packed: bool) -> bytes:
        """Return the text, compressed or not."""
        with self._lock:
            if time.monotonic() - self._made[0] > FRESH or not self._made[1]:
                pieces = []
                for piece in self._render():
                    pieces.append(piece.encode("utf-8", "replace"))
                    time.sleep(0)  # gives the GIL away
                plain = b"".join(pieces)
                self._made = (time.monotonic(), plain, gzip.compress(plain, 1))
            return self._made[2] if packed else self._made[1]


class Endpoint(ThreadingMixIn, WSGIServer):
    """Serves the text at every path, to a bounded number of connections that last a bounded time.

    Raises:
        OSError: it cannot listen there.
    """

    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, fresh: Fresh) -> None:
        self.address_family: int = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._room = threading.BoundedSemaphore(CONNECTIONS)
        self._fresh = fresh
        super().__init__((host, port), _Quiet)
        self.set_app(self._answer)
        self.thread: threading.Thread = threading.Thread(
            # Half the default: a closing lane waits for this loop to look up.
            target=self.serve_forever,
            args=(0.2,),
            name="elastic-events scrape",
            daemon=True,
        )
        self.thread.start()

    def server_bind(self) -> None:
        """Bind without looking the host's name up, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address: Any = self.socket.getsockname()
        self.server_name: str = self.server_address[0]
        self.server_port: int = self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread, while there is room."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread is to be had: the next scrape may have one
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve, and make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a scraper that went away, or never spoke, is no concern of the job's stderr."""

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()
        self.thread.join(1.0)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        packed = "gzip" in environ.get("HTTP_ACCEPT_ENCODING", "")
        text = self._fresh.text(packed=packed)
        headers = [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(text)))]
        start_response("200 OK", [*headers, ("Content-Encoding", "gzip")] if packed else headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [text]


class _Quiet(WSGIRequestHandler):
    """Answers without a line on stderr for each scrape, and waits for nobody for ever."""

    timeout = REQUEST_TIMEOUT

    def setup(self) -> None:
        """Read with one deadline for the request: a socket's timeout is for each read, of a byte say."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Hurried(self.connection, self.timeout))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Hurried(io.RawIOBase):
    """What a connection brings within so many seconds in all."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(room)
        finally:
            self._connection.settimeout(self._seconds)
