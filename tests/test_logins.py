"""No login of a URL on a screen, in a file, in an error or in a ledger: not even where the URL is wrong."""

import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from elastic_events import EventBus
from elastic_events.bus.errors import ConfigError, ElasticEventsError
from elastic_events.sinks.nats_read import read_nats_sync
from elastic_events.sinks.options import without_login
from elastic_events.sinks.otlp import read_settings
from elastic_events.sinks.urls import EXAMPLES, open_url, parse_sinks
from tests.reading.runs import two_attempts
from tests.reading.test_source import database
from tests.test_terminal import commands

open_url(
    "otlp+http://h"
)  # its packages read files when they are first imported, which blockbuster forbids within a loop

#: Passwords as people paste them, and as they should; each holds what to look for.
PASSWORDS = (
    "hunter2",
    "hun/ter2",
    "hun#ter2",
    "hun?ter2",
    "hun,ter2",
    "hun@ter2",
    "hun:ter2",
    "hun%2Fter2",
    "hun ter2",
)
FOUND = re.compile(r"hun|ter2", re.IGNORECASE)

LOGINS = (*(f"joe:{password}@" for password in PASSWORDS), "hunter2@", ":hunter2@")


def urls(login: str) -> list[str]:
    """Return a URL with `login` for each scheme; nothing listens there."""
    found = []
    for example in EXAMPLES.values():
        scheme = example.partition(":")[0]
        found.append(f"{scheme}://{login}127.0.0.1:9/x")
    return [*found, f"natz://{login}127.0.0.1:9/x", f"{login}127.0.0.1:9"]


OPTIONS = (
    "nats://127.0.0.1:9/s?token=hunter2&prefix=.",
    "otlp+http://127.0.0.1:9?headers=authorization=Bearer%20hunter2%0A",
    "otlp+http://127.0.0.1:9?headers=hunter2",
    "otlp+http://127.0.0.1:9?headers=x-team=hunter2%C3%BC",
)


@pytest.mark.parametrize("login", LOGINS)
def test_no_error_and_no_sink_shows_a_login(login: str) -> None:
    """Whatever is wrong with a URL, its error, its sink's repr and the reader's error repeat nothing of its login."""
    cut = (
        [f"nats://{login[:-1]}", f"otlp+http://{login[:-1]}"]
        if login.startswith("joe:") and login.count("@") == 1
        else []
    )
    for url in [*urls(login), *OPTIONS, *cut]:
        for made in (open_url, lambda text: next(read_nats_sync(text))):
            try:
                said = repr(made(url))
            except ElasticEventsError as error:
                said = f"{error!r} {error.__cause__!r}"
            assert not FOUND.search(said), said


@pytest.mark.parametrize("login", LOGINS)
def test_a_list_of_urls_is_not_cut_in_a_login(login: str) -> None:
    """A comma in a password does not make another URL of its rest."""
    assert parse_sinks(f"console:,nats://{login}h:4222/s") == ["console:", f"nats://{login}h:4222/s"]


def test_no_command_shows_a_login(tmp_path: Path) -> None:
    """Commands that read from, send to, or are wrongly given a URL show nothing of its login."""
    database(tmp_path / "a.db", two_attempts().records)
    lines: list[tuple[str, ...]] = []
    for login in (LOGINS[0], LOGINS[1], LOGINS[4], "hunter2@"):
        url = f"nats://{login}127.0.0.1:9/s"
        lines += [(name, url) for name in ("summary", "timeline", "goodput", "slow", "tail")]
        lines += [("diff", "a.db", url), ("export", url, "--csv", "t"), ("tail", "-f", url), ("recover", url)]
        lines += [("replay", "a.db", "--to", url, "--timeout", "0.1"), ("replay", url, "--to", "sqlite:///b.db")]
        lines += [("collect", "rings", f"natz://{login}h"), ("collect", "rings", f"{url}?x=1")]
        lines += [("recover", ".", "--to", url, "--timeout", "0.1"), ("run", "--to", f"{url}?x=1", "--", "true")]
        lines += [("summary", "a.db", "--check", "--nope", url), ("tail", "a.db", url), ("demo", "a", url), (url,)]
        for dead in (f"natz://{login}h", f"{url}?x=1", url):
            lines.append(("replay", "a.db", "--to", f"sqlite:///c.db?dead_letters={dead}"))
        lines += [("replay", "a.db", "--to", f"otlp+http://{login}127.0.0.1:9", "--timeout", "0.1")]
        lines += [
            ("replay", "a.db", "--to", f"jsonl://{login}127.0.0.1/x"),
            ("run", "--to", f"natz://{login}h", "--", "true"),
        ]
    out, err = commands(lines, tmp_path)
    assert not FOUND.search(out + err), (out + err)[-3000:]
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or not FOUND.search(path.read_text("utf-8", "replace"))


def test_a_collector_shows_no_login(tmp_path: Path) -> None:
    """A collector whose sink is away says where it looked, not how it would log in there."""
    (tmp_path / "rings").mkdir(mode=0o700)
    out, err = commands([("collect", "--once", "rings", "nats://joe:hunter2@127.0.0.1:9/s")], tmp_path)
    assert "127.0.0.1" in err
    assert not FOUND.search(out + err)


@pytest.mark.parametrize(
    "url", ["otlp+http://joe:hunter2@127.0.0.1:9?timeout=100ms", "otlp+http://127.0.0.1:9?headers=x-key=hunter2"]
)
async def test_no_ledger_shows_a_login(url: str, tmp_path: Path) -> None:
    """What a lane says of a server that is away names the server only, and so do its bus, its sink and its files."""
    said: list[Any] = []
    with anyio.fail_after(30):
        async with EventBus(f"jsonl:///{tmp_path}/x.jsonl", timeout=0.1) as bus:
            lane = bus.subscribe(url, timeout=1)
            bus.put_metric("m", 1)
            while not lane.last_error:
                await anyio.sleep(0.01)
            said += [lane.last_error, repr(bus), repr(lane), repr(lane.sink), str(bus.stats())]
    said.append((tmp_path / "x.jsonl").read_text())
    assert "127.0.0.1" in said[0]
    assert not FOUND.search(repr(said))


def test_the_otlp_environment_is_not_repeated() -> None:
    """A wrong endpoint or header of the environment is named, not shown."""
    for name, value in (
        ("ENDPOINT", "joe:hunter2@h"),
        ("ENDPOINT", "http://joe:hun/ter2@h:x"),
        ("HEADERS", "k=hunter2\nx"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_settings(environ={f"OTEL_EXPORTER_OTLP_{name}": value})
        assert not FOUND.search(str(caught.value))
        assert name.lower() in str(caught.value).lower()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gone: nats://joe:p@ss/w#o@h:1/s?x=1", "gone: nats://h:1/s?x=1"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
        ("nats://h/s?token=abc&prefix=p", "nats://h/s?token=[redacted]&prefix=p"),
        ("otlp+http://h?headers=k%3Dv&gzip=0", "otlp+http://h?headers=...&gzip=0"),
        ("write nats://HOST:4222/STREAM", "write nats://HOST:4222/STREAM"),
    ],
)
def test_a_url_is_shown_without_its_login(text: str, told: str) -> None:
    """What is left of a URL still says where it leads."""
    assert without_login(text) == told


@pytest.mark.parametrize("text", ["a" * 10**6, "a:/" * 300_000, "a:/" * 300_000 + " @", "7" * 10**6 + "@"], ids=len)
def test_a_text_of_any_shape_is_shown_at_once(text: str) -> None:
    """What a server answers is looked at in a time that grows with its length: a million characters took minutes."""
    assert without_login(text) == text
