"""Training loops that nobody has changed for an observer: `loops.py KIND` prints how many steps it did, as it counts them."""

import contextlib
import os
import sys
import time
import warnings

import torch
from torch.utils.data import DataLoader, TensorDataset


def batches(count=12):
    return DataLoader(TensorDataset(torch.randn(count * 4, 8), torch.randn(count * 4, 1)), batch_size=4)


def loss_of(model, batch):
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def group():
    import torch.distributed

    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)


def loop(model, optimizer, every=1):
    steps = 0
    for number, batch in enumerate(batches(), 1):
        loss_of(model, batch).backward()
        if number % every == 0:
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
    return steps


def plain():
    model = torch.nn.Linear(8, 1)
    return loop(model, torch.optim.Adam(model.parameters()))


def ddp():
    group()
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1))
    return loop(model, torch.optim.SGD(model.parameters(), lr=0.1))


def fsdp():
    group()
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:  # before 2.6
        from torch.distributed._composable.fsdp import fully_shard

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    fully_shard(model, mesh=mesh)
    return loop(model, torch.optim.AdamW(model.parameters()))


def accumulation():
    model = torch.nn.Linear(8, 1)
    return loop(model, torch.optim.SGD(model.parameters(), lr=0.1), every=4)


def amp():
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    steps = 0
    for number, batch in enumerate(batches()):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, batch) * (float("inf") if number % 3 == 0 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        steps += 1
    return steps


def gan():
    models = [torch.nn.Linear(8, 1), torch.nn.Linear(8, 1)]
    optimizers = [torch.optim.Adam(model.parameters()) for model in models]
    steps = 0
    for batch in batches():
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
        steps += 1
    return steps


def wgan():
    models = [torch.nn.Linear(8, 1), torch.nn.Linear(8, 1)]
    optimizers = [torch.optim.Adam(model.parameters()) for model in models]
    for number, batch in enumerate(batches()):
        loss_of(models[0], batch).backward()
        optimizers[0].step()
        if number % 5 == 4:
            loss_of(models[1], batch).backward()
            optimizers[1].step()
    return -1


def lbfgs():
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.LBFGS(model.parameters())
    steps = 0
    for batch in batches():

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        optimizer.step(closure)
        steps += 1
    return steps


def backward():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))
    optimizers = {parameter: torch.optim.Adam([parameter]) for parameter in model.parameters()}

    def step(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    steps = 0
    for batch in batches():
        loss_of(model, batch).backward()
        steps += 1
    return steps


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another one, as libraries have them."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure=None):
        return self.inner.step(closure)


def wrapper():
    model = torch.nn.Linear(8, 1)
    return loop(model, Wrapper(torch.optim.SGD(model.parameters(), lr=0.1)))


def resumes():
    from torch.distributed.checkpoint.state_dict import get_state_dict

    group()
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.Adam(model.parameters())
    get_state_dict(model, optimizer)  # what is to be loaded into: steps the optimizer, to make its state
    steps = loop(model, optimizer)
    stateless = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1))
    get_state_dict(model, stateless)
    return steps


def raises():
    """Its optimizer, which is around another one, fails at each third batch; the loop goes on with the next."""
    model = torch.nn.Linear(8, 1)
    optimizer = Wrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    steps = 0
    for number, batch in enumerate(batches()):

        def closure(batch=batch, fails=number % 3 == 1):
            if fails:
                raise FloatingPointError
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        try:
            optimizer.step(closure)
            steps += 1
        except FloatingPointError:
            optimizer.zero_grad()
    return steps


def compiled():
    model = torch.nn.Linear(8, 1)
    return loop(torch.compile(model, backend="eager"), torch.optim.SGD(model.parameters(), lr=0.1))


def compiled_step():
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.step = torch.compile(optimizer.step, backend="eager")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Dynamo does not know")  # of hooks that it cannot trace
        return loop(model, optimizer)


def compiled_whole():
    """A step that is compiled with all that it does, and a function in both modes that has to be one graph."""
    from torch._dynamo.convert_frame import input_codes

    from elastic_events.observe import stepping

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.1), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")

    @torch.compile(backend="eager", fullgraph=True)
    def loss_of_both_modes(batch):
        model.eval()
        seen = loss_of(model, batch)
        model.train()
        return seen.detach() + loss_of(model, batch)

    @torch.compile(backend="eager")
    def step(batch):
        scaler.scale(loss_of(model, batch)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        torch.save(model.state_dict(), "model.pt")

    @torch.compile(backend="eager")
    def epoch():
        for batch in batches(6):
            step(batch)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Dynamo does not know")
        for batch in batches(3):
            loss_of_both_modes(batch).backward()
            optimizer.step()
        epoch()
        step(next(iter(batches(1))))
    compiled = {(code.co_filename, code.co_name) for seen in input_codes.seen if (code := seen())}
    assert {one for one in compiled if "elastic_events" in one[0]} <= {(stepping.__file__, "train")}
    return 10


def saves(written="model.pt"):
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.load_state_dict(optimizer.state_dict())  # empty: Accelerate moves an optimizer so
    steps = 0
    for batch in batches():
        loss_of(model, batch).backward()
        optimizer.step()
        steps += 1
        if steps % 4 == 0:
            torch.save(model.state_dict(), written)
            os.replace(written, "model.pt")
            torch.load("model.pt")
    return steps


def saves_beside():
    """It saves in a thread, while a step of a third of a second goes on."""
    from threading import Thread

    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(6):
        saver = Thread(target=torch.save, args=(model.state_dict(), "model.pt"))
        time.sleep(0.15)
        if number % 2:
            saver.start()
        time.sleep(0.15)
        loss_of(model, (torch.randn(4, 8), torch.randn(4, 1))).backward()
        optimizer.step()
        if number % 2:
            saver.join()
    return 6


def steps_elsewhere():
    """Its optimizer steps in a thread, as autograd's on a GPU; it saves in the main one, without a DataLoader."""
    from threading import Thread

    class Slow:
        def __reduce__(self):
            time.sleep(0.3)
            return dict, ()

    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        loss_of(model, (torch.randn(4, 8), torch.randn(4, 1))).backward()
        stepping = Thread(target=optimizer.step)
        stepping.start()
        stepping.join()
        torch.save(Slow(), "model.pt")
    return 4


def renames():
    return saves("model.pt.tmp")


def pickled():
    """It goes on from what it keeps itself; an optimizer that is given a state while it trains is no restore."""
    import pickle

    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.Adam(model.parameters())
    moments = {number: torch.zeros_like(weights) for number, weights in enumerate(model.parameters())}
    state = {number: {"step": torch.tensor(3.0), "exp_avg": m, "exp_avg_sq": m} for number, m in moments.items()}
    optimizer.load_state_dict(pickle.loads(pickle.dumps({**optimizer.state_dict(), "state": state})))
    steps = loop(model, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    return steps


def tries():
    """The file is not there, so it goes on from what it keeps itself; and loads again while a thread saves."""
    from threading import Event, Thread

    class Slow(dict):
        def __reduce__(self):
            saves.set()
            loaded.wait(10)
            return dict, ()

    saves, loaded = Event(), Event()
    with contextlib.suppress(FileNotFoundError):
        torch.load("none.pt")
    steps = pickled()
    torch.save({}, "model.pt")
    saver = Thread(target=torch.save, args=(Slow(), "other.pt"))
    saver.start()
    saves.wait(10)
    torch.load("model.pt")
    loaded.set()
    saver.join()
    return steps


def distributed():
    group()
    import torch.distributed.checkpoint

    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = 0
    for batch in batches():
        loss_of(model, batch).backward()
        optimizer.step()
        steps += 1
        if steps % 4 == 0:
            torch.distributed.checkpoint.save({"model": model.state_dict()}, checkpoint_id=f"step-{steps}")
    return steps


def configured():
    import logging.config

    logging.config.dictConfig({"version": 1})
    return distributed()


def evaluates():
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = 0
    for _ in range(2):
        for batch in batches(6):
            loss_of(model, batch).backward()
            optimizer.step()
            steps += 1
        for batch in batches(4):
            with torch.no_grad():
                loss_of(model, batch)
            time.sleep(0.1)  # an evaluation that takes long
    return steps


def marks():
    import elastic_events

    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number, batch in enumerate(batches()):
        with elastic_events.step(100 + number):
            loss_of(model, batch).backward()
            optimizer.step()
        with elastic_events.checkpoint(100 + number):
            torch.save(model.state_dict(), "model.pt")
    return 12


def collective():
    group()
    try:
        torch.distributed.all_gather([torch.ones(3)], torch.ones(2))
    except (RuntimeError, ValueError):
        return 0
    raise AssertionError


if __name__ == "__main__":
    sys.stdout.write(f"{globals()[sys.argv[1]]()}\n")
