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
import posixpath
import re
import socket
import sys
from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from elastic_events.bus.errors import ConfigError, MissingExtra, PermanentError, TransientError
from elastic_events.bus.record import Record
from elastic_events.sinks.blocking import BlockingSink
from elastic_events.sinks.event_file import EventFile
from elastic_events.sinks.files import failure, from_root
from elastic_events.sinks.options import Options, file_path, without_login
from elastic_events.sinks.points import Point, Steps

__all__ = ("MlflowSink", "Point", "TensorBoardSink", "WandbSink", "from_url")

#: Seconds in which a tracking server takes a connection.
LOOK = 5.0

#: Steps that a tracker can hold: those of 64 bits.
_STEPS = range(-(2**63), 2**63)

# mlflow.utils.validation: what a metric's name may not hold, and how long it may be
_FOREIGN = re.compile(r"[^\w\-. /]", re.ASCII)
_LONGEST = 250


class Bridge(BlockingSink):
    """What the bridges share: which point gets which step and name. All else runs in a thread of the sink's own."""

    name: str

    _most = sys.maxsize  # points of one call

    def __init__(self) -> None:
        super().__init__()
        self._steps = Steps()
        self._known: dict[int, Record] = {}  # the last batch, by `id()`, which is a record's own while it is held here
        self._points: dict[int, Point] = {}  # of its records, what is still to be logged

    def write_now(self, records: Sequence[Record]) -> None:
        """Log the metric points among `records`.

        A batch that comes again, whole, in halves or in other company, keeps its steps, and what the tracker took of it is
        not logged twice.

        Raises:
            PermanentError: the tracker can never take some of them; the others are logged.
        """
        if new := [record for record in records if id(record) not in self._known]:
            old = {id(record): point for record in records if (point := self._points.get(id(record))) is not None}
            self._known, self._points = {id(record): record for record in records}, old | self._steps.points(new)
        refused: dict[int, str] = {}
        fit: list[int] = []
        for one in map(id, records):
            if (point := self._points.get(one)) is not None:
                if reason := self._refusal(point):
                    refused[one] = reason
                else:
                    fit.append(one)
        for start in range(0, len(fit), self._most):
            part = fit[start : start + self._most]
            self.log([self._points[one] for one in part])
            for one in part:
                del self._points[one]
        if refused:
            reasons = "; ".join(list(dict.fromkeys(refused.values()))[:3])
            raise PermanentError(reasons, [record for record in records if id(record) in refused])

    def _refusal(self, point: Point) -> str:
        """Return why the tracker can never take `point`; "" where it can."""
        return "" if point.step in _STEPS else f"{self.name}: the step {point.step} is no number of 64 bits"

    @abstractmethod
    def log(self, points: Sequence[Point]) -> None:
        """Give the points to the tracker; all of them are new to it, unless this raised."""


class TensorBoardSink(Bridge):
    """Writes scalars to a TensorBoard event file.

    Delivered means: written to the file, by one write a batch. A failed write is taken back whole. Of a `writer` it means:
    handed to that, and trying again may write a point twice.

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
        self.directory: Path = from_root(directory)
        self._writer = writer
        self._file = EventFile(self.directory) if writer is None else None

    def open_now(self) -> None:
        """Make the file."""
        if self._file is not None:
            try:
                self._file.open()
            except OSError as error:
                told = failure(self.directory, error)
                raise type(told)(f"TensorBoard: {told}") from None

    def log(self, points: Sequence[Point]) -> None:
        """Add the scalars."""
        if self._file is not None:
            self._file.add(points)
            return
        for point in points:
            self._writer.add_scalar(point.tag, point.value, point.step, point.time_ns / 1e9)
        self._writer.flush()

    def close_now(self) -> None:
        """Close the file; a writer is the user's to close."""
        if self._file is not None:
            self._file.close()

    def abandon(self) -> None:
        """Close the child's copy of the descriptor."""
        self.close_now()


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
        self.directory: Path = from_root(directory)
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
            # W&B's own columns begin so, and `step` is ours.
            name = f"metric/{point.tag}" if point.tag == "step" or point.tag.startswith("_") else point.tag
            if row and (row["step"] != point.step or name in row):
                self._run.log(row)
                row = {}
            row["step"] = point.step
            row[name] = point.value
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
    _most = MOST

    def __init__(
        self, tracking_uri: str | Path, experiment: str = "elastic-events", run_name: str | None = None
    ) -> None:
        super().__init__()
        self.tracking_uri: str = from_root(tracking_uri).as_uri() if isinstance(tracking_uri, Path) else tracking_uri
        self.experiment = experiment
        self.run_name = run_name
        self.run_id: str | None = None
        self._in_files = urlsplit(self.tracking_uri).scheme in ("", "file")
        self._names: set[str] = set()  # of the metrics of the run, and the directories that they are in
        self._folders: set[str] = set()
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
            self._names, self._folders = set(), set()
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

    def _refusal(self, point: Point) -> str:
        """Return why MLflow can never take `point`. It says so itself, but of all points of a request, and tries some of them."""
        name = _FOREIGN.sub("_", point.tag)
        if len(name) > _LONGEST or posixpath.normpath(name) != name or name.startswith(("/", "..")) or name == ".":
            return f"MLflow takes no metric of the name {name[:80]!r}: a path of {_LONGEST} characters at most, without . and .."
        if self._in_files and name not in self._names:
            folders = set(map(str, PurePosixPath(name).parents))
            if name in self._folders or folders & self._names:
                other = next(iter(folders & self._names), f"{name}/...")
                return f"MLflow's directory cannot hold the metrics {name!r} and {other!r} both: rename one"
            self._names.add(name)
            self._folders |= folders
        return super()._refusal(point)

    def log(self, points: Sequence[Point]) -> None:
        """Log the points, by one request."""
        metrics = [
            self._metric(_FOREIGN.sub("_", point.tag), point.value, point.time_ns // 1_000_000, point.step)
            for point in points
        ]
        try:
            self._client.log_batch(self.run_id, metrics=metrics)
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
