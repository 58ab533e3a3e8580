"""The life of a collector process: who starts it, what it survives, when it ends and what it leaves."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from elastic_events.recorder.reader import RecorderReader
from tests.collector.programs import Place, place, until

__all__ = ("place",)

ONE_LINE = 'bus = elastic_events.start("sqlite:///run.db")\n'

#: A database that another connection holds: its sink is away, and nothing is lost.
AWAY = 'bus = elastic_events.start("sqlite:///run.db?busy_timeout=100ms", timeout={timeout})\n'


def nothing_is_left(place: Place) -> bool:
    """Whether no process and no file of a collector is there any more."""
    return not (place.collectors() or place.supervisors() or place.directories)


@pytest.fixture
def held(place: Place) -> Iterator[sqlite3.Connection]:
    """A lock on the database, by a writer that does not end."""
    with_tables = place.run(ONE_LINE + 'emit(1, "first")')
    assert with_tables.returncode == 0, with_tables.stderr
    connection = sqlite3.connect(place.database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def test_one_line_is_enough(place: Place) -> None:
    """What a program with one line recorded is in the sink when it has ended, its ledger too; nothing is left behind."""
    done = place.run(ONE_LINE + "emit(500)\nrecord(Event('last', 'WORKER'))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (place.count(), place.events("last")) == (500, 1)
    assert len(place.ask("SELECT * FROM ledgers")) == 1
    until(lambda: nothing_is_left(place))


def test_nothing_of_ours_runs_in_the_program(place: Place) -> None:
    """A program that is drained by a collector has no thread of ours, and no child."""
    body = """
    bus.flush_sync(20)
    print(threading.active_count(), open(f"/proc/self/task/{os.getpid()}/children").read().strip() or "none")
    """
    done = place.run(ONE_LINE + "emit(1)\n" + body.replace("\n    ", "\n"))
    assert done.stdout == "1 none\n", done.stderr


def test_what_comes_after_the_close_is_counted(place: Place) -> None:
    """Also where a collector drains, and nothing in the program says when it closes."""
    done = place.run(
        ONE_LINE + "emit(5)\nbus.close()\nfor n in range(3): bus.put_metric('late', n)\nprint(bus.stats().closed)"
    )
    assert (done.stdout, place.count()) == ("3\n", 5), done.stderr


def test_sigkill_loses_nothing(place: Place) -> None:
    """A program killed a moment after its last record: all 10,000 arrive with nobody doing anything, and its death."""
    done = place.run(ONE_LINE + "emit(10000)\nos.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL
    until(lambda: place.count() == 10_000)
    until(lambda: place.events("worker.died") == 1)
    until(lambda: nothing_is_left(place))


@pytest.mark.parametrize("end", ["os._exit(3)", "os.abort()", "import ctypes; ctypes.string_at(0)"])
def test_other_sudden_ends_lose_nothing(place: Place, end: str) -> None:
    """`os._exit`, abort and a segfault skip every hook: what was recorded arrives all the same."""
    place.run(ONE_LINE + f"emit(1000)\n{end}")
    until(lambda: place.count() == 1000)


def test_killed_before_the_collector_is_there(place: Place) -> None:
    """A program killed right behind the call of `start` is collected."""
    place.run(ONE_LINE + "put_metric('m', 1)\nos.kill(os.getpid(), signal.SIGKILL)")
    until(lambda: place.count() == 1)
    until(lambda: nothing_is_left(place))


def test_output_ends_with_the_program(place: Place, held: sqlite3.Connection) -> None:
    """A pipe that waits for the program's end is closed when it ends, though its collector goes on."""
    done = place.run(AWAY.format(timeout=0.2) + "emit(10)\nprint('trained')", timeout=30)
    assert done.stdout == "trained\n"
    assert place.collectors()
    held.execute("ROLLBACK")
    until(lambda: place.count() == 10)
    until(lambda: nothing_is_left(place))


def test_what_is_not_delivered_is_told_at_the_end(place: Place, held: sqlite3.Connection) -> None:
    """The exit takes its deadline and says in one line what is undelivered, why, and where it is."""
    tried = "while not any(lane.last_error for lane in bus.stats().lanes.values()): time.sleep(0.01)\n"
    done = place.run(AWAY.format(timeout=0.3) + "emit(10)\n" + tried)
    first, line = done.stderr.splitlines()
    assert "'sqlite' cannot be opened, trying again" in first  # told by the collector, as it happened
    assert "10 records" in line
    assert "sqlite" in line
    assert str(place.directories[0]) in line
    held.execute("ROLLBACK")
    until(lambda: place.count() == 10)


def test_ctrl_c_at_the_exit_ends_the_wait(place: Place, held: sqlite3.Connection) -> None:
    """Who does not want to wait for a sink that is away is told where the records are, as well."""
    program = place.start(AWAY.format(timeout=60) + "emit(10)")
    (ring,) = until(lambda: list(place.temporary.glob("*/*/*.ring")))
    until(lambda: RecorderReader(ring).closed)
    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=60)
    assert "10 records not delivered yet" in said
    assert "Traceback" not in said
    held.execute("ROLLBACK")
    until(lambda: place.count() == 10)


def test_ctrl_c_as_the_close_begins(place: Place, held: sqlite3.Connection) -> None:
    """It is told as well, wherever in the close it comes."""
    body = """
    from elastic_events.recorder.link import Link
    leave = Link._leave
    def interrupted(link):
        Link._leave = leave
        signal.raise_signal(signal.SIGINT)
        leave(link)
    Link._leave = interrupted
    """
    done = place.run(AWAY.format(timeout=60) + "import signal\nemit(10)\n" + body.replace("\n    ", "\n"))
    assert done.stderr.count("10 records not delivered yet") == 1
    assert "Traceback" not in done.stderr
    held.execute("ROLLBACK")
    until(lambda: place.count() == 10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_program_that_becomes_another_user(place: Place) -> None:
    """After `setuid` it can look into its directory no more: it ends as ever, and its records arrive."""
    done = place.run(
        ONE_LINE + "emit(5); os.setuid(65534); emit(10); print(bus.flush_sync(30), elastic_events.stop(30))"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("FlushResult(undelivered={})") == 2
    assert place.count() == 15


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_signals_do_not_end_a_collector_while_somebody_writes(place: Place, number: signal.Signals) -> None:
    """A batch system signals every process: the collector and its shell go on, and deliver the rest."""
    program = place.start(
        ONE_LINE + "emit(10)\nbus.flush_sync(20)\nprint('ready', flush=True)\nsys.stdin.read()\nemit(10)"
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    (collector,), (supervisor,) = place.collectors(), place.supervisors()
    for pid in (collector, supervisor):
        os.kill(pid, number)
    program.communicate(timeout=60)
    assert place.count() == 20
    assert program.returncode == 0


def test_a_collector_that_was_stopped_has_its_patience_still(place: Place) -> None:
    """Stopped while its writer dies, as with a container that is paused, it delivers the rest when it goes on."""
    program = place.start(ONE_LINE + "emit(1); input(); emit(1000); os._exit(0)", ELASTIC_EVENTS_PATIENCE="0.5")
    until(lambda: place.count() == 1)
    (collector,) = place.collectors()
    os.kill(collector, signal.SIGSTOP)
    program.communicate("\n", timeout=60)
    time.sleep(1)  # longer than its patience
    os.kill(collector, signal.SIGCONT)
    until(lambda: place.count() == 1001)


def test_killed_collector_is_started_again(place: Place) -> None:
    """Killed ten times while a program records, the collector delivers every record, each once."""
    program = place.start(
        ONE_LINE
        + "for n in range(10):\n    emit(100)\n    print(n, flush=True)\n    sys.stdin.readline()\nbus.flush_sync(60)"
    )
    assert program.stdin is not None
    assert program.stdout is not None
    for number in range(10):
        assert program.stdout.readline() == f"{number}\n"
        before = until(place.collectors)
        os.kill(before[0], signal.SIGKILL)
        until(lambda before=before: [pid for pid in place.collectors() if pid != before[0]])
        program.stdin.write("\n")
        program.stdin.flush()
    program.communicate(timeout=100)
    assert place.count() == 1000
    assert program.returncode == 0


def test_collector_killed_with_its_shell_is_started_by_a_flush(place: Place) -> None:
    """Where nobody is left to look after it, the program that waits for it starts another."""
    program = place.start(
        ONE_LINE
        + "emit(10)\nbus.flush_sync(20)\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        + "emit(10)\nprint(bool(bus.flush_sync(30)))"
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    for pid in (*place.supervisors(), *place.collectors()):
        os.kill(pid, signal.SIGKILL)
    out, err = program.communicate("\n", timeout=100)
    assert out == "True\n", err
    assert place.count() == 20


def test_eight_ranks_share_one_collector(place: Place) -> None:
    """Eight ranks of a launcher that start at once have one collector and one sink; the ledger counts all of them."""
    body = """
    import subprocess
    program = 'import elastic_events, sys; from elastic_metrics import put_metric; elastic_events.start("sqlite:///run.db");'
    program += '[put_metric("m", n) for n in range(100)]; print("ready", flush=True); sys.stdin.readline()'
    ranks = [subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "RANK": str(rank)}, stdin=subprocess.PIPE,
             stdout=subprocess.PIPE, text=True) for rank in range(8)]
    for rank in ranks: rank.stdout.readline()
    print("ready", flush=True)
    sys.stdin.readline()
    for rank in ranks: rank.communicate("\\n")
    """
    program = place.start(body)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    until(place.collectors)
    assert (len(place.collectors()), len(place.supervisors()), len(place.directories)) == (1, 1, 1)
    program.communicate("\n", timeout=100)
    assert place.count() == 800
    until(lambda: nothing_is_left(place))
    assert len(place.ask("SELECT * FROM ledgers")) == 1


def test_programs_of_one_directory_get_their_own_sinks(place: Place) -> None:
    """Two programs that share a directory, each with a sink of its own, have one collector; neither gets the other's records."""
    shared = place.folder / "recorders"
    body = """
    elastic_events.start(f"jsonl:///{sys.argv[0][:-3]}.jsonl")
    put_metric(os.path.basename(sys.argv[0]), 1)
    """
    programs = [place.start(body, ELASTIC_EVENTS_DIR=str(shared)) for _ in range(2)]
    for program in programs:
        _, err = program.communicate(timeout=60)
        assert program.returncode == 0, err
    for number in range(2):
        (text,) = [
            line for line in (place.folder / f"script{number}.jsonl").read_text().splitlines() if '"metric"' in line
        ]
        assert f'"name":"script{number}.py"' in text
    until(lambda: not list(shared.iterdir()))


def test_short_jobs_leave_nothing(place: Place) -> None:
    """Short programs one after the other leave no process, no file and no lock behind, and each is delivered."""
    jobs = int(os.environ.get("ELASTIC_EVENTS_JOBS", "8"))
    for _ in range(jobs):
        assert place.run(ONE_LINE + "put_metric('m', 1)").returncode == 0
    assert place.count() == jobs
    until(lambda: nothing_is_left(place))


def test_children_join(place: Place) -> None:
    """Forked children, `multiprocessing` children of each way, and programs that it starts: all arrive, without a word."""
    body = (
        ONE_LINE
        + """
emit(3, "parent")
def work(name): emit(5, name)
if __name__ == "__main__":
    if os.fork() == 0:
        emit(5, "forked")
        os._exit(0)
    os.wait()
    for way in ("fork", "spawn", "forkserver"):
        child = multiprocessing.get_context(way).Process(target=work, args=(way,))
        child.start()
        child.join()
    subprocess.run([sys.executable, "-c", "from elastic_metrics import put_metric\\nfor n in range(5): put_metric('program', n)"])
"""
    )
    done = place.run(body)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("forked", "fork", "spawn", "forkserver", "program"):
        until(lambda name=name: place.count(name) >= 5)
        assert place.count(name) == 5
    assert place.count("parent") == 3 * 3  # the file is run again in a spawned and in a forkserver's child
    assert 1 <= place.events("worker.died") <= 2  # the forked child, which left by os._exit; the forkserver is stopped


def test_child_that_outlives_its_parent(place: Place) -> None:
    """A forked child that records on when its parent has ended is collected to its own end."""
    done = place.start(ONE_LINE + "if os.fork() == 0:\n    os.setsid()\n    sys.stdin.read()\n    emit(50)\n")
    assert done.stdin is not None
    until(lambda: done.poll() is not None)
    done.stdin.close()
    until(lambda: place.count() == 50)
    until(lambda: nothing_is_left(place))


def test_own_wait_loop_ends(place: Place) -> None:
    """A program that waits for all of its children is not kept waiting by a collector."""
    body = """
    if os.fork() == 0: os._exit(0)
    pids = 0
    try:
        while True: os.wait(); pids += 1
    except ChildProcessError: print(pids)
    """
    done = place.run(ONE_LINE + "emit(10)\n" + body.replace("\n    ", "\n"), timeout=60)
    assert done.stdout == "1\n", done.stderr


def test_program_that_closes_all_descriptors(place: Place) -> None:
    """`os.closerange` takes the writer's lock: it counts as living all the same, and its records arrive."""
    done = place.run(ONE_LINE + "emit(10)\nos.closerange(3, 4096)\ntime.sleep(1)\nemit(10)\nos.kill(os.getpid(), 9)")
    assert done.returncode == -9
    until(lambda: place.count() == 20)
    until(lambda: place.events("worker.died") == 1)


def test_hostile_environment_does_not_reach_the_collector(place: Place) -> None:
    """Modules that hide others on PYTHONPATH or beside the script, and start-up hooks, are the program's alone."""
    evil = place.folder / "evil"
    evil.mkdir()
    refuse = "import sys\nif any('recorder.daemon' in word for word in sys.orig_argv): raise SystemExit(7)\n"
    honest = "sys.path = [p for p in sys.path if 'evil' not in p]; del sys.modules['{0}']; import {0}\n"
    for name in ("asyncio", "sqlite3", "sitecustomize", "idna"):
        (evil / f"{name}.py").write_text(refuse + ("" if name == "sitecustomize" else honest.format(name)))
    path = os.pathsep.join([str(evil), *filter(None, sys.path)])
    done = place.run(ONE_LINE + "emit(10)", PYTHONPATH=path, PYTHONSTARTUP="/nowhere", CUDA_VISIBLE_DEVICES="7")
    assert done.returncode == 0, done.stderr
    assert place.count() == 10


@pytest.mark.parametrize(
    ("why", "setup"),
    [
        ("frozen application", "sys.frozen = True"),
        ("no Python interpreter", "sys.executable = '/usr/bin/trainer'"),
        ("no Python interpreter", "sys.executable = ''"),
        ("there is no", "import elastic_events.recorder.launch as launch; launch.SHELL = '/no/bin/sh'"),
        ("symbolic link", "os.symlink('/tmp', 'link'); os.environ['ELASTIC_EVENTS_DIR'] = 'link'"),
        ("is missing", "os.environ['ELASTIC_EVENTS_DIR'] = 'no/such'"),
    ],
)
def test_where_no_collector_can_be_had_a_thread_drains(place: Place, why: str, setup: str) -> None:
    """A frozen application, an image without a shell, a directory that cannot be used: the thread, with one warning."""
    done = place.run(setup + "\n" + ONE_LINE + "emit(10)\nprint('trained')")
    assert (done.returncode, done.stdout) == (0, "trained\n")
    assert done.stderr.count("RuntimeWarning") == 1, done.stderr
    assert why in done.stderr
    assert place.count() == 10
    assert not place.collectors()


def test_full_disk_is_drained_by_a_thread(place: Place) -> None:
    """Where the recorders' disk has no room, the thread drains, with one warning; no SIGBUS."""
    small = place.folder / "small"
    small.mkdir(0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        done = place.run(ONE_LINE + "emit(10)", ELASTIC_EVENTS_DIR=str(small))
        assert done.returncode == 0, done.stderr
        assert "No space left" in done.stderr
        assert done.stderr.count("RuntimeWarning") == 1
        assert place.count() == 10
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def namespaces() -> bool:
    """Whether a PID namespace can be made here."""
    return subprocess.run(["unshare", "-p", "-f", "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("proc", [(), ("--mount-proc",)])
def test_writer_in_another_pid_namespace_lives(place: Place, proc: tuple[str, ...]) -> None:
    """A container's worker that the host collects is no dead one: it is followed by its lock, and its death by it, too."""
    if not namespaces():
        pytest.skip("no namespaces here")
    recorders = place.folder / "recorders"
    main = "from elastic_events.cli import main; main()"
    words = [sys.executable, "-c", main, "collect", str(recorders), f"sqlite:///{place.database}"]
    collector = subprocess.Popen(words, env=place.environment())
    try:
        program = place.start(
            "emit(20)\nprint('ready', flush=True)\nsys.stdin.readline()\nemit(20)\nos._exit(9)",
            *("unshare", "-p", "-f", *proc),
            ELASTIC_EVENTS_DIR=str(recorders),
        )
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        until(lambda: place.count() == 20)
        time.sleep(1)  # several looks for the dead
        assert place.events("worker.died") == 0
        program.communicate("\n", timeout=60)
        until(lambda: place.count() == 40)
        until(lambda: place.events("worker.died") == 1)
    finally:
        collector.send_signal(signal.SIGINT)
        assert collector.wait(60) == 0


def test_script_that_is_pid_1(place: Place) -> None:
    """Under PID 1, whose end takes the collector along, the exit waits for it: records and ledger are there."""
    if not namespaces():
        pytest.skip("no namespaces here")
    done = place.run(ONE_LINE + "emit(300)\nprint(os.getpid())", "unshare", "-p", "-f", "--mount-proc")
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert place.count() == 300
    assert len(place.ask("SELECT * FROM ledgers")) == 1


def test_directory_that_a_launcher_collects(place: Place) -> None:
    """Under a launcher that collects in its own loop, a worker's own sink is served by the worker's thread; both get all."""
    body = """
    import anyio
    async def launch():
        async with EventBus("sqlite:///launcher.db") as bus:
            await bus.collect("recorders")
            worker = [sys.executable, "-c", WORKER]
            done = await anyio.run_process(worker, env={**os.environ, "ELASTIC_EVENTS_DIR": "recorders"}, check=False)
            print(done.returncode, done.stderr.decode())
            while any(os.scandir("recorders")) and any(n.endswith(".ring") for n in os.listdir("recorders")):
                await anyio.sleep(0.01)
    WORKER = "import elastic_events; from elastic_metrics import put_metric; elastic_events.start('sqlite:///run.db');"
    WORKER += "[put_metric('m', n) for n in range(50)]"
    anyio.run(launch)
    """
    done = place.run(body)
    assert done.stdout.strip() == "0", (done.stdout, done.stderr)
    assert place.count() == 50
    connection = sqlite3.connect(Path(place.folder, "launcher.db"))
    assert connection.execute("SELECT count(*) FROM metrics").fetchone() == (50,)
    connection.close()
