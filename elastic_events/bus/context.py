"""Who speaks: read once from the launcher's environment, attached to every record the drain hands out."""

import os
import secrets
import socket
from collections.abc import Mapping

import msgspec

__all__ = ("COLLECTOR", "Context", "completed", "read_context")

#: The role of a process that collects for others.
COLLECTOR = "collector"


class Context(msgspec.Struct, frozen=True):
    """The process that recorded. Fields that the environment does not tell are `None`."""

    run_id: str = "none"  #: torchrun's TORCHELASTIC_RUN_ID, SLURM_JOB_ID, or "none"
    process: str = ""  #: pid, start time and nonce: one process of one host, also when its pid is used again
    host: str = ""
    pid: int = 0
    rank: int | None = None
    local_rank: int | None = None
    world_size: int | None = None
    node_rank: int | None = None
    role: str | None = None
    restart: int | None = None  #: torchrun's restart attempt, 0 for the first


_NUMBER_64 = range(-(2**63), 2**63)

#: Field -> environment variables in order of trust: ours, torchrun's, SLURM's, Open MPI's, MPICH's.
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "run_id": ("ELASTIC_EVENTS_RUN_ID", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "PMIX_NAMESPACE"),
    "rank": ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"),
    "local_rank": ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"),
    "world_size": ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
    "node_rank": ("GROUP_RANK", "SLURM_NODEID", "OMPI_COMM_WORLD_NODE_RANK"),
    "role": ("ROLE_NAME", "ELASTIC_EVENTS_ROLE"),
    "restart": ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"),
}


def read_context(environ: Mapping[str, str] = os.environ) -> Context:
    """Read the context of this process from `environ`. Does no name look-up and never raises for a bad value."""
    found: dict[str, str] = {}
    for field, names in VARIABLES.items():
        value = next(filter(None, map(environ.get, names)), None)
        if value is not None:
            found[field] = _text(value)
    return Context(
        run_id=found.get("run_id", "none"),
        process=process_identity(),
        host=_text(socket.gethostname()),
        pid=os.getpid(),
        rank=_integer(found.get("rank")),
        local_rank=_integer(found.get("local_rank")),
        world_size=_integer(found.get("world_size")),
        node_rank=_integer(found.get("node_rank")),
        role=found.get("role"),
        restart=_integer(found.get("restart")),
    )


def completed(context: Context) -> Context:
    """Return `context` with this process's identity, pid and host where it names none: the ids of records need them."""
    return msgspec.structs.replace(
        context,
        process=context.process or process_identity(),
        host=context.host or socket.gethostname(),
        pid=context.pid or os.getpid(),
    )


def process_identity() -> str:
    """Return a new identity of this process: pids are used again, also within one second and across containers (F13)."""
    return f"{os.getpid():x}-{start_time(os.getpid()):x}-{secrets.token_hex(4)}"


def start_time(pid: int) -> int:
    """Return the start of process `pid` in clock ticks since boot (proc(5), field 22); 0 where there is none, or a zombie."""
    try:
        return read_start_time(pid)
    except OSError:
        return 0


def read_start_time(pid: int) -> int:
    """As `start_time`, of a process that can be asked.

    Raises:
        OSError: there is none, or /proc cannot be read: no descriptor is left, say.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        state, *fields = file.read().rpartition(b")")[2].split()
    try:
        return 0 if state in (b"Z", b"X") else int(fields[18])
    except (ValueError, IndexError):
        return 0


def _text(value: str) -> str:
    """Return what the environment says as text that UTF-8 can hold: it is bytes, of any code."""
    return value.encode(errors="backslashreplace").decode()


def _integer(text: str | None) -> int | None:
    try:
        value = None if text is None else int(text)
    except ValueError:
        return None
    return None if value is None or value not in _NUMBER_64 else value
