"""`elastic-events export`: a trace for Perfetto, or tables."""

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click

from elastic_events.bus.errors import ConfigError
from elastic_events.bus.record import Kind, Record
from elastic_events.bus.text import counted
from elastic_events.cli.output import output, tell
from elastic_events.cli.reading import Skipped, choose, stories_of
from elastic_events.reading.builder import key_of
from elastic_events.reading.once import Each
from elastic_events.reading.perfetto import trace
from elastic_events.reading.source import read_records
from elastic_events.reading.story import Story
from elastic_events.reading.tables import CsvTable, ParquetTable, row
from elastic_events.sinks.files import refusal
from elastic_events.sinks.sqlite_schema import TABLES

__all__ = ("command",)

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_GROUP = 50_000  # rows that are held in memory


@click.command("export")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--perfetto", type=_FILE, metavar="FILE", help="Write a trace for ui.perfetto.dev.")
@click.option("--csv", "csv_folder", type=_FOLDER, metavar="DIR", help="Write a CSV file a kind of record into DIR.")
@click.option("--parquet", type=_FOLDER, metavar="DIR", help="Write a Parquet file a kind into DIR (extra: parquet).")
@click.option("--run", metavar="ID", help="Only this run; by default the last one as a trace, all as tables.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
def command(
    sources: tuple[str, ...],
    perfetto: Path | None,
    csv_folder: Path | None,
    parquet: Path | None,
    run: str | None,
    force: bool,
) -> None:
    """Write the run as a trace (--perfetto), or all records as tables (--csv, --parquet).

    The tables are events, rdzv_events, metrics and ledgers; what is no number or text in them is strict JSON.
    """
    if perfetto is None and csv_folder is None and parquet is None:
        raise ConfigError("say what to export: --perfetto FILE, --csv DIR or --parquet DIR")
    if perfetto is not None:
        _refuse(perfetto, force)
        story = choose(stories_of(sources), run)
        with output(perfetto) as file:
            file.writelines(piece.encode() for piece in trace(story))
        tell(f"wrote {perfetto}: open it in ui.perfetto.dev")
    if csv_folder is None and parquet is None:
        return
    only = None if run is None else _Only(choose(stories_of(sources), run))
    if csv_folder is not None:
        _tables(sources, csv_folder, CsvTable, force, only)
    if parquet is not None:
        _tables(sources, parquet, ParquetTable, force, only)


class _Only:
    """The records of one run, with those of its processes that did not know its id."""

    def __init__(self, story: Story) -> None:
        self._run = story.run_id
        self._processes = {key_of(process.context) for process in story.processes}

    def has(self, record: Record) -> bool:
        return record.context.run_id == self._run or key_of(record.context) in self._processes


class _Tables:
    """One file a kind, begun with the first record of its kind."""

    def __init__(self, folder: Path, table: type[CsvTable | ParquetTable], files: ExitStack) -> None:
        self.paths = {kind: folder / f"{name}{table.suffix}" for kind, name in TABLES.items()}
        self.counts = dict.fromkeys(TABLES, 0)
        self._table = table
        self._files = files
        self._open: dict[Kind, CsvTable | ParquetTable] = {}
        self._waiting: dict[Kind, list[tuple[Any, ...]]] = {kind: [] for kind in TABLES}

    def add(self, record: Record) -> None:
        waiting = self._waiting[record.kind]
        waiting.append(row(record))
        if len(waiting) >= _GROUP:
            self._write(record.kind)

    def finish(self) -> None:
        for kind in TABLES:
            if self._waiting[kind]:
                self._write(kind)
        for table in self._open.values():
            table.finish()

    def _write(self, kind: Kind) -> None:
        if kind not in self._open:
            self._open[kind] = self._table(self._files.enter_context(output(self.paths[kind])), kind)
        self._open[kind].write(self._waiting[kind])
        self.counts[kind] += len(self._waiting[kind])
        self._waiting[kind] = []


def _tables(
    sources: tuple[str, ...],
    folder: Path,
    table: type[CsvTable | ParquetTable],
    force: bool,
    only: "_Only | None",
) -> None:
    """Write all records, or those of one run."""
    skipped, each = Skipped(), Each()
    with ExitStack() as files:
        tables = _Tables(folder, table, files)
        for path in tables.paths.values():
            _refuse(path, force)
        if not folder.exists():
            files.callback(_remove_empty, folder)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise refusal(folder, error) from None
        for source in sources:
            for record in read_records(source, skipped):
                if (only is None or only.has(record)) and each.new(record):
                    tables.add(record)
        tables.finish()
    if not any(tables.counts.values()):
        raise skipped.nothing(sources)
    skipped.tell()
    told = ", ".join(counted(count, TABLES[kind].removesuffix("s")) for kind, count in tables.counts.items() if count)
    tell(f"wrote {told} to {folder}")


def _remove_empty(folder: Path) -> None:
    """Take back a directory into which nothing came."""
    with suppress(OSError):  # something did
        folder.rmdir()


def _refuse(path: Path, force: bool) -> None:
    if os.path.exists(path) and not force:
        raise ConfigError(f"{path} exists: name another place, or say --force to replace it")
