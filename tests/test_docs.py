"""The documentation keeps its word: tests that it names exist, every public name is in it, its files run."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from elastic_events.bus.context import VARIABLES
from elastic_events.sinks.urls import EXAMPLES, open_url, parse_sinks
from tests.programs import environment
from tests.test_face import public_names

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OPERATIONS = DOCS / "operations"

#: Public, and in the reference under another name: torch's modules have theirs twice.
_ELSEWHERE = ("elastic_events.api", "elastic_metrics.api")


def text(name: str) -> str:
    """Return a page."""
    return (DOCS / name).read_text("utf-8")


def test_every_promise_names_tests_that_exist() -> None:
    """The twelve promises are printed, each with tests, and each of these tests is there."""
    sections = re.split(r"^## (?=\d+\. )", text("promises.md"), flags=re.MULTILINE)[1:]
    assert [int(section.partition(".")[0]) for section in sections] == list(range(1, 13))
    for section in sections:
        named = re.findall(r"`(tests/\S+?\.py)::(\w+)`", section)
        assert named, section
        for path, name in named:
            tree = ast.parse((ROOT / path).read_text("utf-8"))
            defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
            assert name in defined, f"{path} has no {name}"


def test_every_file_that_a_page_names_exists() -> None:
    """A page that sends its reader to a file of the repository names one that is there."""
    for path in (*DOCS.glob("*.md"), ROOT / "CONTRIBUTING.md"):
        for name in re.findall(
            r"`((?:elastic_events|elastic_metrics|tests|benchmarks|bus|recorder|sinks)/[\w/.]*)`", path.read_text()
        ):
            assert (ROOT / name).exists() or (ROOT / "elastic_events" / name).exists(), f"{path.name}: {name}"


def test_every_public_name_is_in_the_reference() -> None:
    """The page of the API has each public name."""
    listed = set(re.findall(r"^::: (\S+)$", text("api.md"), re.MULTILINE))
    assert {name for name in public_names() if not name.startswith(_ELSEWHERE)} <= listed


def test_every_sink_and_option_is_documented() -> None:
    """Each scheme has its row, and each option that a sink's URL takes is named in the page."""
    page = text("handlers-and-sinks.md")
    for scheme in EXAMPLES:
        assert f"{scheme}:" in page, scheme
    for path in (ROOT / "elastic_events/sinks").glob("*.py"):
        for option in re.findall(r"options\.(?:text|integer|size|seconds|flag)\(\"(\w+)\"", path.read_text("utf-8")):
            assert f"`{option}`" in page, f"{path.name}: {option}"


def test_every_variable_is_documented() -> None:
    """Each environment variable that the package reads is in the page about the environment."""
    page = text("launchers.md")
    for names in VARIABLES.values():
        for name in names:
            assert f"`{name}`" in page, name
    internal = {"ELASTIC_EVENTS_REQUESTS"}  # from a process to those that it starts
    for path in (ROOT / "elastic_events").rglob("*.py"):
        for name in set(re.findall(r"\"(ELASTIC_EVENTS_[A-Z_]+)\"", path.read_text("utf-8"))) - internal:
            assert f"`{name}`" in page, f"{path.name}: {name}"


def test_the_batch_script_runs(tmp_path: Path) -> None:
    """With stand-ins for Slurm and torchrun, the script delivers what was left, and starts torchrun with its node's sink."""
    left = "import os, elastic_metrics; elastic_metrics.put_metric('left', 1); os._exit(0)"
    recorders = tmp_path / "recorders"
    environ = environment(ELASTIC_EVENTS_DIR=str(recorders))
    subprocess.run([sys.executable, "-c", left], env=environ, check=True, timeout=60)
    for name, script in {
        "scontrol": "echo node-a; echo node-b",
        "srun": 'SLURM_NODEID=1 "$@"',
        "torchrun": 'echo "$ELASTIC_EVENTS_SINKS"; echo "$@"',
        "elastic-events": f'exec {sys.executable} -m elastic_events "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o700)
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_NNODES": "2",
        "RUNS": str(tmp_path / "runs"),
    }
    done = subprocess.run(
        ["sh", str(OPERATIONS / "train.sbatch")],
        cwd=tmp_path,
        env={**environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    url, arguments = done.stdout.splitlines()[-2:]
    assert url == f"jsonl:///{tmp_path}/runs/slurm-7-1.jsonl"
    open_url(url)
    assert "--nnodes=2" in arguments
    assert "--rdzv-endpoint=node-a:29500" in arguments


def test_the_kubernetes_job_is_whole() -> None:
    """The manifest parses; what it mounts it has, and what it sets are variables that are read."""
    service, job = yaml.safe_load_all((OPERATIONS / "job.yaml").read_text("utf-8"))
    pod = job["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["metadata"]["name"] == pod["spec"]["subdomain"]
    (container,) = pod["spec"]["containers"]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["spec"]["volumes"]}
    for one in container["env"]:
        assert f"`{one['name']}`" in text("launchers.md")


def test_the_unit_is_accepted_by_systemd() -> None:
    """`systemd-analyze verify` has nothing to say, and the sink's URL is one."""
    unit = OPERATIONS / "elastic-events-collect.service"
    (url,) = re.findall(r'^ExecStart=.* "(.+)"$', unit.read_text("utf-8"), re.MULTILINE)
    assert parse_sinks(url) == [url]
    open_url(url)
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze")
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit.name in line]) == (0, [])


def test_twenty_questions_are_two_clicks_away() -> None:
    """README leads to the index, and that to an answer for each of 20 things that readers look for."""
    assert "(docs/index.md)" in (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| .*\? \| (.*) \|$", text("index.md"), re.MULTILINE)
    assert len(rows) >= 20
    assert all(re.search(r"\]\(\S+\.(md|ipynb)", row) for row in rows)
