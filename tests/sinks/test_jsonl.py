"""JSON Lines: torn tails, failing writes, rotation, and the reader over all parts."""

import contextlib
import errno
import fcntl
import gzip
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_events.bus.bus import EventBus
from elastic_events.bus.errors import ConfigError
from elastic_events.bus.record import Record
from elastic_events.bus.retry import Retry
from elastic_events.sinks import rotated
from elastic_events.sinks.jsonl import JsonlPosition, JsonlSink, read_jsonl
from elastic_events.sinks.jsonl_read import LONGEST
from elastic_events.sinks.rotated import compress, list_parts, next_number
from elastic_events.sinks.stored import to_json
from tests.sinks.factory import event, metric, metrics
from tests.streams import same


class Damages(list[tuple[int, str]]):
    """Collects what a reader was told."""

    def __call__(self, line: int, reason: str) -> None:
        self.append((line, reason))


@pytest.fixture
def sink(tmp_path: Path) -> Any:
    """A sink that is used from its own thread's side, without a loop."""
    made: list[JsonlSink] = []

    def make(**options: Any) -> JsonlSink:
        one = JsonlSink(tmp_path / "run.jsonl", **options)
        one.open_now()
        made.append(one)
        return one

    yield make
    for one in made:
        keeper = one._housekeeper
        one.close_now()
        if keeper is not None:
            keeper.thread.join(10)


def test_a_torn_tail_never_swallows_the_next_record(tmp_path: Path) -> None:
    """F73: the file is cut at each byte and written on: every whole line is read, and every record written after it."""
    path = tmp_path / "run.jsonl"
    lines = [to_json(record) + b"\n" for record in (metric(1), event(2, {"a": "ü"}))]
    whole = b"".join(lines)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        one = JsonlSink(path)
        one.open_now()
        one.write_now([metric(3)])
        one.write_now([metric(4)])
        one.close_now()
        # A line that lost only its newline is whole.
        survive = sum(cut >= end - 1 for end in (len(lines[0]), len(whole)))
        damages = Damages()
        assert [record.seq for record in read_jsonl(path, damaged=damages)] == [*[1, 2][:survive], 3, 4]
        torn = cut not in (0, len(lines[0]) - 1, len(lines[0]), len(whole) - 1, len(whole))
        assert len(damages) == torn, cut


def test_a_tail_that_is_being_written_is_left_for_the_next_look(tmp_path: Path) -> None:
    """F73: a reader that looks while a line is half there reads it at the next look, from every byte on."""
    path = tmp_path / "run.jsonl"
    line = to_json(metric(2)) + b"\n"
    for cut in range(1, len(line) + 1):
        path.write_bytes(to_json(metric(1)) + b"\n" + line[:cut])
        first = read_jsonl(path)
        seqs = [record.seq for record in first]
        with path.open("ab") as file:
            file.write(line[cut:] + to_json(metric(3)) + b"\n")
        damages = Damages()
        seqs += [record.seq for record in read_jsonl(path, after=first.position, damaged=damages)]
        assert seqs == [1, 2, 3]
        assert damages == []


class Faulty:
    """`os.write` that fails at the n-th call, or writes one byte at a time until then."""

    def __init__(self, at: int, code: int, piece: int) -> None:
        self.left = at
        self.code = code
        self.piece = piece
        self.write = os.write

    def __call__(self, descriptor: int, data: Any) -> int:
        """Write a piece, or fail."""
        self.left -= 1
        if self.left == 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.write(descriptor, data[: self.piece])


def refused(sink: JsonlSink, records: list[Record]) -> int:
    """Write; return the number of the error, 0 for none."""
    try:
        sink.write_now(records)
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("torn", [b"", b'{"id":"half'])
def test_a_failing_write_leaves_no_half_line(
    code: int, torn: bytes, sink: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """F77: ENOSPC and EIO at the n-th write, for every n: the file is as it was, the lane's next try writes the batch once."""
    path = tmp_path / "run.jsonl"
    one = sink()
    one.write_now([metric(1)])
    size = len(b"".join(to_json(record) + b"\n" for record in metrics(3, 2)))
    for at in range(1, size // 7 + 4):
        os.truncate(path, len(to_json(metric(1))) + 1)
        with path.open("ab") as file:
            file.write(torn)
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            fault = Faulty(at, code, 7)
            patch.setattr(os, "write", fault)
            failed = refused(one, metrics(3, 2))
        assert failed == (code if fault.left <= 0 else 0)
        if failed:
            assert path.read_bytes() == before
            one.write_now(metrics(3, 2))
        assert [record.seq for record in read_jsonl(path)] == [1, 2, 3, 4]
    assert not failed, "the last n was one too few"


def test_where_taking_back_fails_too_the_next_write_begins_a_line(
    sink: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """F77: a file system that can neither write nor truncate costs no record: the half line stands alone."""
    one = sink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", Faulty(3, errno.EIO, 50))
        patch.setattr(os, "ftruncate", Faulty(1, errno.EIO, 0))
        with pytest.raises(OSError, match="error"):
            one.write_now([metric(1)])
    one.write_now([metric(1)])
    damages = Damages()
    assert [record.seq for record in read_jsonl(tmp_path / "run.jsonl", damaged=damages)] == [1]
    assert len(damages) == 1


def test_a_write_holds_the_lock_from_the_look_at_the_end_to_the_last_byte(
    sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes append to one file: nobody looks for its end, writes or takes back without the lock."""
    calls: list[str] = []

    def note(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            calls.append(f"flock {args[1]}" if name == "flock" else name)
            return call(*args)

        return noted

    one = sink()
    one.write_now(metrics(1))
    sink().write_now(metrics(1, 2))  # the other process; after its own last write a sink need not look
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", note("flock", fcntl.flock))
        patch.setattr(os, "pread", note("look", os.pread))
        patch.setattr(os, "ftruncate", note("take back", os.ftruncate))
        patch.setattr(os, "write", note("write", Faulty(2, errno.EIO, 5)))
        assert refused(one, metrics(1, 1)) == errno.EIO
    lock, unlock = f"flock {fcntl.LOCK_EX}", f"flock {fcntl.LOCK_UN}"
    assert calls == [lock, "look", "write", "write", "take back", unlock]


def test_another_file_of_the_same_length_may_end_otherwise(sink: Any, tmp_path: Path) -> None:
    """F73: a sink need not look at the end that it wrote itself, but at that of a file which took its place."""
    path, other = tmp_path / "run.jsonl", tmp_path / "other"
    one = sink()
    one.write_now(metrics(1))
    other.write_bytes(path.read_bytes()[:-1] + b" ")
    other.rename(path)
    one.write_now(metrics(1, 1))
    assert path.read_bytes().count(b"\n") == 2


def test_who_waited_for_the_lock_of_a_part_that_was_put_aside_writes_to_the_new_file(
    sink: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another process rotates while this one waits: its records go behind the other's, not into a full part."""
    one, other = sink(), sink(rotate=10, pack=False)
    one.write_now(metrics(1))
    flock = fcntl.flock

    def rotate_first(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        other.write_now(metrics(1, 1))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", rotate_first)
    one.write_now(metrics(1, 2))
    assert same(list(read_jsonl(tmp_path / "run.jsonl")), metrics(3))
    assert list(list_parts(tmp_path / "run.jsonl")) == [1]
    assert len((tmp_path / "run.jsonl.1").read_bytes().splitlines()) == 1


@pytest.mark.parametrize("call", ["rename", "open", "fstat", "scandir"])
def test_a_failing_rotation_loses_nothing(
    call: str, sink: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """F77: whichever call of a rotation fails, at whichever time, the next try writes the batch once."""
    original = getattr(os, call)
    for at in range(1, 8):
        for path in tmp_path.iterdir():
            path.unlink()
        one = sink(rotate=700, pack=False)
        one.write_now(metrics(2))
        left = at

        def fails(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fails)
            failed = refused(one, metrics(2, 2))
        assert failed == (errno.ENOSPC if left <= 0 else 0)
        if failed:
            one.write_now(metrics(2, 2))
        assert [record.seq for record in read_jsonl(tmp_path / "run.jsonl")] == [0, 1, 2, 3]


def test_parts_are_read_in_the_order_they_were_written(sink: Any, tmp_path: Path) -> None:
    """Rotation by size: every record is in some part, once; no part is longer than asked; names only count up."""
    one = sink(rotate=2_000)
    for start in range(0, 200, 4):
        one.write_now(metrics(4, start))
    one._housekeeper.kick()
    one._housekeeper.close()
    one._housekeeper.thread.join(10)
    found = list_parts(tmp_path / "run.jsonl")
    assert list(found) == list(range(1, len(found) + 1))
    assert len(found) > 5
    assert all(part.suffix == ".gz" and stat.S_IMODE(part.stat().st_mode) == 0o600 for part in found.values())
    assert all(len(gzip.decompress(part.read_bytes())) <= 2_000 for part in found.values())
    assert same(list(read_jsonl(tmp_path / "run.jsonl")), metrics(200))


def test_a_batch_longer_than_a_part_is_not_split(sink: Any, tmp_path: Path) -> None:
    """A batch stays in one part, however small the parts are to be."""
    one = sink(rotate=10, pack=False)
    for start in (0, 3, 6):
        one.write_now(metrics(3, start))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["run.jsonl", "run.jsonl.1", "run.jsonl.2"]
    assert same(list(read_jsonl(tmp_path / "run.jsonl")), metrics(9))


def test_rotation_by_time_goes_by_the_first_record(sink: Any, tmp_path: Path) -> None:
    """F61: a file is put aside once its first record is old enough, also after a restart; a clock set back does no harm."""
    now = metric(0).time_ns / 1e9

    def clock() -> float:
        return now

    one = sink(rotate_every=3600, pack=False, clock=clock)
    one.write_now(metrics(1))
    now += 3599
    one.write_now(metrics(1, 1))
    assert not list_parts(tmp_path / "run.jsonl")
    one.close_now()
    one = sink(rotate_every=3600, pack=False, clock=clock)
    now -= 7200
    one.write_now(metrics(1, 2))
    assert not list_parts(tmp_path / "run.jsonl")
    now += 7201
    one.write_now(metrics(1, 3))
    assert list(list_parts(tmp_path / "run.jsonl")) == [1]
    assert same(list(read_jsonl(tmp_path / "run.jsonl")), metrics(4))


def test_old_parts_are_removed_but_for_the_kept(sink: Any, tmp_path: Path) -> None:
    """`keep` bounds the parts; what is left is the newest."""
    one = sink(rotate=10, keep=2)
    for start in range(10):
        one.write_now(metrics(1, start))
    one._housekeeper.kick()
    one._housekeeper.close()
    one._housekeeper.thread.join(10)
    assert list(list_parts(tmp_path / "run.jsonl")) == [8, 9]
    assert same(list(read_jsonl(tmp_path / "run.jsonl")), metrics(3, 7))
    with pytest.raises(ConfigError, match="1 or more"):
        JsonlSink(tmp_path / "run.jsonl", keep=0)


def test_a_reader_follows_across_rotations(sink: Any, tmp_path: Path) -> None:
    """A look that begins where the last one ended misses nothing and repeats nothing, compressed parts or not."""
    one = sink(rotate=1_500, pack=False)
    position: JsonlPosition | None = None
    seen: list[Record] = []
    for start in range(0, 60, 2):
        one.write_now(metrics(2, start))
        if start % 7 == 0:
            for part in list(list_parts(tmp_path / "run.jsonl").values())[:-1]:
                if part.suffix != ".gz":
                    compress(part)
        if start % 10 == 0:
            reading = read_jsonl(tmp_path / "run.jsonl", after=position)
            seen += reading
            position = reading.position
    seen += read_jsonl(tmp_path / "run.jsonl", after=position)
    assert same(seen, metrics(60))


def test_compression_fails_without_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F77: a part that cannot be compressed stays as it was, and no half-made file is left; a killed one's is replaced."""
    part = tmp_path / "run.jsonl.1"
    part.write_bytes(b"".join(to_json(record) + b"\n" for record in metrics(50)))
    (tmp_path / "run.jsonl.1.gz.tmp").write_bytes(b"killed here")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(rotated.shutil, "copyfileobj", full)
        with pytest.raises(OSError, match="space"):
            compress(part)
    assert [path.name for path in tmp_path.iterdir()] == ["run.jsonl.1"]
    compress(part)
    assert [path.name for path in tmp_path.iterdir()] == ["run.jsonl.1.gz"]
    compress(part)  # another process was faster
    assert same(list(read_jsonl(tmp_path / "run.jsonl")), metrics(50))


def test_two_processes_compress_a_part_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gets the lock after another process is done does nothing: the part is there once."""
    part = tmp_path / "run.jsonl.1"
    part.write_bytes(to_json(metric(1)) + b"\n")
    flock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        compress(part)
        (tmp_path / "run.jsonl.1.gz").rename(tmp_path / "moved")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    compress(part)
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_a_part_that_is_compressed_while_its_directory_is_read_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is read in pieces shows a part under neither name: it is found, and its number not given again."""
    path, scandir = tmp_path / "run.jsonl", os.scandir
    for number in (1, 2):
        path.with_name(f"run.jsonl.{number}").write_bytes(to_json(metric(seq=number)) + b"\n")

    def in_pieces(folder: Path) -> Any:
        with scandir(folder) as entries:
            before = list(entries)
        compress(path.with_name("run.jsonl.2"))
        return contextlib.nullcontext([entry for entry in before if os.path.exists(entry.path)])

    monkeypatch.setattr(os, "scandir", in_pieces)
    assert next_number(path) == 3
    monkeypatch.undo()
    assert [record.seq for record in read_jsonl(path)] == [1, 2]


@pytest.mark.parametrize("turn", [1, 2])
def test_of_two_parts_that_are_put_aside_while_their_directory_is_read_none_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    """A directory that is read in pieces may show the later of two new parts alone: the earlier one is found all the same."""
    path, scandir, turns = tmp_path / "run.jsonl", os.scandir, [0]
    path.with_name("run.jsonl.1").touch()

    def in_pieces(folder: Path) -> Any:
        turns[0] += 1
        if turns[0] == turn:
            for number in (2, 3):
                path.with_name(f"run.jsonl.{number}").touch()
        with scandir(folder) as entries:
            missed = "run.jsonl.2" if turns[0] == turn else ""
            return contextlib.nullcontext([entry for entry in entries if entry.name != missed])

    monkeypatch.setattr(os, "scandir", in_pieces)
    assert list(list_parts(path)) == [1, 2, 3]


def test_a_planted_link_is_not_followed_by_compression(tmp_path: Path) -> None:
    """F75: neither the part nor the temporary name leads anywhere else."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "run.jsonl.1").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic"):
        compress(tmp_path / "run.jsonl.1")
    (tmp_path / "run.jsonl.2").write_bytes(b"{}\n")
    (tmp_path / "run.jsonl.2.gz.tmp").symlink_to(precious)
    compress(tmp_path / "run.jsonl.2")
    assert precious.read_bytes() == b"precious"


def test_damaged_lines_are_skipped_and_told(tmp_path: Path) -> None:
    """F68: one bad line stops nothing: it is told by its number and skipped."""
    path = tmp_path / "run.jsonl"
    good = [to_json(record) for record in metrics(3)]
    path.write_bytes(b"\n".join([good[0], b"\0" * 9, b"", b"not json", good[1], b"{}", good[2][:-5]]) + b"\n" + good[2])
    damages = Damages()
    assert same(list(read_jsonl(path, damaged=damages)), metrics(3))
    assert [line for line, _ in damages] == [2, 4, 6, 7]
    assert all(reason.startswith("run.jsonl: ") for _, reason in damages)


def test_a_damaged_part_costs_its_own_rest_only(tmp_path: Path) -> None:
    """F68: a compressed part that is cut short gives what can be read of it, and the parts behind it are read."""
    packed = gzip.compress(b"".join(to_json(record) + b"\n" for record in metrics(500)))
    (tmp_path / "run.jsonl.1.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "run.jsonl.2").write_bytes(to_json(metric(1000)) + b"\n")
    damages = Damages()
    seqs = [record.seq for record in read_jsonl(tmp_path / "run.jsonl", damaged=damages)]
    assert seqs[-1] == 1000
    assert seqs[:-1] == list(range(len(seqs) - 1))
    assert len(seqs) > 10
    assert any("cannot be read" in reason for _, reason in damages)


def test_a_line_too_long_for_a_record_is_skipped(tmp_path: Path) -> None:
    """F68: a file of garbage without line ends is not read into memory at once."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"x" * (LONGEST * 2 + 5) + b"\n" + to_json(metric(1)) + b"\n")
    damages = Damages()
    assert [record.seq for record in read_jsonl(path, damaged=damages)] == [1]
    assert damages == [(1, f"run.jsonl: longer than {LONGEST} bytes")]


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_a_reader_survives_any_file(tmp_path_factory: pytest.TempPathFactory, junk: list[bytes]) -> None:
    """F68: whatever is in a file, its whole records are read and nothing is raised."""
    path = tmp_path_factory.mktemp("any") / "run.jsonl"
    path.write_bytes(b"\n".join([*junk, to_json(metric(1)), *junk]))
    assert [record.seq for record in read_jsonl(path)] == [1]


@pytest.fixture(autouse=True)
def no_leak(tmp_path: Path) -> Any:
    """Fail a test whose subject leaves a file open."""
    yield
    opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert not [path for path in opened if path.startswith(str(tmp_path))]


async def test_a_lane_tries_a_failed_write_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F77: a disk that is full for a while costs retries, which are counted, and no record, no half line, no second copy."""
    sink = JsonlSink(tmp_path / "run.jsonl")
    append, left = sink._append, 5

    def full_for_a_while(data: bytes, end: int) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            fault = Faulty(2, errno.ENOSPC, 20)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "write", fault)
                append(data, end)
        append(data, end)

    monkeypatch.setattr(sink, "_append", full_for_a_while)
    async with EventBus(interval=0.001) as bus:
        lane = bus.subscribe(sink, retry=Retry(base=0.001, cap=0.01))
        for step in range(20):
            bus.put_metric("loss", step)
        await bus.flush()
        assert lane.stats().retries == 5
        assert lane.stats().delivered == 20
        assert "No space left" in lane.stats().last_error
    damages = Damages()
    seen = await anyio.to_thread.run_sync(lambda: list(read_jsonl(tmp_path / "run.jsonl", damaged=damages)))
    assert [record.fields[0] for record in seen if record.kind == "metric"] == list(range(20))
    assert damages == []
