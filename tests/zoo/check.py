"""Every answer about a job against what really happened in it."""

from typing import Any

import pytest

from tests.zoo.play import Play, Said
from tests.zoo.truth import Attempt, Truth, Worker

__all__ = ("check",)

Answer = dict[str, Any]


def check(play: Play, said: Said, answers: dict[str, Answer]) -> None:
    """Compare summary, timeline, goodput and slow with the truth."""
    truth = Truth(play.folder)
    for name, compare in (("summary", summary), ("timeline", timeline), ("goodput", goodput), ("slow", slow)):
        if name not in said.unchecked:
            compare(play, said, truth, answers[name])


def summary(play: Play, said: Said, truth: Truth, answer: Answer) -> None:
    """Outcome, attempts, first failures, victims, departures, last steps and last words."""
    assert answer["outcome"] == said.outcome
    assert [row["outcome"] for row in answer["attempts"]] == said.attempts
    worlds = [attempt.world for attempt in truth.attempts]
    sizes = [row["world_size"] for row in answer["attempts"]]
    assert sizes == worlds or ("world" in said.may and set(sizes) == {None})
    assert answer["ranks"] <= max(worlds, default=0)
    restarts = said.attempts[:-1].count("failed") if said.restarts == -1 else said.restarts
    assert answer["restarts"] == restarts
    assert {one["node"]: one["how"] for one in answer["departed"]} == {
        play.node_of(node): how for node, how in said.gone.items()
    }
    for row, attempt in zip(answer["attempts"], truth.attempts, strict=True):
        _attempt(play, said, answer, row, attempt)
    if "words" not in said.unchecked:
        _words(answer, truth)
    if "steps" not in said.unchecked:
        steps = {rank: one["step"] for one in answer["last_steps"] for rank in one["ranks"]}
        wanted = truth.last_steps()
        assert steps == (wanted if any(step is not None for step in wanted.values()) else {})


def _attempt(play: Play, said: Said, answer: Answer, row: Answer, attempt: Attempt) -> None:
    first, found = attempt.first, row["first_failure"]
    if first is None:
        assert found is None
    elif found is None and "first" in said.may:
        assert first.rank in [suspect["rank"] for suspect in row["suspects"]]
    else:
        assert found is not None, f"suspects: {row['suspects']}"
        assert (found["rank"], found["pid"], found["node"]) == (first.rank, first.pid, play.node_of(first.node))
        assert (found["signal"] or f"exit code {found['exit_code']}") == first.cause
        _near(play, said, answer, found["at_s"], first)
    if "victims" not in said.unchecked:
        died = sum(w.died is not None for w in attempt.workers.values())
        breaks = attempt.breaks
        assert died <= row["failed"] <= died + breaks
        assert len(attempt.victims) <= row["victims"] <= len(attempt.victims) + breaks
    reached = [w.last_step for w in attempt.workers.values() if w.last_step is not None]
    if "steps" not in said.unchecked:
        assert row["last_step"] == max(reached, default=None)


def _near(play: Play, said: Said, answer: Answer, at_s: float, worker: Worker) -> None:
    assert worker.died is not None
    died_s = _since(answer, worker.died)
    assert died_s - play.sharp < at_s < died_s + said.exits_s + play.sharp


def _since(answer: Answer, time_ns: int) -> float:
    return float(time_ns - answer["began_ns"]) / 1e9


def _words(answer: Answer, truth: Truth) -> None:
    wanted = next((a.first for a in truth.attempts if a.first is not None and a.first.word), None)
    if wanted is None:
        assert answer["last_words"] == []
        return
    first = next(row for row in answer["attempts"] if row["first_failure"] or row["suspects"])
    if first["first_failure"] is None:
        assert answer["last_words_of"] in [suspect["rank"] for suspect in first["suspects"]]
        return
    assert answer["last_words_of"] == wanted.rank
    assert f"word {wanted.word}" in [word["value"] for word in answer["last_words"]]


def timeline(play: Play, said: Said, truth: Truth, answer: Answer) -> None:
    """A band for each attempt; how each rank ended, and when it began to train and to save."""
    assert answer["outcome"] == said.outcome
    assert [band["outcome"] for band in answer["bands"]] == said.attempts
    rows = [row for row in answer["rows"] if row["kind"] == "rank"]
    assert len([row for row in answer["rows"] if row["kind"] == "node"]) == max(1, len(play.agents))
    boxes = [box for row in rows for box in row["boxes"]]
    marks = [mark for row in rows for mark in row["marks"]]
    for number, attempt in enumerate(truth.attempts):
        own = [mark for mark in marks if mark["attempt"] == number]
        first = attempt.first
        firsts = [mark for mark in own if mark["kind"] == "first"]
        assert "first" in said.may or len(firsts) == (first is not None)
        for mark in firsts:
            assert first is not None
            assert mark["label"].startswith(f"rank {first.rank}: {first.cause}")
            _near(play, said, answer, mark["at_s"], first)
        if "victims" not in said.unchecked:
            victims = sum(mark["kind"] == "victim" for mark in own)
            assert len(attempt.victims) <= victims <= len(attempt.victims) + attempt.breaks
        begun = [worker.steps[0] for worker in attempt.workers.values() if worker.steps]
        if "steps" not in said.unchecked:
            found = sorted(at for row in rows if (at := _trained(row, number)) is not None)
            earliest = sorted(_since(answer, step.before) - 0.05 for step in begun)
            latest = sorted(_since(answer, step.begun) + 0.05 for step in begun)
            assert len(found) == len(begun)
            assert all(low <= at <= high for low, at, high in zip(earliest, found, latest, strict=True))
        saved = [box for box in boxes if box["attempt"] == number and box["state"] == "checkpoint"]
        if "saves" not in said.unchecked:
            assert len(saved) == sum(len(worker.saves) for worker in attempt.workers.values())


def _trained(row: Answer, attempt: int) -> float | None:
    """When a rank began to train."""
    states = ("training", "lost")
    return min((b["start_s"] for b in row["boxes"] if b["attempt"] == attempt and b["state"] in states), default=None)


def goodput(play: Play, said: Said, truth: Truth, answer: Answer) -> None:
    """The buckets sum up to the wall time; those that workers know of are right within 2 % of it."""
    buckets = {bucket["name"]: bucket["seconds"] for bucket in answer["buckets"]}
    assert sum(buckets.values()) == pytest.approx(answer["wall_s"], abs=1e-6)
    if not any(worker.steps for attempt in truth.attempts for worker in attempt.workers.values()):
        assert answer["ettr"] is None
        return
    for name in ("productive", "checkpoint", "lost"):
        if name not in said.unchecked:
            # What each failure cut off ends with a death, whose time is as sharp as that.
            cut = (play.sharp + said.exits_s) * max(1, sum(attempt.first is not None for attempt in truth.attempts))
            late = 0.02 * answer["wall_s"] + (cut if name == "lost" else 0.05)
            least, most = truth.seconds(name)
            assert least - late <= buckets[name] <= most + late, name


def slow(play: Play, said: Said, truth: Truth, answer: Answer) -> None:
    """Who hangs and who waits, who went quiet, and who holds up the others."""
    hangs = [
        (set(hang["waiting"]), {rank for lag in hang["behind"] for rank in lag["ranks"]}, lag_place(hang))
        for hang in answer["hangs"]
    ]
    assert hangs == said.hangs
    if not said.hangs and "quiet" not in said.unchecked:
        assert answer["quiet"] == []
    if said.stragglers:
        assert {one["rank"]: one["straggler"] for one in answer["ranks"] if one["straggler"]} == said.stragglers


def lag_place(hang: Answer) -> str:
    """Where those are that the others wait for."""
    return " and ".join(sorted({lag["place"] for lag in hang["behind"]}))
