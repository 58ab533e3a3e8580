"""`python -m benchmarks` leaves results that a program, a reader and a browser can open."""

import json
import sys
from xml.etree import ElementTree

import pytest

pytest.importorskip("rich")

from benchmarks import plots, stalled, survive
from benchmarks.__main__ import main, write


def test_a_quick_question_writes_json_and_markdown(tmp_path, monkeypatch):
    """A quick run of one question leaves valid JSON and its table, and both say that the figures mean nothing."""
    monkeypatch.setattr(survive, "SUBJECTS", ("ours, JSON Lines, handle_sigterm", "logging, FileHandler"))
    main(["--quick", "--only", "survive", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["quick"] is True
    assert [row["returns"] for row in found["rows"]["survive"]] == [500, 500]
    text = (tmp_path / "results.md").read_text()
    assert "its figures mean nothing" in text
    assert "| logging, FileHandler | 500 |" in text
    ElementTree.parse(tmp_path / "survive.svg")


def test_a_stuck_sink_of_ours_loses_only_what_it_counts():
    """With its handler hung, our emitter gets through, and what is lost is told to the record."""
    row = stalled._fresh("ours", 200_000, 10.0)  # more than the rings and the backlog hold, however fast the drain is
    assert not row["blocked"]
    assert row["emitted"] == 200_000
    told = row["told"].removeprefix("counted: ").split(", ")
    assert sum(int(part.split()[0].replace(",", "")) for part in told) == row["lost"] > 0
    assert row["held"] + row["lost"] == 200_000


def test_an_absent_peer_is_named(tmp_path):
    """A peer that is not installed stands below the table, never in silence."""
    kept = {"subject": "ours", "points": 1, **dict.fromkeys(survive.DEATHS, 1)}
    write(tmp_path, {"survive": [kept, {"subject": "gone", "absent": ""}]}, quick=False)
    assert "Not installed here: gone." in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("log", [False, True])
def test_a_plot_is_xml_whatever_its_labels(log):
    """Labels are escaped and every bar has its length within the picture."""
    root = ElementTree.fromstring(plots.bars("a < b", [("ours & <x>", 2.0, "2"), ("other", 800.0, "800")], log=log))
    widths = [float(bar.get("width")) for bar in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert 0 < widths[0] < widths[1] < plots.WIDTH - plots.LABELS


def test_the_bench_group_installs_what_the_peers_import():
    """Each distribution whose version the results name is in the `bench` group, or is ours or torch."""
    import tomllib
    from pathlib import Path

    from benchmarks.__main__ import PEERS

    group = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["dependency-groups"]["bench"]
    names = {entry.partition(";")[0].partition(">")[0].strip() for entry in group}
    assert set(PEERS) - {"anyio", "msgspec", "numpy", "torch"} <= names, sys.version
