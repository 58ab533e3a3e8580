"""A traceback in short."""

import sys
import sysconfig
import time
import traceback
from pathlib import Path

import pytest

from elastic_events.observe.folded import LINES, fold, is_framework

TORCH = f"{sysconfig.get_path('purelib')}/torch/nn/modules/module.py"

TRACE = f"""Traceback (most recent call last):
  File "/job/train.py", line 9, in <module>
    main()
  File "{TORCH}", line 1, in _call
    return inner()
           ^^^^^^^
  File "{TORCH}", line 2, in inner
    return forward()
  File "/job/model.py", line 4, in forward
    return x @ w
           ~~^~~
  File "{TORCH}", line 5, in matmul
    raise RuntimeError
RuntimeError: shapes
"""


def test_frames_of_frameworks_are_folded() -> None:
    """The script's frames stay, with their source; each run of a framework's is one line; the place is the script's innermost."""
    text, place = fold(TRACE)
    assert text.splitlines() == [
        "  /job/train.py:9 in <module>",
        "    main()",
        "  ... 2 frames of torch",
        "  /job/model.py:4 in forward",
        "    return x @ w",
        "  ... 1 frame of torch",
        "RuntimeError: shapes",
    ]
    assert place == ("/job/model.py", 4, "forward")


def test_a_syntax_error_has_the_place_of_the_text() -> None:
    """A file that cannot be compiled is named, although nothing of it has run."""
    with pytest.raises(SyntaxError) as caught:
        compile("x = = 1\n", "/job/broken.py", "exec")
    place = fold("".join(traceback.format_exception(caught.value))).place
    assert place is not None
    assert (place.file, place.line) == ("/job/broken.py", 1)


def test_faulthandlers_text_begins_with_the_innermost_frame() -> None:
    """Of a crash the first frame of the script is named: they stand the other way round."""
    dump = 'Fatal Python error: Aborted\n\nThread 0x1 (most recent call first):\n  File "/job/a.py", line 3 in f\n'
    assert fold(f'{dump}  File "/job/a.py", line 9 in <module>\n').place == ("/job/a.py", 3, "f")


def test_a_long_traceback_is_cut_in_the_middle() -> None:
    """A thousand frames of a recursion fill no screen."""
    frames = "".join(f'  File "/job/a.py", line {line}, in f\n    f()\n' for line in range(1, 1000))
    text, place = fold(f"Traceback (most recent call last):\n{frames}RecursionError: too deep\n")
    lines = text.splitlines()
    assert len(lines) == LINES + 1
    assert (lines[0], lines[-1]) == ("  /job/a.py:1 in f", "RecursionError: too deep")
    assert place == ("/job/a.py", 999, "f")


def test_text_without_frames_has_no_place() -> None:
    """What is no traceback is given back as it is."""
    assert fold("killed\n") == ("killed", None)


def test_what_is_a_framework() -> None:
    """Packages, the standard library and ourselves are; a script beside them is not."""
    import elastic_events

    assert is_framework(TORCH)
    assert is_framework(traceback.__file__)
    assert is_framework("<frozen runpy>")
    assert is_framework(str(elastic_events.__file__))
    assert not is_framework("/job/train.py")
    assert not is_framework(str(Path(sys.prefix, "train.py")))
    assert not is_framework(__file__)


@pytest.mark.parametrize(
    "line",
    [
        'File "a.py", line 1 in ' + " " * 300_000 + "x\x0c y",
        'File "a.py", line 1 in x' + " " * 300_000 + "\x00",
        'File "' + '", line 1 in ' * 20_000,
        "~" * 300_000 + "x",
        " " * 300_000 + "~^" * 100_000 + "x",
        "+" + "-" * 300_000 + "x",
    ],
    ids=["spaces", "spaces behind a name", "frames", "marks", "spaces and marks", "branch"],
)
def test_a_line_of_any_shape_is_folded_at_once(line: str) -> None:
    """A line that is nearly a frame, a mark or a branch, and endless, takes no time that grows with its square: minutes."""
    began = time.monotonic()
    fold("Traceback (most recent call last):\n" + line + "\nValueError: x")
    assert time.monotonic() - began < 20
