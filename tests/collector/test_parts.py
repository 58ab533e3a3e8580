"""The files by which programs and their collector speak: requests, the page, the lock and the kick."""

import os
import stat
import threading
from pathlib import Path

import msgspec
import pytest

from elastic_events.bus.context import read_context
from elastic_events.recorder.directory import (
    FIFO,
    LOCK,
    LOOP,
    PAGE,
    REQUESTS,
    Kicks,
    is_collected,
    kick,
    remove,
    serves_requests,
    take,
)
from elastic_events.recorder.launch import why_not
from elastic_events.recorder.link import Link
from elastic_events.recorder.page import SIZE, LaneLedger, PageReader, PageWriter, Standing, lanes_of
from elastic_events.recorder.request import Request, drop, inherited, read_requests, submit
from elastic_events.recorder.served import Run
from elastic_events.recorder.writer import open_rings
from tests.collector.programs import Place, place, until

__all__ = ("place",)

SECRET = "nats://joe:hunter2@127.0.0.1:1/stream"


def lane(name: str, *, key: int = 1, run_id: str = "run", everyone: bool = False) -> LaneLedger:
    """A ledger."""
    return LaneLedger(name, run_id, key, everyone, {"accepted": 1})


def test_a_request_is_private_and_read_back(tmp_path: Path) -> None:
    """The file that holds a URL is readable by its owner only; the same request is one file."""
    request = Request(SECRET, "run", environ={"OTEL_X": "1"})
    for _ in range(2):
        submit(tmp_path, request)
    (path,) = (tmp_path / REQUESTS).iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    seen: dict[str, int] = {}
    assert read_requests(tmp_path, seen) == ({request.key: request}, [])
    assert read_requests(tmp_path, seen) == ({}, [])
    changed = msgspec.structs.replace(request, patience=1.0)
    submit(tmp_path, changed)
    assert read_requests(tmp_path, seen) == ({request.key: changed}, [])
    drop(tmp_path, request.key)
    assert read_requests(tmp_path, {}) == ({}, [])


def test_requests_differ_by_what_they_ask() -> None:
    """Another URL, run or audience is another request; another environment is not."""
    keys = {Request(url, run, everyone=every).key for url in "ab" for run in "xy" for every in (True, False)}
    assert len(keys) == 8
    assert Request("a", "x").key == Request("a", "x", environ={"A": "1"}).key


def test_damaged_requests_are_named_and_links_not_followed(tmp_path: Path) -> None:
    """A file that is no request costs a sentence, and none of the others."""
    good = Request("console:", "run")
    submit(tmp_path, good)
    folder = tmp_path / REQUESTS
    (folder / "00.json").write_bytes(b"\xff{")
    (folder / "01.json").symlink_to(folder / f"{good.key:016x}.json")
    found, wrong = read_requests(tmp_path, {})
    assert list(found) == [good.key]
    assert [sentence.split()[0] for sentence in wrong] == ["00.json", "01.json"]


def test_inherited_keys_tolerate_anything() -> None:
    """What somebody else wrote into the variable is passed over."""
    assert inherited("0a,,zz,0,ffffffffffffffffff") == [10, 0xFFFF_FFFF_FFFF_FFFF]
    assert inherited(None) == []


def test_a_page_is_whole_or_the_one_before(tmp_path: Path) -> None:
    """A reader never sees half of a page: cut or flipped bytes are no page, and a removed one is read to the end."""
    writer, reader = PageWriter(tmp_path), PageReader(tmp_path)
    assert reader.read() is None
    writer.write(Standing(1, 2, (lane("sqlite"),)))
    assert reader.read() == Standing(1, 2, (lane("sqlite"),))
    path = tmp_path / PAGE
    whole = path.read_bytes()
    for at in (0, 8, 16, 20, 30):
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([whole[at] ^ 1]))
        assert PageReader(tmp_path).read() is None, at
        assert reader.read() == Standing(1, 2, (lane("sqlite"),)), at  # the last whole one
        path.write_bytes(whole)
    path.unlink()
    writer.write(Standing(1, 3, ended=True))
    assert reader.read() == Standing(1, 3, ended=True)
    reader.close()
    writer.close()


def test_a_page_holds_as_much_as_there_is_room_for(tmp_path: Path) -> None:
    """Hundreds of sinks do not break the page of the first ones; it stays as large as it was made."""
    writer, reader = PageWriter(tmp_path), PageReader(tmp_path)
    writer.write(Standing(1, 2, tuple(lane(f"sink-{number}" + "x" * 100) for number in range(2000))))
    standing = reader.read()
    assert standing is not None
    assert 0 < len(standing.lanes) < 2000
    assert (tmp_path / PAGE).stat().st_size == SIZE
    reader.close()
    writer.close()


def test_lanes_are_those_of_the_process() -> None:
    """A program sees the lanes that it or its launcher asked for, under names that differ; not those of others."""
    lanes = (
        lane("sqlite"),
        lane("sqlite", key=2, everyone=True),
        lane("jsonl", key=3),
        lane("x", key=4, run_id="other"),
    )
    found = lanes_of(Standing(1, 2, lanes), "run", {1})
    assert {name: ledger.key for name, ledger in found.items()} == {"sqlite": 1, "sqlite-2": 2}
    assert lanes_of(None, "run", {1}) == {}


def test_one_takes_a_directory(tmp_path: Path) -> None:
    """The second is refused while the first holds it, and a lock on a file that was removed is none."""
    first = take(tmp_path)
    assert first is not None
    assert is_collected(tmp_path)
    assert serves_requests(tmp_path)
    assert take(tmp_path) is None
    (tmp_path / LOCK).unlink()
    second = take(tmp_path, LOOP)
    assert second is not None
    assert not serves_requests(tmp_path)
    os.close(first)
    assert is_collected(tmp_path)
    os.close(second)
    assert not is_collected(tmp_path)


def test_a_kick_never_waits(tmp_path: Path) -> None:
    """With nobody there, or a FIFO that is full, a kick returns at once; what was left by a killed collector is used again."""
    assert not kick(tmp_path)
    kicks = Kicks(tmp_path)
    for _ in range(70_000):
        assert kick(tmp_path)
    assert kicks.clear()
    kicks.close()
    assert not kick(tmp_path)
    kicks = Kicks(tmp_path)
    assert kick(tmp_path)
    assert kicks.clear()
    kicks.close()


def test_a_file_where_the_fifo_is_to_be_is_refused(tmp_path: Path) -> None:
    """A copy of a directory may have a plain file there, for which no event loop waits: the collector goes on without."""
    (tmp_path / FIFO).touch()
    with pytest.raises(OSError, match="no FIFO"):
        Kicks(tmp_path)


def test_remove_leaves_what_others_put_there(tmp_path: Path) -> None:
    """A collector that ends takes its own files; a request that came meanwhile stays, and the directory with it."""
    folder = tmp_path / "recorders"
    folder.mkdir()
    submit(folder, Request("console:", "run"))
    Kicks(folder).close()
    remove(folder, whole=True)
    assert [path.name for path in folder.iterdir()] == [REQUESTS]
    drop(folder, Request("console:", "run").key)
    remove(folder, whole=True)
    assert not folder.exists()


def test_a_collector_can_be_started_here() -> None:
    """Nothing keeps this interpreter from starting one."""
    assert why_not() == ""


@pytest.mark.parametrize("place_of_secret", ["cmdline", "environ"])
def test_no_url_shows_in_a_process_list(place: Place, place_of_secret: str) -> None:
    """The password of a sink's URL is in no argument and no environment of the collector and its shell."""
    program = place.start(
        f"elastic_events.start({SECRET!r}, timeout=0)\nprint('ready', flush=True)\nsys.stdin.readline()"
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    for pid in (*until(place.collectors), *place.supervisors()):
        assert b"hunter2" not in Path(f"/proc/{pid}/{place_of_secret}").read_bytes()
    _, err = program.communicate("\n", timeout=60)
    assert "hunter2" not in err


def test_a_page_closes_no_file_of_somebody_elses(tmp_path: Path) -> None:
    """A program that closed all descriptors, to become a daemon, keeps the file that has the page's number now."""
    writer, reader = PageWriter(tmp_path), PageReader(tmp_path)
    writer.write(Standing(1, 2))
    assert reader.read() == Standing(1, 2)
    (descriptor,) = reader._held
    os.close(descriptor)
    with open(os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT), "w") as log:
        assert log.fileno() == descriptor
        assert reader.read() == Standing(1, 2)
        log.write("x")
    reader.close()
    writer.close()


def test_the_same_may_be_asked_by_two_threads_at_once(tmp_path: Path) -> None:
    """What one thread is about to write stays as it is when another asks for the same."""
    request = Request("jsonl:////run.jsonl")
    (tmp_path / REQUESTS).mkdir()
    mine = tmp_path / REQUESTS / f".{request.key:016x}.{threading.get_native_id()}.part"
    mine.write_text("half")
    other = threading.Thread(target=submit, args=(tmp_path, request))
    other.start()
    other.join()
    assert mine.read_text() == "half"
    assert set(read_requests(tmp_path, {})[0]) == {request.key}


def test_a_collector_is_started_while_a_sink_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any thread may flush, which starts a collector where there is none, while another one subscribes."""
    link = Link(tmp_path)
    link.requests[1] = Request("jsonl:////one.jsonl")

    def subscribing(directory: Path, request: Request) -> None:
        link.requests[2] = Request("jsonl:////two.jsonl")  # the other thread has its turn
        submit(directory, request)

    monkeypatch.setattr("elastic_events.recorder.link.submit", subscribing)
    monkeypatch.setattr("elastic_events.recorder.link.launch", lambda _directory, _lock: None)
    assert link.see_to_it()
    assert len(link.urls) == 2


def test_a_long_error_leaves_room_for_all_lanes(tmp_path: Path) -> None:
    """A server's answer may be a page: what a program sees of its lanes is all of them, and the error's two ends."""
    run = Run("run", tmp_path, lambda _what, _sentence: None)
    lane = run.add(Request(f"jsonl:///{tmp_path}/run.jsonl", "run"))
    lane.last_error = "begin" + "x" * 100_000 + "end"
    writer, reader = PageWriter(tmp_path), PageReader(tmp_path)
    writer.write(Standing(1, 2, run.standing()))
    standing = reader.read()
    assert standing is not None
    (ledger,) = standing.lanes
    error = ledger.ledger["last_error"]
    assert (error[:5], error[-3:]) == ("begin", "end")
    reader.close()
    writer.close()
    lane.abandon("test")


def test_a_child_waits_for_none_of_its_parents_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parent recorded before `start`, and is not delivered, is the parent's to wait for, and to tell."""
    monkeypatch.setattr("elastic_events.recorder.link.launch", lambda _directory, _lock: None)
    link = Link(tmp_path)
    parents = open_rings(tmp_path, read_context(), 2)
    link._early = (parents[0].file, [1, 0])
    childs = link.reopen(read_context())
    assert link.flush([ring.head for ring in childs], 0.0) == {}
    for ring in (*parents, *childs):
        ring.close()
