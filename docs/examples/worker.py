"""What the launchers start: it records a few steps, and is unaware of who collects them."""

import os
import signal
import sys

from elastic_events import Event, EventSource, record, step
from elastic_metrics import put_metric

for number in range(20):
    with step(number):
        put_metric("loss", 1 / (1 + number))
    if "die" in sys.argv and number == 10 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)  # nothing of what was recorded is lost with it
record(Event("done", EventSource.WORKER))
