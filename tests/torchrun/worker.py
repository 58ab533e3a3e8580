"""What the jobs of these tests run; imports torch only where a mode needs it."""

import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    """Do what the mode says: `worker.py MODE [FOLDER]`."""
    mode, rank = sys.argv[1], int(os.environ["RANK"])
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    ends = {"killed": signal.SIGKILL, "killed-once": signal.SIGKILL, "segfault": signal.SIGSEGV}
    if mode in ends and not (mode == "killed-once" and attempt):
        die(Path(sys.argv[2]), ends[mode]) if rank == 1 else time.sleep(60)
    if mode == "pauses":
        time.sleep(1.5)
    if mode == "exit" and rank == 1:
        sys.exit(3)
    if mode in ("waits", "grows"):
        sys.stdout.write(
            f"ready {os.getpid()}\n"
        )  # at once: torchrun's workers run with -u, and two of them share the pipe
    if mode == "waits" or (mode == "grows" and os.environ["WORLD_SIZE"] == "1"):
        time.sleep(60)
    works = {
        "gloo": reduce,
        "records": record,
        "raises": raises,
        "hangs": hang,
        "lingers": linger,
        "outlives": outlive,
        "sinks": own_sink,
    }
    if mode in works:
        works[mode](rank)


def die(folder: Path, number: signal.Signals) -> None:
    """End by a signal, and leave the time of it."""
    (folder / "died").write_text(str(time.time_ns()))
    os.kill(os.getpid(), number)


def reduce(rank: int) -> None:
    """Take part in one all-reduce."""
    import torch
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    value = torch.ones(1) * (rank + 1)
    torch.distributed.all_reduce(value)
    assert value.item() == 3
    torch.distributed.destroy_process_group()


def record(rank: int) -> None:
    """Record as user code does."""
    import elastic_events
    import elastic_metrics

    elastic_events.record(
        elastic_events.Event("from.worker", elastic_events.EventSource.WORKER, metadata={"rank": rank})
    )
    elastic_metrics.put_metric("loss", 0.5 + rank, "train")
    done = Path(sys.argv[2], "rank-0-recorded")
    if rank == 0:
        done.touch()
    elif os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        while not done.exists():  # the agent ends rank 0 when rank 1 is dead
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)  # what it recorded a moment ago must be found all the same


def linger(rank: int) -> None:
    """Be a peer that takes its time to end when it is told to, of a rank that is killed."""
    folder = Path(sys.argv[2])
    if rank == 0:
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(3), os._exit(7)))
        Path(folder, "listens").touch()
        time.sleep(60)
    while not Path(folder, "listens").exists():
        time.sleep(0.01)
    die(folder, signal.SIGKILL)


def outlive(rank: int) -> None:
    """Go on when the agent is dead, and record."""
    import elastic_events

    sys.stdout.write(f"ready {os.getpid()}\n")
    while not Path(sys.argv[2], "go").exists():
        time.sleep(0.01)
    elastic_events.record(elastic_events.Event("from.survivor", "WORKER", metadata={"rank": rank}))


def own_sink(rank: int) -> None:
    """Record as a script does that starts a sink of its own."""
    import elastic_events

    elastic_events.start(f"jsonl:///own-{rank}.jsonl")
    for number in range(3):
        with elastic_events.step(number):
            pass


def hang(rank: int) -> None:
    """Hold a timer of torch's watchdog in rank 1 past its end, which is the end of the worker and of the agent."""
    from torch.distributed.elastic import timer

    sys.stdout.write(f"ready {os.getpid()}\n")
    if rank == 1:
        timer.configure(timer.FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"]))
        with timer.expires(after=0.1):
            time.sleep(60)
    time.sleep(60)


def raises(rank: int) -> None:
    """Raise in rank 1, under torch's decorator, which writes the error file."""
    from torch.distributed.elastic.multiprocessing.errors import record

    @record
    def work() -> None:
        if rank == 1:
            raise ValueError("the loss is no number")
        time.sleep(60)

    work()


if __name__ == "__main__":
    main()
