"""Does three steps, and hangs in C with the GIL held; a thread and a DataLoader's child hang as well. Nobody has changed it."""

import ctypes
import os
import queue
import threading
import time

import torch
from torch.utils.data import DataLoader, Dataset


class Files(Dataset):
    def __len__(self):
        return 9

    def __getitem__(self, index):
        rank = os.getppid()
        while os.getppid() == rank:
            time.sleep(0.1)  # sleeps
        return index


def hangs(libc):
    while True:
        libc.sleep(600)  # hangs


def waits(lock):
    lock.acquire()  # waits


def idles(work):
    work.get()


if __name__ == "__main__":
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lock = threading.Lock()
    lock.acquire()
    threading.Thread(target=waits, args=[lock], daemon=True).start()
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    threading.Thread(target=idles, args=[queue.Queue()], daemon=True).start()
    batches = iter(DataLoader(Files(), num_workers=1))
    for _ in range(3):
        model(torch.randn(4, 8)).mean().backward()
        optimizer.step()
    hangs(ctypes.PyDLL(None))
