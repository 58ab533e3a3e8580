"""When to try again: one synchronous policy, asked by the lane after each failure."""

import random
from dataclasses import dataclass

__all__ = ("NO_RETRY", "Retry")

#: Seconds that a server's wish is followed at most: one may ask for years.
LONGEST = 300.0


@dataclass(frozen=True)
class Retry:
    """Exponential backoff with full jitter, within a budget.

    The wait before attempt n is uniform between 0 and min(cap, base * 2 ** n): full jitter, as in "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015. Seconds throughout.
    """

    base: float = 0.1
    cap: float = 10.0
    budget: float = 300.0  #: of one batch, from its first failure; after it the batch counts as failed
    attempts: int | None = None  #: of one batch; None = as many as the budget allows
    opens_after: int = 5  #: failures in a row that open the circuit: then only single probes, `cap` apart at most

    def wait(self, failures: int, spent: float, asked: float | None = None, roll: float | None = None) -> float | None:
        """Return the seconds until the next attempt, or None when the budget is spent.

        `failures` in a row so far, `spent` seconds since the first, `asked` what the server wants (Retry-After).
        """
        if self.attempts is not None and failures >= self.attempts:
            return None
        if spent >= self.budget:
            return None
        if asked is not None:
            return min(asked, self.budget, LONGEST)
        ceiling = min(self.cap, self.base * 2.0 ** min(failures, 32))
        chance: float = random.random() if roll is None else roll  # noqa: S311 - jitter is no secret
        return ceiling * chance


#: One attempt a batch.
NO_RETRY = Retry(attempts=1)
