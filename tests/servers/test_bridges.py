"""Bridges: what TensorBoard, Weights & Biases and MLflow themselves read back."""

import errno
import json
import math
import os
import struct
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from elastic_events import EventBus
from elastic_events.bus.errors import ConfigError, PermanentError, TransientError
from elastic_events.bus.record import Record
from elastic_events.sinks.bridges import MlflowSink, TensorBoardSink, WandbSink, from_url
from elastic_events.sinks.points import Point, Steps
from elastic_events.sinks.rollup import Rollup
from tests.servers.conftest import free_port
from tests.servers.factory import EPOCH, context, event, metric

#: Steps 5 and 6 with two points each, of two ranks; an event and a text that pass by.
TRAINING = [
    event(10, "step.started", {"step": 5}),
    metric(11, value=0.5),
    metric(12, value=0.25),
    event(20, "step.started", {"step": 6}),
    metric(21, value=0.125),
    metric(22, "lr", 1e-3),
    metric(23, "note", "text"),
    event(24, "job.failed", {}),
    metric(3, value=9, speaker=context(1, process="p2")),
]
EXPECTED = {
    ("train/loss", 5, 0.5),
    ("train/loss", 5, 0.25),
    ("train/loss", 6, 0.125),
    ("train/lr", 6, 1e-3),
    ("train/rank1/loss", 0, 9.0),
}

#: MLflow's own file store, on Python 3.14.
mlflow_warns = pytest.mark.filterwarnings("ignore:codecs.open:DeprecationWarning")


def deliver(sink: Any, records: Sequence[Record]) -> None:
    """Deliver through a bus in a background thread, as a training script would."""
    with EventBus(sink) as bus:
        bus._drain.start(partial(_feed, bus, records))
        while bus.stats().lanes[sink.name].accepted < len(records):
            time.sleep(0.001)  # until the source, a task of the drain, had its turn
        assert bus.flush_sync(10), bus.stats()
        assert bus.stats().lanes[sink.name].delivered == len(records)


async def _feed(bus: EventBus, records: Sequence[Record]) -> None:
    bus._feed(records)


# --- which step ---


def test_a_point_belongs_to_the_step_that_began_before_it() -> None:
    """Steps come from the events of the point's own process, also when these arrive behind it in the batch."""
    points = Steps().points([*TRAINING[1:3], *TRAINING[:1], *TRAINING[3:]]).values()
    assert {(p.tag, p.step, p.value) for p in points} == EXPECTED


def test_without_steps_points_are_counted() -> None:
    """Where no step is marked, a point's step is its number within its name."""
    steps = Steps()
    first = steps.points([metric(1), metric(2), metric(3, "lr")])
    second = steps.points([metric(4)])
    assert [(p.tag, p.step) for p in (*first.values(), *second.values())] == [
        ("train/loss", 0),
        ("train/loss", 1),
        ("train/lr", 0),
        ("train/loss", 2),
    ]


def test_a_batch_that_comes_again_keeps_its_steps() -> None:
    """A retry logs the same steps as the attempt that failed."""

    class Writer:
        def __init__(self) -> None:
            self.steps: list[int] = []

        def add_scalar(self, tag: str, value: float, step: int, walltime: float) -> None:
            self.steps.append(step)
            if len(self.steps) == 1:
                raise OSError("full")

        def flush(self) -> None:
            pass

    writer = Writer()
    sink = TensorBoardSink(writer=writer)
    batch = [metric(1)]
    with pytest.raises(OSError, match="full"):
        sink.write_now(batch)
    sink.write_now(batch)
    assert writer.steps == [0, 0]


def test_a_batch_that_comes_in_halves_keeps_its_steps_and_is_logged_once() -> None:
    """Where a lane splits a batch to find what is refused, each point has the step of the first attempt, and is there once."""

    class Tracker(TensorBoardSink):
        _most = 2

        def log(self, points: Sequence[Point]) -> None:
            if any(point.value == 5 for point in points):
                raise PermanentError("five")
            found.extend((point.value, point.step) for point in points)

    found: list[tuple[float, int]] = []
    with EventBus() as bus:
        lane = bus.subscribe(Tracker(writer=object()))
        for number in range(8):
            bus.put_metric("loss", number)
        bus.flush_sync(10)
        assert (lane.stats().delivered, lane.stats().failed) == (7, 1)
    assert sorted(found) == [(number, number) for number in range(8) if number != 5]


def test_a_batch_that_comes_again_with_more_keeps_its_steps_and_is_logged_once() -> None:
    """A roll-up tries again with what it made meanwhile: each point has the step of the first attempt, and is there once."""

    class Tracker(TensorBoardSink):
        _most = 2

        def log(self, points: Sequence[Point]) -> None:
            if fails and len(found) == 2:
                raise OSError("full")
            found.extend((point.value, point.step) for point in points)

    found: list[tuple[float, int]] = []
    points = [metric(number, value=number) for number in range(6)]
    sink, fails = Tracker(writer=object()), True
    for count in (3, 4):
        with pytest.raises(OSError, match="full"):
            sink.write_now(points[:count])
    fails = False
    sink.write_now(points)
    assert found == [(number, number) for number in range(6)]


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1])
def test_a_step_that_no_tracker_can_hold_costs_its_own_points(step: int) -> None:
    """Points of a step beyond 64 bits are refused by name, and the others are logged; a step that is no number is none."""

    class Tracker(TensorBoardSink):
        def log(self, points: Sequence[Point]) -> None:
            found.extend((point.value, point.step) for point in points)

    found: list[tuple[float, int]] = []
    sink = Tracker(writer=object())
    batch = [
        *(event(1, metadata={"step": 7}), metric(2, value=2), event(3, metadata={"step": True}), metric(4, value=4)),
        *(event(5, metadata={"step": step}), metric(6, value=6), event(7, metadata={"step": 8}), metric(8, value=8)),
    ]
    with pytest.raises(PermanentError, match="64 bits") as caught:
        sink.write_now(batch)
    assert caught.value.rejected == (batch[5],)
    assert found == [(2, 7), (4, 7), (8, 8)]


# --- TensorBoard ---


def scalars(directory: Path) -> list[tuple[str, int, float]]:
    """Return what TensorBoard's own reader finds."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = []
    for path in sorted(directory.iterdir()):
        read = accumulator.EventAccumulator(str(path), size_guidance={"scalars": 0})
        read.Reload()
        found += [(tag, one.step, one.value) for tag in read.Tags()["scalars"] for one in read.Scalars(tag)]
    return found


@pytest.mark.parametrize("truncates", [True, False])
def test_a_full_disk_delays_tensorboard(tmp_path: Path, truncates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails, at whichever byte, leaves nothing that stops a reader; the next try writes the batch, once."""
    pytest.importorskip("tensorboardX")
    sink = TensorBoardSink(tmp_path / "runs")
    sink.open_now()
    sink.write_now([metric(0, value=0)])
    write, written = os.write, 0
    for number, room in enumerate((0, 1, 11, 40, *([60] if truncates else [])), start=1):
        left = room

        def full(descriptor: int, data: bytes) -> int:
            nonlocal left
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            done = write(descriptor, bytes(data)[:left])
            left -= done
            return done

        batch = [metric(2 * number, value=2 * number), metric(2 * number + 1, value=2 * number + 1)]
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            if not truncates:
                patch.setattr(os, "ftruncate", lambda *_: full(-1, b""))
            with pytest.raises(OSError, match="No space"):
                sink.write_now(batch)
        sink.write_now(batch)
        written += 2
    sink.close_now()
    values = [value for _, _, value in scalars(tmp_path / "runs")]
    assert sorted(values) == [0, *range(2, written + 2)]


def test_opening_on_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is tried, there is no empty file of each attempt; with room again there is one."""
    pytest.importorskip("tensorboardX")
    sink = TensorBoardSink(tmp_path)

    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(3):
            with pytest.raises(TransientError, match="No space"):
                sink.open_now()
    assert not list(tmp_path.iterdir())
    sink.open_now()
    sink.close_now()
    assert len(list(tmp_path.iterdir())) == 1


def test_two_processes_that_write_one_directory_have_a_file_each(tmp_path: Path) -> None:
    """Files that are made in one second, also by one process, are two; one that somebody removed is made again."""
    pytest.importorskip("tensorboardX")
    sinks = [TensorBoardSink(tmp_path) for _ in range(2)]
    for number, sink in enumerate(sinks):
        sink.open_now()
        sink.write_now([metric(number, value=number)])
    assert sorted(scalars(tmp_path)) == [("train/loss", 0, 0.0), ("train/loss", 0, 1.0)]
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        path.unlink()
    sinks[0].write_now([metric(2, value=2)])
    assert scalars(tmp_path) == [("train/loss", 1, 2.0)]
    for sink in sinks:
        sink.close_now()


def test_behind_a_roll_up_points_keep_their_steps(tmp_path: Path) -> None:
    """What a roll-up made of each interval stands at the step in which its last point was recorded."""
    pytest.importorskip("tensorboardX")
    pytest.importorskip("fastdigest")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    start = EPOCH // 10**10 * 10**10
    records = []
    for number in range(60):
        step = event(2 * number, "step.started", {"step": 100 + number})
        point = metric(2 * number + 1, value=number)
        for record in (step, point):
            time_ns = start + number * 10**9 + record.seq
            records.append(msgspec.structs.replace(record, time_ns=time_ns, monotonic_ns=time_ns - start))
    with EventBus() as bus:
        lane = bus.subscribe(Rollup(TensorBoardSink(tmp_path / "runs"), every=10))
        bus._drain.start(partial(_feed, bus, records))
        while lane.stats().accepted < len(records):
            time.sleep(0.001)  # until the source, a task of the drain, had its turn
        assert bus.flush_sync(10)
    read = accumulator.EventAccumulator(str(tmp_path / "runs"))
    read.Reload()
    assert [scalar.step for scalar in read.Scalars("train/loss.last")] == [109, 119, 129, 139, 149, 159]
    assert [scalar.value for scalar in read.Scalars("train/loss.last")] == [9, 19, 29, 39, 49, 59]


def test_tensorboard_reads_the_scalars(tmp_path: Path) -> None:
    """TensorBoard's own reader finds every point with its tag, step, value and time."""
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    deliver(from_url(urlsplit(f"tensorboard:///{tmp_path}/runs")), TRAINING)
    read = accumulator.EventAccumulator(str(tmp_path / "runs"))
    read.Reload()
    found = {tag: read.Scalars(tag) for tag in read.Tags()["scalars"]}
    assert {(tag, one.step, one.value) for tag in found for one in found[tag]} == {
        (tag, step, struct.unpack("f", struct.pack("f", value))[0]) for tag, step, value in EXPECTED
    }
    assert found["train/lr"][0].wall_time == pytest.approx(TRAINING[5].time_ns / 1e9)


def test_a_summary_writer_of_the_users_stays_open(tmp_path: Path) -> None:
    """A SummaryWriter that the user made is used, and is the user's to close."""
    writer = pytest.importorskip("tensorboardX").SummaryWriter(str(tmp_path))
    deliver(TensorBoardSink(writer=writer), TRAINING)
    writer.add_scalar("mine", 1.0, 1)
    writer.close()


def test_tensorboard_that_cannot_write_is_a_clear_error(tmp_path: Path) -> None:
    """A directory that cannot be made fails the opening."""
    pytest.importorskip("tensorboardX")
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match="TensorBoard: cannot write"),
        EventBus(TensorBoardSink(tmp_path / "file" / "x")),
    ):
        pass


# --- Weights & Biases ---


def leveldb_log(path: Path) -> Iterator[bytes]:
    """Yield the records of a .wandb file: seven bytes of its own, then LevelDB's log format (its doc/log_format.md)."""
    data = path.read_bytes()
    position, whole = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if kind == 0:
            position += left
            continue
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def wandb_rows(directory: Path, least: int) -> list[dict[str, Any]]:
    """Return the history rows of the only offline run; its file is another process's to write."""
    until = time.monotonic() + 20
    while len(rows := _wandb_rows(directory)) < least and time.monotonic() < until:
        time.sleep(0.02)
    return rows


def _wandb_rows(directory: Path) -> list[dict[str, Any]]:
    from wandb.proto import wandb_internal_pb2

    (path,) = directory.glob("wandb/offline-run-*/*.wandb")
    rows = []
    for data in leveldb_log(path):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {"".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            rows.append({key: value for key, value in items.items() if not key.startswith("_")})
    return rows


def test_wandb_keeps_the_rows_offline(tmp_path: Path) -> None:
    """The file that `wandb sync` would send holds every point, with its step."""
    pytest.importorskip("wandb")
    deliver(WandbSink("test", tmp_path), TRAINING)
    rows = wandb_rows(tmp_path, 4)
    found = {(tag, row["step"], value) for row in rows for tag, value in row.items() if tag != "step"}
    assert found == EXPECTED
    assert len(rows) == 4


def test_wandb_s_own_columns_are_not_overwritten(tmp_path: Path) -> None:
    """A metric without a group may be called as W&B's columns are, or ours of the step: it gets another name."""
    pytest.importorskip("wandb")
    sink = WandbSink("test", tmp_path)
    rows: list[dict[str, float]] = []
    sink._run = SimpleNamespace(log=rows.append)
    sink.write_now([metric(n, name, n, "") for n, name in enumerate(("step", "_step", "_timestamp", "loss"))])
    assert rows == [{"step": 0, "metric/step": 0, "metric/_step": 1, "metric/_timestamp": 2, "loss": 3}]


# --- MLflow ---


@pytest.fixture
def _file_store(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.mark.usefixtures("_file_store")
@mlflow_warns
def test_mlflow_reads_the_metrics(tmp_path: Path) -> None:
    """MLflow's own client finds every point with its step and millisecond, in a run that is finished."""
    from mlflow.tracking import MlflowClient

    sink = from_url(urlsplit(f"mlflow:///{tmp_path}/store?experiment=e&name=n"))
    assert isinstance(sink, MlflowSink)
    deliver(sink, TRAINING)
    client = MlflowClient(tracking_uri=sink.tracking_uri)
    found = {
        (tag, one.step, one.value)
        for tag in ("train/loss", "train/lr", "train/rank1/loss")
        for one in client.get_metric_history(sink.run_id, tag)
    }
    assert found == EXPECTED
    assert client.get_metric_history(sink.run_id, "train/lr")[0].timestamp == TRAINING[5].time_ns // 1_000_000
    run = client.get_run(sink.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "n")


@pytest.mark.usefixtures("_file_store")
@mlflow_warns
def test_mlflow_takes_any_name_and_value(tmp_path: Path) -> None:
    """Names that MLflow refuses are made fit; many points are several requests; NaN is a value."""
    sink = MlflowSink(tmp_path / "store")
    points = [metric(n, "a:b*c\n", float(n)) for n in range(2500)] + [metric(1, "nan", math.nan)]
    deliver(sink, points)
    assert len(sink._tracking.MlflowClient(sink.tracking_uri).get_metric_history(sink.run_id, "train/a_b_c_")) == 2500


@pytest.mark.usefixtures("_file_store")
@mlflow_warns
def test_what_mlflow_refuses_is_permanent(tmp_path: Path) -> None:
    """A record that MLflow can never take is not tried again (F41)."""
    sink = MlflowSink(tmp_path / "store")
    sink.open_now()
    for name, group in (("../../x", "train"), (".", "")):
        with pytest.raises(PermanentError, match="MLflow takes no metric"):
            sink.write_now([metric(1, name, group=group)])
    sink.write_now([metric(2)])
    sink.close_now()


@pytest.mark.usefixtures("_file_store")
@mlflow_warns
@pytest.mark.parametrize("names", [("loss", "loss/val", "lr"), ("loss/val", "loss", "lr"), ("loss", "../../x", "lr")])
def test_names_that_mlflow_cannot_hold_cost_their_own_points(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Of two names of which MLflow's directory can have one, and of a name that is no path, the points are refused alone."""
    sink = MlflowSink(tmp_path / "store")
    with EventBus(sink) as bus:
        for number in range(4):
            for name in names:
                bus.put_metric(name, number)
        assert bus.flush_sync(20)
        stats = bus.stats().lanes["mlflow"]
        assert (stats.delivered, stats.failed, stats.retries) == (8, 4, 0)
    client = sink._tracking.MlflowClient(sink.tracking_uri)
    for name in (names[0], names[2]):
        points = client.get_metric_history(sink.run_id, f"torchelastic/{name}")
        assert [(one.step, one.value) for one in points] == [(number, number) for number in range(4)]


def test_a_tracking_server_that_is_down_delays_its_lane_only() -> None:
    """A bus starts beside a server that is not there, within seconds, and says so; MLflow's client would try for minutes."""
    pytest.importorskip("mlflow.tracking")
    began = time.monotonic()
    with EventBus(f"mlflow+http://127.0.0.1:{free_port()}", timeout=0.1) as bus:
        assert "no server answers" in bus.lanes[0].stats().last_error
    assert time.monotonic() - began < 30


# --- URLs ---


@pytest.mark.parametrize("url", ["tensorboard:", "wandb:", "wandb://p?mode=loud", "mlflow:", "mlflow:///d?x=1"])
def test_a_wrong_url_is_a_clear_error(url: str) -> None:
    """Each mistake in a URL is a ConfigError."""
    for module in ("tensorboardX", "wandb", "mlflow.tracking"):
        pytest.importorskip(module)
    with pytest.raises(ConfigError):
        from_url(urlsplit(url))
