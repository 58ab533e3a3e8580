"""Records as flat tables, one a kind, for spreadsheets and data frames."""

import csv
import io
import re
from typing import IO, Any

from elastic_events.bus.context import Context
from elastic_events.bus.errors import MissingExtra
from elastic_events.bus.record import Kind, Record
from elastic_events.sinks.stored import FIELDS, strict_json

__all__ = ("COLUMNS", "CsvTable", "ParquetTable", "row")

_HEAD = ("id", "seq", "time_ns", "monotonic_ns", "name", "channel")
_CONTEXT = Context.__struct_fields__
_NUMBERS = frozenset(
    {"seq", "time_ns", "monotonic_ns", "pid", "rank", "local_rank", "world_size", "node_rank", "restart"}
)

_INT64 = range(-(2**63), 2**63)

#: Kind -> the columns of its table. `value` of a metric is its number, where it is one, `value_json` whatever it was.
COLUMNS: dict[Kind, tuple[str, ...]] = {
    kind: (
        *_HEAD,
        *(f"event_{name}" if name in _CONTEXT else name for name in names),
        *(("value_json",) if kind == "metric" else ()),
        *_CONTEXT,
        "recovered",
    )
    for kind, names in FIELDS.items()
}


# What begins a formula, but for what is a number in JSON.
_FORMULA = re.compile(r"[=+@\t\r]|-(?!\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$)")


def row(record: Record) -> tuple[Any, ...]:
    """Return a record as its table has it: numbers, text and None; what is neither is strict JSON."""
    head = (record.id, record.seq, record.time_ns, record.monotonic_ns, record.name, record.channel)
    if record.kind == "metric":
        value = record.fields[0]
        payload: tuple[Any, ...] = (_number(value), strict_json(value).decode())
    else:
        payload = tuple(v if v is None or isinstance(v, str) else strict_json(v).decode() for v in record.fields)
    context = record.context
    return (*map(_plain, head), *payload, *(getattr(context, name) for name in _CONTEXT), record.recovered)


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:  # hundreds of digits: they are in `value_json`
        return None


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int) else str(value)


def _inert(value: Any) -> Any:
    return f"'{value}" if type(value) is str and _FORMULA.match(value) else value


class CsvTable:
    """One kind's table as CSV (RFC 4180): UTF-8, quoted where needed, None as an empty field.

    A text that a spreadsheet would take for a formula, and run, gets an apostrophe in front (OWASP, "CSV Injection").
    """

    suffix = ".csv"

    def __init__(self, file: IO[bytes], kind: Kind) -> None:
        self._text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
        self._writer = csv.writer(self._text)
        self._writer.writerow(COLUMNS[kind])

    def write(self, rows: list[tuple[Any, ...]]) -> None:
        """Add rows."""
        self._writer.writerows([*map(_inert, row)] for row in rows)

    def finish(self) -> None:
        """Write what is held back; the file stays open."""
        self._text.flush()
        self._text.detach()


class ParquetTable:
    """One kind's table as Parquet, a row group a call of `write`.

    Raises:
        MissingExtra: pyarrow is not there.
    """

    suffix = ".parquet"

    def __init__(self, file: IO[bytes], kind: Kind) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise MissingExtra("Parquet", "parquet") from None
        self._arrow = pyarrow
        self._schema = pyarrow.schema([(name, _type(pyarrow, name)) for name in COLUMNS[kind]])
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema)

    def write(self, rows: list[tuple[Any, ...]]) -> None:
        """Add rows."""
        columns = zip(zip(*rows, strict=True), self._schema, strict=True)
        arrays = [self._array(column, field.type) for column, field in columns]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))

    def _array(self, column: tuple[Any, ...], kind: Any) -> Any:
        try:
            return self._arrow.array(column, kind)
        except (OverflowError, self._arrow.ArrowInvalid):  # integers beyond 64 bits, from a file of others
            return self._arrow.array([value if value in _INT64 else None for value in column], kind)

    def finish(self) -> None:
        """Write the end of the file, which stays open."""
        self._writer.close()


def _type(arrow: Any, name: str) -> Any:
    if name in _NUMBERS:
        return arrow.int64()
    if name == "value":
        return arrow.float64()
    return arrow.bool_() if name == "recovered" else arrow.string()
