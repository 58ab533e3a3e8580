"""What an optional dependency costs who has none: one sentence that says what to install."""

from pathlib import Path

import pytest

from tests.test_cli import command

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
    done = command(*arguments, cwd=tmp_path, before=f"import sys; sys.modules[{package!r}] = None")
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "pip install 'elastic-events[" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists(), "nothing came into it"
