"""Dies in another way in each attempt: `deaths.py KIND,KIND...`. Nobody has changed it for an observer."""

import ctypes
import os
import sys
import threading

import torch
from torch.utils.data import DataLoader, Dataset


class Broken(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise IndexError("bad sample")  # loader


def raises():
    raise ValueError("the loss is no number\nand more")  # raises


def in_torch():
    return torch.ones(2, 3) @ torch.ones(2, 3)  # in_torch


def chain():
    try:
        {}["key"]
    except KeyError as error:
        raise RuntimeError("no such thing") from error  # chain


def group():
    errors = []
    for work in (raises, in_torch):
        try:
            work()
        except (ValueError, RuntimeError) as error:
            errors.append(error)
    raise ExceptionGroup("several", errors)


def loader():
    for _ in DataLoader(Broken(), num_workers=1):
        pass


def thread():
    worker = threading.Thread(target=lambda: 1 / 0, name="helper")  # thread
    worker.start()
    worker.join()
    sys.exit(1)


def exits():
    sys.exit(7)  # exits


def at_once():
    os._exit(9)  # at_once


def segfault():
    ctypes.string_at(0)  # segfault


def abort():
    os.abort()  # abort


def imports():
    import tests_observe_no_such_module  # imports # noqa: F401


def hooked():
    sys.excepthook = sys.__excepthook__
    raises()


def logged():
    """Goes on behind what it hands to the hook: what ended a thread, and what it caught."""
    threading.excepthook = lambda args: sys.excepthook(args.exc_type, args.exc_value, args.exc_traceback)
    worker = threading.Thread(target=raises)
    worker.start()
    worker.join()
    try:
        raises()
    except ValueError:
        sys.excepthook(*sys.exc_info())
    os.abort()  # logged


def recorded():
    from torch.distributed.elastic.multiprocessing.errors import record

    record(raises)()


if __name__ == "__main__":
    globals()[sys.argv[1].split(",")[int(os.environ["TORCHELASTIC_RESTART_COUNT"])]]()
