"""What the captured torchrun streams say, worked out by hand from their JSON.

Seconds are from the stream's first record (`wall_ns` of line 1), to the millisecond. How each was found:

- `rendezvous`: end = the RENDEZVOUS event; start = end - its `duration_ms`. Of a static rendezvous likewise.
- `started`: the last START event of the attempt. `ranks`: their `global_rank`.
- `ended`: of the last attempt the agent's last WORKER event; of one before it the start of the next rendezvous, since torch
  records nothing else (the metric `_stop_workers` stands 1 to 4 ms before it).
- `outcome`: failed where `agent_restarts` of the next START is one more (TORCH.md, "What the stream does not say", 1), or
  where the WORKER events say FAILED; membership where it is the same (4).
- `first`: from the WORKER FAILED events at the end of run3: exit code 1 is the cause, -15 the agent's SIGTERM (8).
- `job`: failed in run3, though its AGENT event says SUCCEEDED (2); unknown in run11, whose stream just stops (5).
"""

from typing import Any, NamedTuple

__all__ = ("ANSWERS", "Answer", "Try")


class Try(NamedTuple):
    """One attempt."""

    rendezvous: list[tuple[float, float]]  #: a node each, in order of their beginning
    started: float
    ended: float | None
    ranks: list[int]
    outcome: str
    first: tuple[int, str, str] | None = None  #: rank, cause, the beginning of its message
    victims: tuple[int, ...] = ()


class Answer(NamedTuple):
    """One run."""

    streams: tuple[str, ...]
    run_id: str
    job: str
    wall: float  #: from the first record to the agent's last word, or the last record where there is none
    nodes: int
    restarts: int
    membership_changes: int
    attempts: list[Try]
    goodput: dict[str, float]  #: seconds by bucket; unknown and idle are what is left, as no stream holds steps


def _one(*streams: str, **rest: Any) -> Answer:
    return Answer(streams, **rest)


ANSWERS = [
    _one(
        "run1_ok",
        run_id="run1",
        job="succeeded",
        wall=4.580,
        nodes=1,
        restarts=0,
        membership_changes=0,
        attempts=[Try([(0.001, 0.317)], 0.320, 4.580, [0, 1], "succeeded")],
        goodput={"rendezvous": 0.316},
    ),
    _one(
        "run2_fail_once",
        run_id="run2",
        job="succeeded",
        wall=5.934,
        nodes=1,
        restarts=1,
        membership_changes=0,
        attempts=[
            Try([(0.001, 0.262)], 0.266, 3.039, [0, 1], "failed"),
            Try([(3.039, 3.098)], 3.105, 5.933, [0, 1], "succeeded"),
        ],
        goodput={"rendezvous": 0.320},  # 0.2605 + 0.0593
    ),
    _one(
        "run3_fail_always",
        run_id="run3",
        job="failed",
        wall=8.363,
        nodes=1,
        restarts=2,
        membership_changes=0,
        attempts=[
            Try([(0.002, 0.061)], 0.071, 3.044, [0, 1], "failed"),
            Try([(3.044, 3.362)], 3.372, 5.938, [0, 1], "failed"),
            Try(
                [(5.938, 5.960)],
                5.966,
                8.363,
                [0, 1],
                "failed",
                (1, "exit code 1", "RuntimeError: injected failure on rank 1"),
                (0,),
            ),
        ],
        goodput={"rendezvous": 0.399},  # 0.0588 + 0.3181 + 0.0224
    ),
    _one(
        "run4_static",
        run_id="run4_static",  # torch says "none", so it is what the process says: here the name of the capture
        job="succeeded",
        wall=2.643,  # its rendezvous began 2.8 ms before its first record
        nodes=1,
        restarts=0,
        membership_changes=0,
        attempts=[Try([(-0.003, 0.000)], 0.003, 2.640, [0, 1], "succeeded")],
        goodput={"rendezvous": 0.003},
    ),
    _one(
        # Agent B began 8.359 s after A; it waited from 8.335 to 10.451 s, while A's workers trained until 9.211 s.
        "run8_scaleup_agentA",
        "run8_scaleup_agentB",
        run_id="run8",
        job="succeeded",
        wall=31.229,
        nodes=2,
        restarts=0,
        membership_changes=1,
        attempts=[
            Try([(0.002, 2.085)], 2.097, 9.211, [0, 1], "membership"),
            Try([(8.335, 10.451), (9.211, 10.450)], 10.456, 31.227, [0, 1, 2, 3], "succeeded"),
        ],
        goodput={"rendezvous": 3.323},  # 2.083 + (10.451 - 9.211): B's wait before A stopped cost the job nothing
    ),
    _one(
        "run11_sigkill",
        run_id="run11",
        job="unknown",
        wall=5.698,
        nodes=1,
        restarts=0,
        membership_changes=0,
        attempts=[Try([(0.002, 0.299)], 0.304, None, [0, 1], "unknown")],
        goodput={"rendezvous": 0.297},
    ),
]
