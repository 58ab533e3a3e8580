"""Which steps of the job those are that were observed in each of its processes."""

import itertools

import pytest

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record, record_of
from elastic_events.reading.buckets import goodput, headline
from elastic_events.reading.builder import build
from elastic_events.reading.overview import summary
from elastic_events.reading.story import Process, Story

SECOND = 10**9


class Job:
    """Records of a job of one rank, a second apart."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._now = itertools.count(1000)
        self._seq = itertools.count()

    def say(self, process: str, name: str, **metadata: object) -> None:
        """Record an event: of the process, or of the agent."""
        at = next(self._now) * SECOND
        agent = process == "agent"
        context = Context("job", process, "host", 1 if agent else 2 + ord(process), None if agent else 0)
        source = "AGENT" if agent else "WORKER"
        self.records.append(
            record_of("event", next(self._seq), at, at, name, "null", (source, 0, metadata), context, 0)
        )

    def attempt(self, number: int, process: str, steps: int, load: str = "", save: str = "") -> None:
        """One attempt that loads, steps and saves, and fails."""
        self.say("agent", "attempt.started", attempt=number, round=number, world_size=1, ranks=[0])
        self.say("agent", "worker.started", attempt=number, rank=0, local_rank=0, pid=2 + ord(process))
        if load:
            self.mark(process, "restore", None, load)
        for step in range(steps):
            self.say(process, "step.observed", step=step, took_ns=SECOND // 2, data_ns=0)
            if save and step == steps // 2:
                self.mark(process, "checkpoint", step, save)
        self.say("agent", "worker.failed", attempt=number, rank=0, local_rank=0, pid=2 + ord(process), exit_code=1)
        self.say("agent", "attempt.ended", attempt=number, outcome="failed")

    def mark(self, process: str, what: str, step: int | None, path: str) -> None:
        """A span that was observed."""
        for edge in ("started", "ended"):
            self.say(
                process, f"{what}.{edge}", step=step, path=path, observed=True, mark_id=hash((process, what, step))
            )

    def story(self) -> Story:
        """What it tells."""
        self.say("agent", "job.failed", reason="workers failed")
        (story,) = build(self.records)
        return story


def job(load: str, save: str = "/job/model.pt") -> Story:
    """A job of 10 steps that saves behind step 5, and one that goes on from there."""
    told = Job()
    told.say("agent", "job.started")
    told.attempt(0, "a", 10, save=save)
    told.attempt(1, "b", 6, load=load)
    return told.story()


def observed(story: Story) -> list[Process]:
    """The processes of the ranks."""
    return [worker.process for worker in story.workers() if worker.process is not None]


def test_behind_a_restore_they_go_on() -> None:
    """A process that loads what the attempt before has saved goes on behind that step: only what came after it was lost."""
    story = job("/job/model.pt")
    assert [list(process.steps) for process in observed(story)] == [list(range(10)), list(range(6, 12))]
    answer = goodput(story)
    assert (answer.steps, answer.steps_redone) == (12, 4)


def test_without_a_restore_they_begin_anew() -> None:
    """A process that loads nothing has begun from scratch: all that was done is done again."""
    answer = goodput(job(""))
    assert (answer.steps, answer.steps_redone) == (6, 10)


@pytest.mark.parametrize("save", ["/job/model.pt", ""])
def test_behind_another_file_nobody_knows(save: str) -> None:
    """A process that loads what nobody has seen saved has steps of no known order: all before it may be done again, or not."""
    story = job("/job/other.pt", save)
    assert observed(story)[1].label(0) == "~0"
    answer = goodput(story)
    known = {bucket.name: bucket for bucket in answer.buckets}
    assert (answer.ettr, answer.steps, answer.steps_redone) == (None, None, None)
    assert (known["unknown"].seconds, known["productive"].seconds, known["lost"].seconds) == (5, 3, 0)
    least, most = known["productive"].share, known["productive"].share + known["unknown"].share
    assert headline(answer).startswith(f"{least:.1%} to {most:.1%} of ")


def test_a_restore_that_the_script_marks_is_one() -> None:
    """It goes on from somewhere: by the numbers of the script, which those of steps that were observed need not be."""
    told = Job()
    told.say("agent", "job.started")
    told.attempt(0, "a", 10, save="/job/model.pt")
    told.say("agent", "attempt.started", attempt=1, round=1, world_size=1, ranks=[0])
    told.say("agent", "worker.started", attempt=1, rank=0, local_rank=0, pid=2 + ord("b"))
    for edge in ("started", "ended"):
        told.say("b", f"restore.{edge}", step=5, mark_id=1)
    told.say("b", "step.observed", step=0, took_ns=SECOND // 2, data_ns=0)
    answer = goodput(told.story())
    assert (answer.ettr, answer.steps) == (None, None)


def test_behind_what_nobody_knows_a_checkpoint_is_known_again() -> None:
    """The third attempt goes on from the first one's: what the second did is done again, or was beside it: nobody knows."""
    told = Job()
    told.say("agent", "job.started")
    told.attempt(0, "a", 10, save="/job/model.pt")
    told.attempt(1, "b", 6, load="/job/other.pt")
    told.attempt(2, "c", 6, load="/job/model.pt")
    answer = goodput(told.story())
    known = {bucket.name: bucket.seconds for bucket in answer.buckets}
    assert (answer.ettr, known["productive"], known["unknown"], known["lost"]) == (None, 3, 6, 2)


@pytest.mark.parametrize(("before", "behind", "unsure"), [(3, 2, True), (0, 2, False), (3, 0, False)])
def test_a_checkpoint_that_a_process_loads_again_while_it_trains(before: int, behind: int, *, unsure: bool) -> None:
    """Steps between its save and its load may be done again, or not: it is said, and they are no part of what counts."""
    told = Job()
    told.say("agent", "job.started")
    told.say("agent", "attempt.started", attempt=0, round=0, world_size=1, ranks=[0])
    told.say("agent", "worker.started", attempt=0, rank=0, local_rank=0, pid=2 + ord("a"))
    for step in range(2 + before + behind):
        if step == 2:
            told.mark("a", "checkpoint", 1, "/job/model.pt")
        if step == 2 + before:
            told.mark("a", "restore", None, "/job/model.pt")
        told.say("a", "step.observed", step=step, took_ns=SECOND // 2, data_ns=0)
    if not behind:
        told.mark("a", "restore", None, "/job/model.pt")
    story = told.story()
    assert ("saved 3 steps before" in summary(story).attempts[0].unsure) is unsure
    answer = goodput(story)
    known = {bucket.name: bucket.seconds for bucket in answer.buckets}
    assert answer.steps_redone == (None if unsure else 0)
    assert (known["productive"], known["unknown"]) == ((2, 1.5) if unsure else ((2 + before + behind) / 2, 0))


def test_behind_steps_without_a_number_nobody_knows_what_was_done_again() -> None:
    """Of a script that began anew by exec, or stepped optimizers in no fixed round: those of earlier attempts are in doubt."""
    told = Job()
    told.say("agent", "job.started")
    told.attempt(0, "a", 4)
    told.attempt(1, "b", 2)
    told.say("b", "step.observed", step="~2", took_ns=SECOND // 2, data_ns=0)
    answer = goodput(told.story())
    known = {bucket.name: bucket.seconds for bucket in answer.buckets}
    assert (answer.steps, known["productive"], known["unknown"]) == (None, 1.5, 2)


def test_a_checkpoint_that_was_renamed_is_known_by_its_file() -> None:
    """It is written beside its place, and renamed: by its path it would be a file that nobody saved."""
    told = Job()
    told.attempt(0, "a", 10)
    for edge in ("started", "ended"):
        told.say("a", f"checkpoint.{edge}", step=5, path="/job/new.tmp", observed=True, mark_id=1, file_id="9-1")
    told.attempt(1, "b", 0)
    for edge in ("started", "ended"):
        told.say("b", f"restore.{edge}", path="/job/model.pt", observed=True, mark_id=1, file_id="9-1")
    told.say("b", "step.observed", step=0, took_ns=1, data_ns=0)
    _, second = observed(told.story())
    assert (list(second.steps), second.unsure) == ([6], "")


def test_what_is_not_sure_of_the_numbers_is_said() -> None:
    """A file that nobody saved, none that was loaded, optimizers in no fixed round: in words, and no step is made up."""
    for load, words, steps in (
        ("/other.pt", "which nobody was seen to save", None),
        ("", "taken for the first ones", 6),
    ):
        story = job(load)
        answer = summary(story)
        assert [bool(row.unsure) for row in answer.attempts] == [False, True]
        assert words in answer.attempts[1].unsure
        assert (goodput(story).steps, goodput(story).attempts[1].unsure) == (steps, answer.attempts[1].unsure)
    told = Job()
    told.attempt(0, "a", 3)
    told.say("a", "step.observed", step="~3", took_ns=1, data_ns=0)
    story = told.story()
    assert "no fixed round" in summary(story).attempts[0].unsure
    assert (summary(story).attempts[0].last_step, summary(story).last_steps, goodput(story).steps) == (None, [], 4)


def test_a_job_that_goes_on_with_the_checkpoint_of_another_says_so() -> None:
    """The first attempt of all loaded a file that this run did not save: its steps need not be the first ones of the model."""
    for load, said in (("/yesterday.pt", "it loaded /yesterday.pt"), ("", "")):
        told = Job()
        told.attempt(0, "a", 4, load)
        (row,) = summary(told.story()).attempts
        assert (row.unsure.partition(",")[0], row.last_step) == (said, 3)
