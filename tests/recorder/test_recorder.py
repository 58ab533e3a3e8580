"""The ring in a mapped file: what it keeps, what it refuses, and what no damage can make it say."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest

import elastic_events.recorder.format as format_module
from elastic_events import ConfigError, Event, EventBus, EventSource, InputError
from elastic_events.bus.codec import encode
from elastic_events.bus.context import Context, read_context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.redact import Redactor
from elastic_events.recorder import alive
from elastic_events.recorder.alive import is_another, lives
from elastic_events.recorder.format import EVENT_SLOT, METRIC_SLOT, Geometry, RingShape, shapes_of
from elastic_events.recorder.reader import RecorderReader, read_directory
from elastic_events.recorder.writer import open_rings
from elastic_events.testing import ListSink
from tests.reliability.scripts import run


def record_some(directory: Path, count: int = 3, capacity: int = 8, context: Context | None = None) -> Path:
    """Make a recorder file with `count` metrics and events; return its path."""
    events, metrics = open_rings(directory, context or read_context(), capacity)
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    for number in range(count):
        emitter.put_metric("m", number)
        emitter.record(Event("e", EventSource.WORKER, metadata={"n": number}))
    return events.path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory for recorders."""
    return tmp_path / "recorders"


def test_what_was_recorded_is_read(folder: Path) -> None:
    """Events and metrics come back with their times, ids and context."""
    path = record_some(folder, context=Context("run", "p-1-x", "host", 1, rank=3))
    records = list(RecorderReader(path).rest())
    assert [(r.name, r.fields[0] if r.kind == "metric" else r.fields[2]["n"]) for r in records] == [
        pair for number in range(3) for pair in (("m", number), ("e", number))
    ]
    assert {r.context.rank for r in records} == {3}
    assert records[0].id == "run/p-1-x/m/0"
    assert abs(records[0].time_ns - os.stat(path).st_mtime_ns) < 60e9
    assert all(r.recovered for r in records)


@pytest.mark.parametrize("closed", [False, True])
def test_what_is_recorded_while_it_is_read_does_not_hold_up_the_reader(folder: Path, closed: bool) -> None:
    """A reader gives what was there when it was asked: the threads of a live process, or of one that has closed, may go on."""
    events, metrics = open_rings(folder, read_context(), 64)
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    for number in range(10):
        emitter.put_metric("m", number)
    if closed:
        events.close()
    reader, found = RecorderReader(events.path), []
    for record in reader.all_dead() if closed else reader.rest():
        found.append(record.fields[0])
        emitter.put_metric("m", -1)
        assert len(found) < 1000
    assert found == list(range(10))


def test_ring_overwrites_its_oldest_and_counts(folder: Path) -> None:
    """The last N survive; the others are counted as overwritten."""
    reader = RecorderReader(record_some(folder, 20, 8))
    records = [r for r in reader.rest() if r.kind == "metric"]
    assert [r.fields[0] for r in records] == list(range(12, 20))
    assert reader.lost == {"overwritten": 24}


@pytest.mark.parametrize("length", [10, 400, 503, 504, 505, 2000, 15_000])
def test_long_records_survive(folder: Path, length: int) -> None:
    """A record longer than its slot is kept whole, and its neighbours too."""
    events, metrics = open_rings(folder, read_context(), 8)
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    texts = ["a", "b" * length, "c"]
    for text in texts:
        emitter.record(Event("e", EventSource.WORKER, metadata={"text": text}))
    assert [r.fields[2]["text"] for r in RecorderReader(events.path).rest()] == texts


@pytest.mark.parametrize("earlier", [0, 3])
def test_live_reader_passes_long_records_that_were_overwritten(folder: Path, earlier: int) -> None:
    """A burst of long records, of which only the last have their blocks, does not hide what follows from a live reader."""
    events, metrics = open_rings(folder, read_context(), 512)
    blocks = shapes_of(512)[0].small
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    reader = RecorderReader(events.path)
    for number in range(earlier):
        emitter.record(Event("short", EventSource.WORKER, metadata={"n": number}))
    for number in range(200):
        emitter.record(Event("long", EventSource.WORKER, metadata={"n": number, "text": "x" * 1000}))
    found = [*reader.look(), *reader.look()]
    numbers = [record.fields[2]["n"] for record in found if record.name == "long"]
    assert numbers == list(range(200 - blocks, 200))
    assert len(found) - len(numbers) == earlier
    reader.look(dead=True)  # which waits for no late one
    assert reader.lost == {"overwritten": 200 - blocks}


def test_long_records_of_one_ring_cost_the_other_none(folder: Path) -> None:
    """Of 2,000 events longer than a slot all are kept, whatever long names metrics have beside them."""
    events, metrics = open_rings(folder, read_context())
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    for number in range(2_000):
        emitter.record(Event("e", EventSource.WORKER, metadata={"n": number, "text": "x" * 600}))
        emitter.put_metric("m" * 300, number)
    emitter.record(Event("e", EventSource.WORKER, metadata={"n": 2_000, "text": "x" * 9_000}))
    reader = RecorderReader(events.path)
    records = list(reader.rest())
    assert [one.fields[2]["n"] for one in records if one.kind == "event"] == list(range(2_001))
    assert len(records) - 2_001 == shapes_of(None)[1].small
    reader.look(dead=True)
    assert reader.lost == {"overwritten": 2_000 - shapes_of(None)[1].small}


def test_file_of_the_version_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the version before wrote, with large blocks only, is read to its last record."""
    monkeypatch.setattr(format_module, "EVENTS", RingShape(8, EVENT_SLOT, 4))
    monkeypatch.setattr(format_module, "METRICS", RingShape(8, METRIC_SLOT, 4))
    events, metrics = open_rings(folder, read_context())
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    for number in range(3):
        emitter.record(Event("e", EventSource.WORKER, metadata={"n": number, "text": "x" * 900 * number}))
        emitter.put_metric("m", number)
    data = bytearray(events.path.read_bytes())
    header = msgspec.msgpack.decode(data[16 : 16 + int.from_bytes(data[8:12], "little")])
    body = msgspec.msgpack.encode({**header, "version": 2, "shapes": [shape[:3] for shape in header["shapes"]]})
    data[8:16] = len(body).to_bytes(4, "little") + crc32(body).to_bytes(4, "little")
    data[16 : 16 + len(body)] = body
    events.path.write_bytes(data)
    records = list(RecorderReader(events.path).all_dead())
    assert [len(one.fields[2]["text"]) for one in records if one.kind == "event"] == [0, 900, 1800]
    assert [one.metric.value for one in records if one.kind == "metric"] == [0, 1, 2]


def test_record_that_a_lapped_emitter_stored_over(folder: Path) -> None:
    """An emitter that slept for a lap stores over a newer record: that one is gone, and is counted; no other is taken for it."""
    events, metrics = open_rings(folder, read_context(), 8)
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    take, slots, mask, now = metrics.pipe
    seq = take()
    for number in range(12):
        emitter.put_metric("m", number)
    slots[seq & mask] = encode((seq, now(), "late", "g", 1))
    reader = RecorderReader(events.path)
    records = list(reader.all_dead())
    assert [one.metric.value for one in records] == [4, 5, 6, 8, 9, 10, 11]
    assert reader.lost == {"overwritten": 5, "interrupted": 1}


def test_record_whose_slot_was_torn_by_its_successor_is_overwritten(folder: Path) -> None:
    """A kill amid a store costs the oldest record, which is counted as overwritten, and none else (M8)."""
    path = record_some(folder, 8, 8)
    data = bytearray(path.read_bytes())
    data[Geometry(shapes_of(8)).slots[1] + 8 + 3] ^= 0xFF  # the oldest metric: the next lap began over it
    path.write_bytes(data)
    reader = RecorderReader(path)
    assert [r.seq for r in reader.all_dead() if r.kind == "metric"] == list(range(1, 8))
    assert reader.lost == {"overwritten": 1}


def test_live_reader_passes_slots_that_are_never_filled(folder: Path) -> None:
    """Emitters that raised leave empty slots; a live reader finds the records behind them."""
    events, metrics = open_rings(folder, read_context(), 512)
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    reader = RecorderReader(events.path)
    assert reader.look() == reader.look() == []
    for _ in range(20):
        events.pipe[0]()
    for number in range(20):
        emitter.record(Event("e", EventSource.WORKER, metadata={"n": number}))
    found = [*reader.look(), *reader.look()]
    assert [record.seq for record in found] == list(range(20, 40))
    assert reader.positions == (0, 0)  # the twenty may still come: a later collector must look for them


def test_file_and_directory_are_private(folder: Path) -> None:
    """The directory is 0700 and the file 0600, whatever the umask (F75)."""
    before = os.umask(0)
    try:
        path = record_some(folder)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


def test_names_from_the_environment_cannot_leave_the_directory(folder: Path) -> None:
    """A run id or process name with slashes and dots stays a file name (F75)."""
    path = record_some(folder, context=Context("../../x", "../y-1-z"))
    assert path.parent == folder
    assert list(folder.iterdir()) == [path]


def test_directories_that_cannot_be_used_are_refused(folder: Path, tmp_path: Path) -> None:
    """A symlink, a file, one that others can write to, a missing parent: each gets its sentence (F75)."""
    target = tmp_path / "target"
    target.mkdir(0o700)
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name, sentence in {
        "link": "symbolic link",
        "file": "cannot be used",
        "open": "chmod 700",
        "missing/deeper": "is missing: make it",
    }.items():
        with pytest.raises(ConfigError, match=sentence):
            open_rings(tmp_path / name, read_context())
    assert list(target.iterdir()) == []


def test_full_disk_is_an_error_and_no_signal(tmp_path: Path) -> None:
    """On a 64 KiB file system the recorder fails cleanly and leaves nothing behind (F65, M7)."""
    small = tmp_path / "small"
    small.mkdir(0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(OSError, match="No space left"):
            open_rings(small, read_context())
        assert list(small.iterdir()) == []
        done = run(
            "put_metric('m', 1)\nput_metric('m', 2)", tmp_path, ELASTIC_EVENTS_DIR=str(small), PYTHONWARNINGS="default"
        )
        assert done.code == 0 or "RuntimeWarning" in done.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_recorder_that_cannot_be_had_is_warned_about_once(tmp_path: Path) -> None:
    """A worker whose recorder directory cannot be used runs on without it, with one warning (F23)."""
    body = """
    import warnings
    warnings.simplefilter("always")
    for n in range(5): put_metric("m", n); record(Event("e", "WORKER"))
    print("trained")
    """
    done = run(body, tmp_path, ELASTIC_EVENTS_DIR=str(tmp_path / "no" / "such"))
    assert (done.code, done.stdout) == (0, "trained\n")
    assert done.stderr.count("running without the flight recorder") == 1


@pytest.fixture
def small_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of few slots and one block, with long and short records."""
    monkeypatch.setattr(format_module, "EVENTS", RingShape(2, EVENT_SLOT, 1))
    monkeypatch.setattr(format_module, "METRICS", RingShape(2, METRIC_SLOT, 1))
    events, metrics = open_rings(folder, Context("run", "p-1-x"))
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    emitter.put_metric("m", 1)
    emitter.put_metric("m", 2)
    emitter.record(Event("short", EventSource.WORKER, metadata={"n": 1}))
    emitter.record(Event("long", EventSource.WORKER, metadata={"text": "x" * 600}))
    return events.path


def story(path: Path) -> list[tuple[Any, ...]]:
    """Return what a file says, as comparable values; nothing for one that is refused."""
    try:
        return [(r.kind, r.seq, r.name, repr(r.fields)) for r in RecorderReader(path).rest()]
    except InputError:
        return []


def test_every_truncation(small_file: Path, tmp_path: Path) -> None:
    """A file cut at any byte is refused or read, never misread (F67)."""
    whole = small_file.read_bytes()
    truth = set(story(small_file))
    cut = tmp_path / "cut.ring"
    for length in [*range(600), *range(600, len(whole), 97)]:
        cut.write_bytes(whole[:length])
        assert set(story(cut)) <= truth


def test_every_bit_flip(small_file: Path, tmp_path: Path) -> None:
    """A file with any single bit flipped gives no wrong record and raises nothing but a refusal (F67, F68)."""
    whole = bytearray(small_file.read_bytes())
    truth = set(story(small_file))
    assert len(truth) == 4
    flipped = tmp_path / "flipped.ring"
    flipped.write_bytes(whole)
    geometry = Geometry((format_module.EVENTS, format_module.METRICS))
    events, metrics = geometry.slots
    spilled = geometry.spill[0].large_at
    places = [
        *(*range(360), *range(2040, 2080), *range(events, events + 2 * EVENT_SLOT)),
        *(*range(metrics, metrics + 2 * METRIC_SLOT), *range(spilled, spilled + 700)),
    ]
    with open(flipped, "r+b", buffering=0) as file:
        for place in places:
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([whole[place] ^ 1 << bit]), place)
                assert set(story(flipped)) <= truth, (place, bit)
            os.pwrite(file.fileno(), bytes([whole[place]]), place)


def change_version(path: Path) -> bytes:
    """Return the file at `path` as version 99 of this package would have made it."""
    data = bytearray(path.read_bytes())
    header = msgspec.msgpack.decode(data[16 : 16 + int.from_bytes(data[8:12], "little")])
    body = msgspec.msgpack.encode({**header, "version": 99})
    data[8:16] = len(body).to_bytes(4, "little") + crc32(body).to_bytes(4, "little")
    data[16 : 16 + len(body)] = body
    return bytes(data)


def test_files_that_are_no_recorder(folder: Path, tmp_path: Path) -> None:
    """An empty file, a foreign one, another version, a directory, a symlink: a line each; the good one is read (F66, F72)."""
    good = record_some(folder)
    (folder / "empty.ring").touch()
    (folder / "foreign.ring").write_bytes(b"SQLite format 3\0" * 1000)
    (folder / "dir.ring").mkdir()
    (folder / "link.ring").symlink_to(good)
    (folder / "old.ring").write_bytes(change_version(good))
    damaged: dict[str, str] = {}
    records = list(read_directory(folder, lambda path, reason: damaged.update({path.name: reason})))
    assert len(records) == 6
    assert sorted(damaged) == ["dir.ring", "empty.ring", "foreign.ring", "link.ring", "old.ring"]
    assert "version 99" in damaged["old.ring"]


def test_unfinished_file_is_not_seen(folder: Path) -> None:
    """A file is made under a temporary name: a process killed while making it leaves nothing that a reader looks at (F66)."""
    record_some(folder)
    (folder / ".run-x.ring.abc.part").write_bytes(b"")
    assert len(list(read_directory(folder))) == 6


def test_os_exit_loses_nothing(tmp_path: Path) -> None:
    """What a worker recorded before `os._exit` is in its file, with no bus and no other line of code (F11, promise 11)."""
    folder = tmp_path / "recorders"
    done = run("emit(500)\nrecord(Event('last', 'WORKER'))\nos._exit(9)", tmp_path, ELASTIC_EVENTS_DIR=str(folder))
    assert done.code == 9
    records = list(read_directory(folder))
    assert [r.fields[0] for r in records if r.kind == "metric"] == list(range(500))
    assert records[-1].name == "last"


def test_forked_child_has_a_file_of_its_own(tmp_path: Path) -> None:
    """After a fork the child records into a new file, and the parent's keeps only the parent's (F8, M9)."""
    folder = tmp_path / "recorders"
    body = """
    emit(100, "parent")
    child = os.fork()
    emit(100, "child" if child == 0 else "parent")
    if child == 0: os._exit(0)
    os.waitpid(child, 0)
    """
    done = run(body, tmp_path, ELASTIC_EVENTS_DIR=str(folder))
    assert done.code == 0, done.stderr
    stories = {}
    for path in folder.glob("*.ring"):
        records = list(RecorderReader(path).rest())
        stories[records[0].name] = ({r.name for r in records}, len(records), {r.context.pid for r in records})
    assert stories["parent"][:2] == ({"parent"}, 200)
    assert stories["child"][:2] == ({"child"}, 100)
    assert stories["parent"][2] != stories["child"][2]


def test_forked_child_of_a_bus_with_a_recorder(tmp_path: Path) -> None:
    """A started bus with a recorder gives its forked child a file too."""
    folder = tmp_path / "recorders"
    body = f"""
    elastic_events.start(File(), recorder={str(folder)!r})
    emit(10, "parent")
    child = os.fork()
    if child == 0:
        emit(10, "child")
        os._exit(0)
    os.waitpid(child, 0)
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
    assert len(list(folder.glob("*.ring"))) == 2


async def test_bus_writes_through_its_recorder(folder: Path) -> None:
    """`EventBus(recorder=DIR)` delivers from the mapped rings, and they hold what was delivered."""
    sink = ListSink()
    async with EventBus(sink, recorder=folder) as bus:
        for number in range(100):
            bus.put_metric("m", number)
        bus.record(Event("big", EventSource.WORKER, metadata={"x": "y" * 5000}))
        await bus.settled()
        assert bus.stats().recorder.endswith(".ring")
    assert [r.fields[0] for r in sink.payload if r.kind == "metric"] == list(range(100))
    reader = RecorderReader(next(folder.glob("*.ring")))
    assert reader.closed
    assert len(list(reader.rest())) == 101


def test_emitter_that_comes_too_late_is_counted(folder: Path) -> None:
    """An emitter that was on its way when a bus with a recorder was closed is one of those that came too late."""
    with EventBus(recorder=folder) as bus:
        take = bus._emitter.events[0]  # type: ignore[index]
        bus.record(Event("x", EventSource.WORKER))
    take()
    bus.record(Event("x", EventSource.WORKER))
    assert (bus.stats().accepted, bus.stats().closed) == (3, 2)


def test_pid_that_is_used_again_is_another_process(folder: Path) -> None:
    """A file whose pid runs, but started at another time, belongs to a dead process (F13)."""
    mine = read_context()
    _, start, nonce = mine.process.split("-")
    again = msgspec.structs.replace(mine, process=f"{mine.pid:x}-{int(start, 16) + 1:x}-{nonce}")
    assert RecorderReader(record_some(folder)).alive
    assert not RecorderReader(record_some(folder, context=again)).alive


def test_reader_of_a_live_file_under_a_writer_at_full_speed(tmp_path: Path) -> None:
    """A reader in another process gets every record whole, in order, once; the rest is counted as overwritten."""
    folder = tmp_path / "recorders"
    script = (
        "import sys, time, os; os.environ['ELASTIC_EVENTS_DIR']=sys.argv[1]\n"
        "from elastic_metrics import put_metric\nn=0\nend=time.monotonic()+2\n"
        "while time.monotonic()<end:\n"
        "    for _ in range(100): put_metric('m', n); n+=1\n"
        "print(n)"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    values: list[int] = []
    reader = None
    while writer.poll() is None:
        if reader is None:
            path = next(folder.glob("*.ring"), None) if folder.exists() else None
            reader = RecorderReader(path) if path else None
        else:
            values += [r.fields[0] for r in reader.look()]
    assert reader is not None
    values += [r.fields[0] for r in reader.all_dead()]
    assert writer.stdout is not None
    total = int(writer.stdout.read())
    writer.stdout.close()
    assert len(values) > 1000
    assert values == sorted(set(values))
    assert values[-1] == total - 1
    assert len(values) + sum(reader.lost.values()) == total


def test_a_process_that_ends_is_no_other_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives back its program, its locks, and then the rest, which may take seconds of one with much memory or a GPU."""
    header = RecorderReader(record_some(folder)).header
    monkeypatch.setattr(alive, "runs", lambda _process: True)
    assert is_another(header)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert not is_another(
        msgspec.structs.replace(header, context=msgspec.structs.replace(header.context, pid=ended.pid))
    )
    ended.wait()


def test_another_boot_is_another_life(folder: Path) -> None:
    """A file of an earlier boot is of a dead process, whoever has its pid and its lock now, and has the clock of its boot."""
    path = record_some(folder)
    reader = RecorderReader(path)
    header = reader.header
    assert lives(header, path)
    assert not is_another(msgspec.structs.replace(header, boot_id="another"))
    earlier = msgspec.structs.replace(header, boot_id="another", time_ns=header.time_ns - 10**18)
    assert not lives(earlier, path)
    reader.header = earlier
    times = [record.time_ns for record in reader.look(dead=True)]
    assert len(times) == 6
    assert all(abs(time - earlier.time_ns) < 60e9 for time in times)


def test_a_file_is_made_through_no_link(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever guesses the name under which a recorder is made gets nothing of it."""
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"")
    folder.mkdir(mode=0o700)
    context = Context("run", "p-1-x", "host", 1)
    monkeypatch.setattr("elastic_events.recorder.writer.secrets.token_hex", lambda _: "guess")
    (folder / ".run-p-1-x.ring.guess.part").symlink_to(theirs)
    with pytest.raises(FileExistsError):
        open_rings(folder, context)
    assert theirs.read_bytes() == b""
