"""A classifier of iris flowers in plain Python: one hidden layer, softmax, gradients by hand.

Data: R. A. Fisher, "The use of multiple measurements in taxonomic problems", Annals of Eugenics 7 (1936), public domain.
"""

import math
import random
from pathlib import Path

__all__ = ("Sample", "accuracy", "gradient", "initial", "load")

HIDDEN = 8
INPUTS = 4
CLASSES = 3
_SPLIT = HIDDEN * (INPUTS + 1)  # weights of the first layer come first, each row with its bias last

Sample = tuple[list[float], int]


def load() -> list[Sample]:
    """Return the 150 flowers, features scaled to about [-1, 1], in an order mixed by a fixed seed."""
    rows = Path(__file__).with_name("iris.csv").read_text("ascii").splitlines()[1:]
    samples = [([(float(x) - 3.5) / 3 for x in row.split(",")[:4]], int(row[-1])) for row in rows]
    random.Random(7).shuffle(samples)  # noqa: S311 - repeatable on purpose
    return samples


def initial() -> list[float]:
    """Return the starting weights, the same in every process."""
    source = random.Random(1)  # noqa: S311 - repeatable on purpose
    return [source.uniform(-0.5, 0.5) for _ in range(_SPLIT + CLASSES * (HIDDEN + 1))]


def gradient(weights: list[float], batch: list[Sample]) -> tuple[float, list[float]]:
    """Return mean cross-entropy and mean gradient over `batch`."""
    loss = 0.0
    total = [0.0] * len(weights)
    for inputs, label in batch:
        hidden, shares = _forward(weights, inputs)
        loss -= math.log(max(shares[label], 1e-12))
        errors = [share - (index == label) for index, share in enumerate(shares)]
        back = [0.0] * HIDDEN
        for k, error in enumerate(errors):
            row = _SPLIT + k * (HIDDEN + 1)
            for j in range(HIDDEN):
                total[row + j] += error * hidden[j]
                back[j] += error * weights[row + j]
            total[row + HIDDEN] += error
        for j in range(HIDDEN):
            slope = back[j] * (1 - hidden[j] ** 2)
            row = j * (INPUTS + 1)
            for i in range(INPUTS):
                total[row + i] += slope * inputs[i]
            total[row + INPUTS] += slope
    return loss / len(batch), [value / len(batch) for value in total]


def accuracy(weights: list[float], samples: list[Sample]) -> float:
    """Return the share of `samples` whose class is found."""
    right = 0
    for inputs, label in samples:
        shares = _forward(weights, inputs)[1]
        right += shares[label] == max(shares)
    return right / len(samples)


def _forward(weights: list[float], inputs: list[float]) -> tuple[list[float], list[float]]:
    hidden = []
    for j in range(HIDDEN):
        row = j * (INPUTS + 1)
        hidden.append(math.tanh(sum(weights[row + i] * inputs[i] for i in range(INPUTS)) + weights[row + INPUTS]))
    scores = []
    for k in range(CLASSES):
        row = _SPLIT + k * (HIDDEN + 1)
        scores.append(sum(weights[row + j] * hidden[j] for j in range(HIDDEN)) + weights[row + HIDDEN])
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return hidden, [power / sum(powers) for power in powers]
