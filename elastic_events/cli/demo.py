"""`elastic-events demo`: a small elastic job that loses a worker, and what the records tell about it."""

import tempfile
from pathlib import Path

import anyio
import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from elastic_events.bus.errors import ConfigError
from elastic_events.bus.record import Record
from elastic_events.demo.launcher import Job
from elastic_events.reading.answers import retell
from elastic_events.reading.source import read_stories
from elastic_events.reading.summary_terminal import summary_terminal

__all__ = ("command",)


@click.command("demo")
@click.argument("database", type=click.Path(dir_okay=False, path_type=Path), default=Path("demo.db"))
@click.option("--workers", type=click.IntRange(2, 32), default=4, show_default=True, help="Worker processes.")
@click.option("--steps", type=click.IntRange(10, 100_000), default=400, show_default=True, help="Training steps.")
@click.option("--kill/--no-kill", default=True, show_default=True, help="Kill a worker with SIGKILL on the way.")
def command(database: Path, workers: int, steps: int, kill: bool) -> None:
    """Train a small model with several processes, kill one, recover, and keep every record in DATABASE."""
    if database.exists():
        raise ConfigError(f"{database} exists: name another file, or remove it")
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    with (
        tempfile.TemporaryDirectory(prefix="elastic-events-") as folder,
        Progress(*columns, TimeElapsedColumn(), console=console) as progress,
    ):
        bar = progress.add_task("attempt 0", total=steps, loss="")

        trained: dict[str, list[float]] = {"loss": [], "accuracy": []}

        def watch(record: Record) -> None:
            if record.name in trained:
                trained[record.name].append(record.fields[0])
            if record.name == "loss" and record.context.rank == 0:
                progress.update(bar, loss=f"loss {record.fields[0]:.3f}")
            elif record.name == "step.ended" and record.context.rank == 0:
                progress.update(
                    bar, completed=record.fields[2]["step"] + 1, description=f"attempt {record.context.restart}"
                )
            elif record.name == "worker.failed" and record.fields[2]["first"]:
                facts = record.fields[2]
                console.print(
                    f"rank {facts['rank']} died of {facts.get('signal') or facts.get('exit_code')}; the group restarts"
                )

        victim = (min(2, workers - 1), steps * 7 // 12) if kill else None
        job = Job(database.absolute(), Path(folder), workers=workers, steps=steps, kill=victim, watch=watch)
        anyio.run(job.run)
    _tell(console, database, trained)


def _tell(console: Console, database: Path, trained: dict[str, list[float]]) -> None:
    """Show what the records say, and what became of the model."""
    story = read_stories([database])[-1]
    console.print(summary_terminal(retell(story, [database])))
    losses, accuracies = trained["loss"], trained["accuracy"]
    if losses and accuracies:
        console.print(
            f"Loss {losses[0]:.3f} at the start, {losses[-1]:.3f} at the end; "
            f"{accuracies[-1]:.0%} of the flowers are classified right.",
            highlight=False,
        )
    console.print(
        f"All of it is in {database}: try  elastic-events timeline {database}  or  elastic-events goodput {database}",
        highlight=False,
    )
