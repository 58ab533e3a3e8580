"""Does three steps, and hangs in C with the GIL held. Nobody has changed it for an observer."""

import ctypes

import torch


def hangs(libc):
    while True:
        libc.sleep(600)  # hangs


if __name__ == "__main__":
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(4, 8)).mean().backward()
        optimizer.step()
    hangs(ctypes.PyDLL(None))
