"""Rendezvous sentences, parsed."""

import time

import pytest

from elastic_events.torchrun.messages import Parsed, parse

NODE = "gpu-7.local_4711_0"


@pytest.mark.parametrize(
    ("message", "parsed"),
    [
        (
            f"The node '{NODE}' has joined round 3 of the rendezvous 'job' as rank 1 in a world of size 2.",
            Parsed("joined", NODE, "job", 3, 1, 2),
        ),
        (
            f"The node '{NODE}' marked round 12 of the rendezvous 'it's' as complete. Pending sync.",
            Parsed("marked_complete", NODE, "it's", 12),
        ),
        (
            f"The node '{NODE}' removed itself from the wait list of round 2 of the rendezvous ''. Pending sync.",
            Parsed("withdrawn", NODE, "", 2),
        ),
        (
            (
                f"The node '{NODE}' has failed to send a keep-alive heartbeat to the rendezvous 'job' "
                "due to an error of type RendezvousTimeoutError."
            ),
            Parsed("beat_failed", NODE, "job", error="RendezvousTimeoutError"),
        ),
        (
            (
                "As part of the sync operation the node(s) 'a_1_0', 'b_2_0' have been removed from the rendezvous 'job' "
                "since they had no heartbeat."
            ),
            Parsed("removed", "'a_1_0', 'b_2_0'", "job"),
        ),
        (
            "RendezvousConnectionError: The connection to the C10d store has failed. See inner exception for details.",
            Parsed("failed", error="RendezvousConnectionError"),
        ),
        ("RendezvousTimeoutError: ", Parsed("failed", error="RendezvousTimeoutError")),
        (
            "DistStoreError: wait timeout after 60000ms, keys: /none/torchelastic/role_info",
            Parsed("failed", error="DistStoreError"),
        ),
        ("Process 42 hosts the TCP store for the C10d rendezvous backend.", Parsed("store_hosted", pid=42)),
    ],
)
def test_a_sentence_of_torch_becomes_fields(message: str, parsed: Parsed) -> None:
    """Round, rank, world size and node are read where the sentence has them, whatever the run is called."""
    assert parse(message) == parsed


@pytest.mark.parametrize(
    "message",
    [
        "",
        "The node 'x' danced.",
        "Attention: the store is full.",
        "Error: no type",
        "The node 'x' has joined round one of the rendezvous 'r'.",
    ],
)
def test_another_sentence_is_not_guessed_at(message: str) -> None:
    """A sentence that torch does not write gives None, so that it is counted and not misread."""
    assert parse(message) is None


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        ("The node '", "' has joined round 1 of the rendezvous '"),
        ("As part of the sync operation the node(s) ", " have been removed from the rendezvous '"),
    ],
)
def test_what_is_nearly_a_sentence_takes_no_time(begin: str, piece: str) -> None:
    """A megabyte that is nearly one of torch's sentences is known at once to be none; by its square it takes a minute."""
    began = time.monotonic()
    assert parse(begin + piece * 25_000) is None
    assert time.monotonic() - began < 20
