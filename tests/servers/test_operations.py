"""The alert rules and the dashboard under docs/operations: they fire when they should, and name what is exported."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from elastic_events.bus.ledger import BusStats, LaneStats
from elastic_events.sinks.prometheus import PrometheusSink
from tests.missing import missing
from tests.servers.conftest import free_port, wait_for_port
from tests.servers.factory import event, metric
from tests.servers.test_prometheus import CONFIG, ask, opened

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations"
ALERTS = OPERATIONS / "alerts.yml"
DASHBOARD = OPERATIONS / "dashboard.json"


def stats() -> BusStats:
    """Return a ledger of which nothing is 0."""
    lane = LaneStats(9, 5, 1, {"overwritten": 2}, 0, 1, 3, "closed", 0, 0, "", {"OSError": 1})
    return BusStats("open", 9, 0, 0, {"sqlite": lane}, 0, "")


def sink_with_everything() -> PrometheusSink:
    """Return a sink that exports each of its series at least once."""
    sink = PrometheusSink(0, stats=stats)
    anyio.run(sink.write, [event(1), event(2, "step.ended", {"step": 1}), metric(3)])
    return sink


def exported() -> dict[str, set[str]]:
    """Return the labels of each series that a sink exports."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families("".join(sink_with_everything().render())):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> list[str]:
    """Return every expression of the dashboard."""
    board = json.loads(DASHBOARD.read_text())
    queries = [one["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    return queries + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_alerts_fire_when_they_should() -> None:
    """promtool runs each rule over made-up series: it fires for what it is for, and not for what looks like it."""
    program = shutil.which("promtool")
    if program is None:
        missing("no promtool in PATH (Debian's package prometheus has it)")
    tests = Path(__file__).with_name("alerts_test.yml")
    done = subprocess.run([program, "test", "rules", tests], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_test() -> None:
    """No rule is there that the file for promtool does not expect to fire at some time."""
    named = set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    tested = Path(__file__).with_name("alerts_test.yml").read_text()
    assert named
    assert all(re.search(rf"alertname: {name}\n +exp_alerts:\n", tested) for name in named)


@pytest.mark.parametrize("expression", [*expressions(), ALERTS.read_text()])
def test_what_is_named_is_exported(expression: str) -> None:
    """Rules and panels name series that the sink exports, and labels that these have."""
    series = exported()
    names = set(re.findall(r"\belastic_\w+", expression))
    assert names
    assert names <= set(series)
    labels = {label for by in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in by.split(", ")}
    labels |= set(re.findall(r"(\w+)=~?\"", expression))
    assert labels <= set().union(*(series[name] for name in names)) | {"le"}


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_prometheus_server_answers_every_panel(tmp_path: Path) -> None:
    """A real Prometheus that scrapes the sink loads the rules, and has an answer for each panel."""
    program = shutil.which("prometheus")
    if program is None:
        missing("no prometheus in PATH (Debian's package has one)")
    async with opened(stats=stats) as sink:
        port = free_port()
        rules = f"rule_files: [{ALERTS}]\n"
        (tmp_path / "p.yml").write_text(rules + CONFIG.format(port=sink.port))
        command = [program, f"--config.file={tmp_path}/p.yml", f"--web.listen-address=127.0.0.1:{port}"]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen([*command, f"--storage.tsdb.path={tmp_path}/db"], stdout=log, stderr=log)
        try:
            await anyio.to_thread.run_sync(wait_for_port, port, process)
            asked = {_filled(one) for one in expressions() if not one.startswith("label_values")}
            step = 1
            with anyio.fail_after(60):
                while asked:  # the server scrapes on a timer of its own, and a rate takes two scrapes
                    await sink.write([event(2 * step, metadata={"step": step}), metric(step)])
                    await sink.write([event(2 * step + 1, "step.ended", {"step": step})])
                    step += 1
                    for one in list(asked):
                        if await anyio.to_thread.run_sync(ask, port, one):
                            asked.discard(one)
                    await anyio.sleep(0.05)
        finally:
            process.terminate()
            process.wait(20)


def _filled(expression: str) -> Any:
    return expression.replace("$run", ".*").replace("$metric", "loss")
