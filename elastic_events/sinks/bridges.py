"""Bridges to experiment trackers: metric points by step, and nothing on the training thread.

| URL | tracker | extra |
|---|---|---|
| `tensorboard:///DIR` | TensorBoard, through tensorboardX, which needs no torch | `tensorboard` |
| `wandb://PROJECT?dir=DIR&mode=offline&name=NAME` | Weights & Biases; offline unless `mode=online` | `wandb` |
| `mlflow:///DIR?experiment=NAME`, `mlflow+http://HOST:PORT`, `mlflow+https://HOST` | MLflow | `mlflow` |

A point is called `group/name`, for ranks other than 0 `group/rank3/name`. Its step is that of the last `step.started`
event of its process before it (see `elastic_events.training`), also behind a roll-up; without such events, the number of
points of its name before it. Events pass these sinks by, and so do values that are no numbers: both count as delivered.
"""

import contextlib
import math
import re
import socket
from abc import abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from elastic_events.bus.errors import ConfigError, MissingExtra, PermanentError, TransientError
from elastic_events.bus.record import Record
from elastic_events.sinks.blocking import BlockingSink
from elastic_events.sinks.options import Options, file_path, without_login
from elastic_events.sinks.rollup import SUFFIX

__all__ = ("MlflowSink", "Point", "TensorBoardSink", "WandbSink", "from_url")

#: Step marks of a process that are kept: a point comes no later, even through a roll-up of a minute, at 500 steps a second.
MARKS = 32_768

#: Processes whose marks are kept, and curves without marks that are counted: those that were seen last.
PROCESSES = 4096
COUNTS = 65_536

#: Seconds in which a tracking server takes a connection.
LOOK = 5.0

_FOREIGN = re.compile(r"[^\w\-. /]", re.ASCII)  # mlflow.utils.validation: what a metric's name may not hold


class Point(NamedTuple):
    """One metric point as a tracker wants it."""

    tag: str
    value: float
    step: int
    time_ns: int


class Bridge(BlockingSink):
    """What the bridges share: which point gets which step and name. All else runs in a thread of the sink's own."""

    def __init__(self) -> None:
        super().__init__()
        self._steps = Steps()
        self._again: tuple[Sequence[Record], list[Point]] = ((), [])

    def write_now(self, records: Sequence[Record]) -> None:
        """Log the metric points among `records`; a batch that comes again keeps its steps."""
        if self._again[0] is not records:
            self._again = (records, self._steps.points(records))
        if self._again[1]:
            self.log(self._again[1])
        self._again = ((), [])

    @abstractmethod
    def log(self, points: Sequence[Point]) -> None:
        """Give the points to the tracker."""


class TensorBoardSink(Bridge):
    """Writes scalars to a TensorBoard event file.

    Delivered means: handed to the writer, which puts it into the file at once. Trying again may write a point twice.

    Args:
        directory: for the event file; made if it is missing.
        writer: a SummaryWriter, tensorboardX's or torch's, to use instead; it stays open.

    Raises:
        MissingExtra: tensorboardX is not installed.
    """

    name = "tensorboard"
    thread_name = "elastic-events tensorboard"

    def __init__(self, directory: str | Path = "runs", writer: Any = None) -> None:
        super().__init__()
        self.directory: Path = Path(directory)
        self._own = writer is None
        self._writer = writer
        self._make = None if writer is not None else _load("tensorboardX", "TensorBoard", "tensorboard").SummaryWriter

    def open_now(self) -> None:
        """Make the writer."""
        if self._make is None:
            return
        try:
            self._writer = self._make(str(self.directory))
        except OSError as error:
            raise ConfigError(f"TensorBoard: cannot write to {self.directory}: {error.strerror}") from None

    def log(self, points: Sequence[Point]) -> None:
        """Add the scalars and flush."""
        for point in points:
            self._writer.add_scalar(point.tag, point.value, point.step, point.time_ns / 1e9)
        self._writer.flush()

    def close_now(self) -> None:
        """Close the writer, if it is ours."""
        if self._own and self._writer is not None:
            self._writer.close()
            self._writer = None

    def abandon(self) -> None:
        """Forget the parent's writer."""
        if self._own:
            self._writer = None


class WandbSink(Bridge):
    """Logs to a Weights & Biases run, offline unless told otherwise.

    Delivered means: handed to W&B's own service process, which writes its file, and uploads it with mode="online".
    W&B wants one row a step; points of one batch and step go into one row, with `step` among its values.

    Args:
        project: of the run.
        directory: under which the directory `wandb` is made.
        mode: "offline" or "online".
        init: further arguments of `wandb.init`.

    Raises:
        MissingExtra: wandb is not installed.
    """

    name = "wandb"
    thread_name = "elastic-events wandb"

    def __init__(self, project: str, directory: str | Path = ".", mode: str = "offline", **init: Any) -> None:
        super().__init__()
        if mode not in ("offline", "online"):
            raise ConfigError(f"W&B: mode is offline or online, not {mode!r}")
        self.project = project
        self.directory: Path = Path(directory)
        self.mode = mode
        self._init = init
        self._wandb = _load("wandb", "Weights & Biases", "wandb")
        self._run: Any = None

    def open_now(self) -> None:
        """Start the run."""
        quiet = {"console": "off", "silent": True, "disable_git": True, "save_code": False}
        options = {"settings": self._wandb.Settings(**quiet), **self._init}
        try:
            self._run = self._wandb.init(
                project=self.project, dir=str(self.directory), mode=self.mode, reinit="create_new", **options
            )
        except (OSError, self._wandb.errors.Error) as error:
            raise ConfigError(f"W&B: no run in {self.directory}: {error}") from None
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, points: Sequence[Point]) -> None:
        """Log a row for each step, and a further one where a name is there twice."""
        row: dict[str, Any] = {}
        for point in points:
            if row and (row["step"] != point.step or point.tag in row):
                self._run.log(row)
                row = {}
            row["step"] = point.step
            row[point.tag] = point.value
        self._run.log(row)

    def close_now(self) -> None:
        """Finish the run."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()

    def abandon(self) -> None:
        """Forget the parent's run."""
        self._run = None


class MlflowSink(Bridge):
    """Logs metrics to an MLflow run.

    Delivered means: MLflow's store took them. Values that are not finite are logged as they are; trying again may log a
    point twice. Of a directory MLflow itself wants MLFLOW_ALLOW_FILE_STORE=true since version 3.

    Args:
        tracking_uri: a directory's path, or the URL of a tracking server.
        experiment: its name; made if it is missing.
        run_name: of the run; MLflow's choice otherwise.

    Raises:
        MissingExtra: mlflow (or mlflow-skinny) is not installed.
    """

    name = "mlflow"
    thread_name = "elastic-events mlflow"

    #: Metrics of one request, by MLflow's REST API, "Log Batch".
    MOST = 1000

    def __init__(
        self, tracking_uri: str | Path, experiment: str = "elastic-events", run_name: str | None = None
    ) -> None:
        super().__init__()
        self.tracking_uri: str = tracking_uri.absolute().as_uri() if isinstance(tracking_uri, Path) else tracking_uri
        self.experiment = experiment
        self.run_name = run_name
        self.run_id: str | None = None
        self._tracking = _load("mlflow.tracking", "MLflow", "mlflow")
        self._metric = import_module("mlflow.entities").Metric
        self._errors = import_module("mlflow.exceptions").MlflowException
        self._client: Any = None

    def open_now(self) -> None:
        """Find the experiment, or make it, and start a run."""
        self._look_for_server()
        try:
            self._client = self._tracking.MlflowClient(tracking_uri=self.tracking_uri)
            found = self._client.get_experiment_by_name(self.experiment)
            experiment = found.experiment_id if found else self._client.create_experiment(self.experiment)
            self.run_id = self._client.create_run(experiment, run_name=self.run_name).info.run_id
        except (OSError, self._errors) as error:
            raise ConfigError(without_login(f"MLflow: no run at {self.tracking_uri}: {error}")) from None

    def _look_for_server(self) -> None:
        """Find out within seconds that no server is there: MLflow's client would try for minutes."""
        parts = urlsplit(self.tracking_uri)
        if parts.scheme in ("http", "https"):
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            try:
                socket.create_connection((parts.hostname or "", port), LOOK).close()
            except OSError as error:
                raise TransientError(f"MLflow: no server answers at {parts.hostname}:{port}: {error}") from None

    def log(self, points: Sequence[Point]) -> None:
        """Log the points, a thousand a request."""
        metrics = [
            self._metric(_FOREIGN.sub("_", point.tag), point.value, point.time_ns // 1_000_000, point.step)
            for point in points
        ]
        for start in range(0, len(metrics), self.MOST):
            try:
                self._client.log_batch(self.run_id, metrics=metrics[start : start + self.MOST])
            except self._errors as error:
                reason = without_login(f"MLflow: {error}")
                if error.error_code != "INVALID_PARAMETER_VALUE":
                    raise TransientError(reason) from None
                raise PermanentError(reason) from None

    def close_now(self) -> None:
        """End the run."""
        client, self._client = self._client, None
        if client is not None and self.run_id is not None:
            with contextlib.suppress(OSError, self._errors):
                client.set_terminated(self.run_id)

    def abandon(self) -> None:
        """Forget the parent's run, which goes on there."""
        self._client = self.run_id = None


class Steps:
    """Which step a point belongs to. Plain state, used by one thread."""

    def __init__(self) -> None:
        self._marks: dict[str, deque[tuple[int, int]]] = {}  # process -> (monotonic time, step), ascending
        self._counts: dict[tuple[str, str], int] = {}

    def points(self, records: Sequence[Record]) -> list[Point]:
        """Return the metric points among `records`, after having learnt from all their events."""
        for record in records:
            if record.kind == "event" and record.name == "step.started":
                self._mark(record)
        return [point for record in records if record.kind == "metric" and (point := self._point(record)) is not None]

    def _mark(self, record: Record) -> None:
        metadata = record.fields[2]
        step = metadata.get("step") if isinstance(metadata, dict) else None
        if isinstance(step, int):
            process = record.context.process
            marks = self._marks.pop(process) if process in self._marks else deque(maxlen=MARKS)
            self._marks[process] = marks  # now the newest
            marks.append((record.monotonic_ns, step))
            if len(self._marks) > PROCESSES:
                del self._marks[next(iter(self._marks))]

    def _point(self, record: Record) -> Point | None:
        value = record.fields[0]
        try:
            number = float(value) if isinstance(value, int | float) else None
        except OverflowError:
            number = None
        if number is None:
            return None
        rank = record.context.rank
        # The rank goes in front: MLflow's files cannot have both `loss` and `loss/rank3`.
        tag = "/".join(filter(None, (record.channel, f"rank{rank}" if rank else "", record.name)))
        return Point(tag, number, self._step(record, tag), record.time_ns)

    def _step(self, record: Record, tag: str) -> int:
        # A roll-up passes the marks on as they are; its sums have the time of the last point, in a name of their own.
        marks = self._marks.get(record.context.process.removesuffix(SUFFIX))
        if marks:
            place = bisect_right(marks, (record.monotonic_ns, math.inf))
            return marks[max(place - 1, 0)][1]
        key = (record.context.process, tag)
        count = self._counts.pop(key, 0)
        self._counts[key] = count + 1
        if len(self._counts) > COUNTS:
            del self._counts[next(iter(self._counts))]
        return count


def from_url(url: SplitResult) -> Bridge:
    """Return the sink of a `tensorboard:`, `wandb:` or `mlflow:` URL; see the table above.

    Raises:
        ConfigError: the URL is wrong, and how.
        MissingExtra: the tracker's package is not installed.
    """
    options = Options(url)
    if url.scheme == "tensorboard":
        options.finish()
        return TensorBoardSink(file_path(url))
    if url.scheme == "wandb":
        return _wandb_from(url, options)
    return _mlflow_from(url, options)


def _wandb_from(url: SplitResult, options: Options) -> WandbSink:
    project = unquote(url.netloc or url.path.strip("/"))
    if not project or "@" in url.netloc:
        raise ConfigError("which W&B project? write wandb://PROJECT, without a login: W&B reads WANDB_API_KEY")
    directory, mode = options.text("dir", ".") or ".", options.text("mode", "offline") or "offline"
    name = options.text("name")
    options.finish()
    return WandbSink(project, directory, mode, **({"name": name} if name else {}))


def _mlflow_from(url: SplitResult, options: Options) -> MlflowSink:
    experiment = options.text("experiment", "elastic-events") or "elastic-events"
    name = options.text("name")
    options.finish()
    server = url.scheme.removeprefix("mlflow").removeprefix("+")
    where: str | Path = f"{server}://{url.netloc}{url.path}" if server else file_path(url)
    return MlflowSink(where, experiment, name)


def _load(module: str, what: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise MissingExtra(what, extra) from None
