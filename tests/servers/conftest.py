"""Real servers on free loopback ports, started once a session and stopped at its end."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.missing import missing
from tests.servers.proxy import Proxy

#: The backends of what needs asyncio.
ASYNCIO = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def unused_tcp_port() -> int:
    """A port that nothing listens on."""
    return free_port()


def program(name: str) -> str:
    """Return the path of a server's program, beside this Python or in PATH; skip the test where there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        missing(f"{name} is not installed")
    return found


def wait_for_port(port: int, process: "subprocess.Popen[Any]", seconds: float = 20.0) -> None:
    """Return when something accepts connections."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise TimeoutError(f"nothing listens on {port}")


class NatsServer:
    """A nats-server that can be killed and started again on the same port and files."""

    def __init__(self, directory: Path, *options: str, more: str = "", jetstream: bool = True) -> None:
        """Its files go to `directory`; `more` is what its configuration says besides."""
        self.port = free_port()
        self.directory = directory
        self.config = directory.parent / f"{directory.name}.conf"
        # A stream reserves what it may grow to; by default the server has three quarters of the free disk to give.
        store = f'jetstream: {{store_dir: "{directory}", max_file_store: 1TB}}' if jetstream else ""
        self.config.write_text(f"{store}\n{more}\n")
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        command = [
            program("nats-server"),
            "-c",
            str(self.config),
            "-a",
            "127.0.0.1",
            "-p",
            str(self.port),
            *self.options,
        ]
        with (self.directory.parent / f"{self.directory.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for_port(self.port, self.process)

    def kill(self) -> None:
        """SIGKILL it."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process is not None:
            os.kill(self.process.pid, number)
            self.process.wait(20)
            self.process = None


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server with JetStream, for all tests that do not kill it."""
    directory = tmp_path_factory.mktemp("jetstream")
    server = NatsServer(directory)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def mortal_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server with JetStream of the test's own, to be killed."""
    server = NatsServer(tmp_path / "js")
    server.start()
    yield server
    server.stop()


_streams = itertools.count()


@pytest.fixture
def stream() -> str:
    """The name of a stream that no other test uses."""
    return f"s{next(_streams)}-{os.getpid()}"


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A TCP proxy; set its `target`, then point the client at its `port`."""
    async with Proxy.listening() as made:
        yield made


# A package of Debian's next release, beside the one that runs: the current one has no VictoriaMetrics.
UNPACK = """
set -e; cd "$1"; mkdir -p lists/partial archives/partial root; : >status
awk 'BEGIN{RS="";ORS="\\n\\n"} /bookworm-updates/{print;exit}' /etc/apt/sources.list.d/debian.sources |
    sed 's/^Suites:.*/Suites: trixie/' >t.sources
O="-qq -o Dir::Etc::sourcelist=$1/t.sources -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$1/lists
   -o Dir::State::status=$1/status -o Dir::Cache::archives=$1/archives -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
   -o APT::Sandbox::User=root -o Acquire::Languages=none"
apt-get $O update; apt-get $O download victoria-metrics; dpkg -x *.deb root
"""


@pytest.fixture(scope="session")
def victoria_metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a VictoriaMetrics; from PATH, or unpacked from Debian's package."""
    directory = tmp_path_factory.mktemp("victoria")
    found = shutil.which("victoria-metrics")
    if found is None:
        unpack = ["bash", "-c", UNPACK, "-", str(directory)]
        done = subprocess.run(unpack, check=False, capture_output=True, text=True, timeout=100)
        found = str(directory / "root/usr/bin/victoria-metrics")
        if done.returncode or not Path(found).exists():
            missing(f"no VictoriaMetrics, neither in PATH nor as Debian's package: {done.stderr[-200:]}")
    port = free_port()
    command = [
        found,
        f"-httpListenAddr=127.0.0.1:{port}",
        f"-storageDataPath={directory}/data",
        "-search.latencyOffset=0s",
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    wait_for_port(port, process)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)
