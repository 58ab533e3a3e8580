"""What torch's rendezvous says in English, as fields.

The sentences are those of torch's `dynamic_rendezvous.py` and `c10d_rendezvous_backend.py`, as of 2.13. One that
is none of them gives None: it is kept whole where it stands, and counted.
"""

import re
from typing import Any, NamedTuple

__all__ = ("Parsed", "parse")


class Parsed(NamedTuple):
    """One sentence. Fields it does not speak of are None."""

    kind: str  #: what happened, in one word
    node: str | None = None  #: host, pid and number of the node, as torch joins them
    run_id: str | None = None
    round: int | None = None
    rank: int | None = None  #: of the node
    world_size: int | None = None  #: nodes
    error: str | None = None  #: type of the exception; what it says stands behind it in the message
    pid: int | None = None


_NUMBER = r"[0-9]{1,18}"
# Bounded, as what stands before the end of a sentence is looked for at once: a text of any shape takes time by its length.
_NODE = r"The node '(?P<node>.{1,512}?)' "
_RUN = r"the rendezvous '(?P<run_id>.*)'"
_ROUND = rf"round (?P<round>{_NUMBER}) of " + _RUN
_ERROR = r" due to an error of type (?P<error>\w+)\."

#: Kind -> the sentence. What a node has changed in its own copy of the state is "Pending sync." until it is synced.
_SENTENCES = {
    "attempted": _NODE + rf"attempts to join the next round of {_RUN}\.",
    "joined": _NODE
    + rf"has joined {_ROUND} as rank (?P<rank>{_NUMBER}) in a world of size (?P<world_size>{_NUMBER})\.",
    "participating": _NODE + rf"added itself to the participants of {_ROUND}\. Pending sync\.",
    "waiting": _NODE + rf"added itself to the wait list of {_ROUND}\. Pending sync\.",
    "redundant": _NODE + rf"added itself to the redundancy list of {_ROUND}\. Pending sync\.",
    "withdrawn": _NODE
    + rf"removed itself from the (?:participants|wait list|redundant list) of {_ROUND}\. Pending sync\.",
    "marked_complete": _NODE + rf"marked {_ROUND} as complete\. Pending sync\.",
    "marked_closed": _NODE + rf"marked {_RUN} as closed\. Pending sync\.",
    "closed": _NODE + rf"has closed {_RUN}\.",
    "close_failed": _NODE + rf"has failed to shutdown {_RUN}{_ERROR}",
    "synced": _NODE + rf"has successfully synced its local changes with other nodes in {_RUN}\.",
    "stale": _NODE + rf"has a stale state and failed to sync its local changes with other nodes in {_RUN}\.",
    "beat": _NODE + rf"updated its keep-alive heartbeat time for {_RUN}\. Pending sync\.",
    "beat_sent": _NODE + rf"has sent a keep-alive heartbeat to {_RUN}\.",
    "beat_failed": _NODE + rf"has failed to send a keep-alive heartbeat to {_RUN}{_ERROR}",
    "removed": r"(?=.*' since they had no heartbeat\.\Z)"
    rf"As part of the sync operation the node\(s\) (?P<node>.+) have been removed from {_RUN} "
    r"since they had no heartbeat\.",
    # An exception of the rendezvous, or of its store: type and text.
    "failed": r"(?P<error>[A-Za-z_]\w+(?:Error|Exception|Interrupt|GracefulExit)): .*",
    "store_hosted": rf"Process (?P<pid>{_NUMBER}) hosts the TCP store for the C10d rendezvous backend\.",
}
_PATTERNS = {kind: re.compile(pattern, re.DOTALL) for kind, pattern in _SENTENCES.items()}
_NUMBERS = frozenset({"round", "rank", "world_size", "pid"})


def parse(message: str) -> Parsed | None:
    """Return what `message` says, or None where it is no sentence of torch's rendezvous."""
    for kind, pattern in _PATTERNS.items():
        match = pattern.fullmatch(message)
        if match is not None:
            found: dict[str, Any] = {
                key: int(text) if key in _NUMBERS else text for key, text in match.groupdict().items()
            }
            return Parsed(kind, **found)
    return None
