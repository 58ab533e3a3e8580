"""TensorBoard's event file: a record a scalar, in the frames of TensorFlow's record files."""

import os
import re
import socket
import struct
import time
from collections.abc import Sequence
from importlib import import_module
from itertools import count
from pathlib import Path

from elastic_events.bus.errors import MissingExtra
from elastic_events.sinks.files import open_private
from elastic_events.sinks.points import Point

__all__ = ("EventFile",)

_FOREIGN = re.compile(r"[^-/\w.]")  # what TensorFlow lets no tag hold

_numbers = count()


class EventFile:
    """Appends scalars to a file of its own in `directory`, those of a call by one write, all or none of them.

    tensorboardX's own writer has a queue and a thread behind it, which a full disk ends: what is added then hangs for ever.
    Format: tensorflow.org, "TFRecords format details" and event.proto.

    Raises:
        MissingExtra: tensorboardX, which has the messages, is not installed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._descriptor = -1
        self._end = 0  # bytes of the file: whole frames
        try:
            self._messages = import_module("tensorboardX.proto.event_pb2")
            self._summaries = import_module("tensorboardX.proto.summary_pb2")
            self._sum = import_module("tensorboardX.record_writer").masked_crc32c
        except ImportError:
            raise MissingExtra("TensorBoard", "tensorboard") from None

    def open(self) -> None:
        """Make the file.

        Raises:
            OSError: why not.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        # Of a name that no other process has, nor this one a second ago.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        path = self.directory / name
        self._descriptor = open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        self._end = 0
        try:
            self._append([self._messages.Event(wall_time=time.time(), file_version="brain.Event:2")])
        except BaseException:
            self.close()
            path.unlink(missing_ok=True)  # or each attempt while the disk is full would leave one
            raise

    def add(self, points: Sequence[Point]) -> None:
        """Append the scalars, or raise and leave the file as it was.

        Raises:
            OSError: as a write does.
        """
        if self._descriptor >= 0 and not os.fstat(self._descriptor).st_nlink:
            self.close()  # somebody removed it: what is written there, nobody would ever read
        if self._descriptor < 0:
            self.open()
        self._append([self._scalar(point) for point in points])

    def close(self) -> None:
        """Close the file; also twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _scalar(self, point: Point) -> object:
        value = self._summaries.Summary.Value(tag=_FOREIGN.sub("_", point.tag).lstrip("/"), simple_value=point.value)
        summary = self._summaries.Summary(value=[value])
        return self._messages.Event(wall_time=point.time_ns / 1e9, step=point.step, summary=summary)

    def _append(self, events: Sequence[object]) -> None:
        data = b"".join([self._frame(event.SerializeToString()) for event in events])  # type: ignore[attr-defined]
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except BaseException:
            # Behind half a frame a reader reads nothing: where it cannot be taken back, the next write begins another file.
            try:
                os.ftruncate(self._descriptor, self._end)
            except OSError:
                self.close()
            raise
        self._end += len(data)

    def _frame(self, data: bytes) -> bytes:
        length = struct.pack("<Q", len(data))
        return length + struct.pack("<I", self._sum(length)) + data + struct.pack("<I", self._sum(data))
