"""`python -m benchmarks`: every question, in about ten minutes; `--quick`: in one, and its figures mean nothing.

Writes `results.json`, `results.md` and the plots into the folder named by `--out`. `--only NAME` asks one question.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks import collector, drain, emit, fleet, footprint, interference, stalled, survive, values
from benchmarks.measure import Row
from benchmarks.plots import PLOTS

QUESTIONS: dict[str, Any] = {
    "emit": emit,
    "values": values,
    "stalled": stalled,
    "interference": interference,
    "survive": survive,
    "drain": drain,
    "fleet": fleet,
    "collector": collector,
    "footprint": footprint,
}

#: Distributions whose versions are written beside the results.
PEERS = (
    "blinker", "bubus", "culsans", "datadog", "janus", "loguru", "msgspec", "anyio", "numpy", "opentelemetry-sdk",
    "picologging", "prometheus_client", "pyee", "sentry-sdk", "structlog", "tensorboardX", "torch",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Ask the questions, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run of a minute")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    parser.add_argument("--only", action="append", choices=sorted(QUESTIONS), help="ask this question; repeatable")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    found: dict[str, list[Row]] = {}
    with Progress(console=console) as progress:
        task = progress.add_task("", total=len(options.only or QUESTIONS))
        for name in options.only or QUESTIONS:
            progress.update(task, description=name)
            found[name] = QUESTIONS[name].run(quick=options.quick)
            write(options.out, found, options.quick)  # a run that is cut short keeps what it has
            progress.advance(task)
    print(f"{options.out / 'results.md'}", file=sys.stderr)


def write(folder: Path, found: dict[str, list[Row]], quick: bool) -> None:
    """Write the results as JSON, Markdown and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine() | {"quick": quick}
    (folder / "results.json").write_text(json.dumps(about | {"rows": found}, indent=1) + "\n")
    tables = [QUESTIONS[name].report(answer) for name, answer in found.items()]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    head = [
        "# Results",
        f"{about['date']}. {about['cores']} cores, {about['processor']}, {about['system']}, {about['python']}.",
        f"Versions: {versions}.",
        *(["**A quick run: its figures mean nothing.**"] if quick else []),
    ]
    (folder / "results.md").write_text("\n\n".join([*head, *tables]) + "\n")
    for name, of_question in PLOTS.items():
        for file, draw in of_question.items() if name in found else ():
            (folder / f"{file}.svg").write_text(draw(found[name]))


def machine() -> dict[str, Any]:
    """Say in words what this was measured on, without names of hosts or users."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": names[0] if names else platform.machine(),
        "system": platform.system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: _version(name) for name in sorted(PEERS, key=str.lower)},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
