"""What an optional dependency costs who has none: one sentence that says what to install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Package that is missing, what the sentence says, and what asks for it: arguments of the command.
ASKED = [
    ("nats", "NATS needs the extra 'nats'", ["tail", "nats://127.0.0.1:1/run"]),
    ("nats", "NATS needs the extra 'nats'", ["replay", "dead.jsonl", "--to", "nats://127.0.0.1:1/run"]),
    ("opentelemetry", "OTLP needs the extra 'otlp'", ["replay", "dead.jsonl", "--to", "otlp+http://127.0.0.1:1"]),
    ("prometheus_client", "needs the extra 'prometheus'", ["replay", "dead.jsonl", "--to", "prometheus://127.0.0.1:0"]),
    ("pyarrow", "Parquet needs the extra 'parquet'", ["export", "dead.jsonl", "--parquet", "out"]),
]

RECORD = (
    b'{"id":"r/p/m/0","kind":"metric","seq":0,"time_ns":1,"monotonic_ns":1,"name":"loss","channel":"g","value":1,'
    b'"context":{"run_id":"r","process":"p","host":"h","pid":1}}\n'
)


@pytest.mark.parametrize(("package", "sentence", "arguments"), ASKED)
def test_a_missing_package_is_one_sentence(package: str, sentence: str, arguments: list[str], tmp_path: Path) -> None:
    """A command that needs a package that is not there says which extra to install, and ends with 2."""
    (tmp_path / "dead.jsonl").write_bytes(RECORD)
    (tmp_path / "dead.jsonl").chmod(0o600)
    script = f"import sys; sys.modules[{package!r}] = None; from elastic_events.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "pip install 'elastic-events[" in done.stderr
    assert "Traceback" not in done.stderr
