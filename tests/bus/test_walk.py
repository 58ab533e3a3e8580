"""What is kept of a value that does not fit, and in what time: whole items, unique names, both ends of a text."""

import dataclasses
import datetime
import decimal
import fractions
import re
import sys
import time
import uuid
from itertools import islice
from typing import Any

import numpy
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from elastic_events import Event, EventSource, MetadataError, record
from elastic_events.bus.codec import LIMIT
from elastic_events.bus.redact import Redactor
from elastic_events.bus.walk import Walk
from elastic_events.testing import capture
from elastic_metrics import put_metric


def recorded(metadata: Any, **options: Any) -> Any:
    """Return what arrives of `metadata`."""
    with capture(**options) as seen:
        record(Event("e", EventSource.WORKER, metadata=metadata))
        assert len(seen) == 1
        assert seen[0].size <= LIMIT
        return seen[0].event.metadata


def calls_of(metadata: Any, known: bool = False) -> int:
    """Return how many calls, of Python and of C, one `record()` makes; the first one, or one where all names are known."""
    count = 0

    def profile(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    event = Event("e", EventSource.WORKER, metadata=metadata)
    with capture():
        if known:
            record(event)
        sys.setprofile(profile)
        try:
            record(event)
        finally:
            sys.setprofile(None)
    return count


class Key:
    """A key that is an object."""


#: Kind of key -> a dict of so many.
DICTS: dict[str, Any] = {
    "new texts": lambda n: {uuid.uuid4().hex: "x" for _ in range(n)},
    "new texts, numbers": lambda n: {uuid.uuid4().hex: 0.5 for _ in range(n)},
    "texts that look like secrets": lambda n: {f"token_{uuid.uuid4().hex}": "x" for _ in range(n)},
    "objects": lambda n: {Key(): 1 for _ in range(n)},
    "tuples": lambda n: {(number, "x"): 1 for number in range(n)},
    "integers": lambda n: dict.fromkeys(range(n), 1),
    "big integers": lambda n: {2**70 + number: 1 for number in range(n)},
    "long texts of one beginning": lambda n: {"x" * 1100 + str(number): 1 for number in range(n)},
    "long texts of one end": lambda n: {str(number) + "x" * 1100: "y" for number in range(n)},
    "bytes": lambda n: {str(number).encode(): 1 for number in range(n)},
    "not ASCII": lambda n: {f"é{number}": "x" for number in range(n)},
    "lists": lambda n: {str(number): [number] for number in range(n)},
    "dicts in dicts": lambda n: {str(number): {"a": {"b": {"c": number}}} for number in range(n)},
    "long values": lambda n: {str(number): "v" * 1000 for number in range(n)},
    "new values": lambda n: {str(number): uuid.uuid4().hex for number in range(n)},
}


@pytest.mark.parametrize("kind", DICTS)
def test_work_is_bounded_whatever_the_size(kind: str) -> None:
    """A dict of 30,000 keys makes no more calls than one of 3,000, and fewer than one of 400, which is given more time."""
    some, few, many = (calls_of(DICTS[kind](size)) for size in (400, 3_000, 30_000))
    assert many < 1.1 * few + 50
    assert many < some + 50 < 4_000
    assert many < 1_500


def test_many_numbers_take_no_room_of_a_configuration() -> None:
    """Of numbers that fit all stay, also where there are many, and of the texts beside them as well."""
    texts = {f"name{n}": f"text{n}" for n in range(45)}
    metadata = {
        **texts,
        "seconds": {rank: rank / 7 for rank in range(600)},
        "losses": [step / 7 for step in range(300)],
    }
    assert recorded(metadata) == metadata


@pytest.mark.parametrize("value", [0.5, "text"])
def test_what_stands_beside_a_large_dict_stays(value: Any) -> None:
    """A third of sixty fields was left out, and the dict with them, each time: of that some is to stay, and of them all."""
    large = {f"name{n}": f"text{n}" for n in range(600)}
    fields = {f"{uuid.uuid4().hex}.field": value for _ in range(60)}
    metadata = {**fields, "large": large}
    for _ in range(2):
        kept = recorded(metadata)
        some = kept.pop("large")
        assert kept == fields
        assert some.pop("truncated") == f"{600 - len(some)} more"
        assert some
        assert some.items() <= large.items()


@pytest.mark.parametrize("kind", DICTS)
def test_items_are_whole_and_the_others_counted(kind: str) -> None:
    """Of a dict that does not fit, some items stay, under names of their own, and a note says how many do not."""
    metadata = DICTS[kind](4_000)
    kept = recorded(metadata, redact=None)
    note = kept.pop("truncated")
    assert note == f"{4_000 - len(kept)} more"
    assert len(kept) > 10
    if kind in ("new texts", "new texts, numbers", "integers", "not ASCII", "new values"):
        assert kept.items() <= metadata.items()


WORDS = st.sampled_from(
    ["adam", "lr", "name", "value", "token", "HF_TOKEN", "-p", "--password", "Bearer abcdef123456", "x=1"]
)
NESTS = st.recursive(
    st.one_of(WORDS, st.integers(-9, 9), st.floats(allow_nan=False), st.none(), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(WORDS, inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(WORDS, NESTS, max_size=4))
@settings(max_examples=100)
def test_what_is_easy_is_kept_as_what_is_not(metadata: dict[str, Any]) -> None:
    """Small lists and dicts need no walk, and are what a walk makes of them: the first time and when all names are known."""
    (walked,) = Walk(Redactor(), room=LIMIT).fields([metadata])
    assume("truncated" not in repr(walked))  # to look at many names of secrets takes long
    with capture() as seen:
        for _ in range(2):
            record(Event("e", EventSource.WORKER, metadata=metadata))
        assert [one.event.metadata for one in seen] == [walked, walked]


def test_a_list_of_lists_needs_no_walk() -> None:
    """What is nested once more, and short, costs a few times a plain event; it cost thirty times as much."""
    nested = {"step": 1, "shape": [[1, 2], [3, 4]], "optimizer": {"betas": [0.9, 0.99], "name": "adam"}}
    assert calls_of(nested, known=True) < 100


@pytest.mark.parametrize("numbers", [dict.fromkeys("abcde", 1), [1] * 5])
def test_numbers_for_which_no_room_is_left_are_left_out(numbers: Any) -> None:
    """What comes behind all that there is room for is counted. A list was shortened for ever, and what had a dict was lost."""
    for room in range(-100, 200):
        kept = Walk(Redactor(), room=room).plain(numbers)
        note = kept[-1] if type(kept) is list else kept.get("truncated", 0)
        assert note == 1 or len(kept) == 5 or f"{5 - len(kept) + 1} more" in note


def test_four_hundred_parameters() -> None:
    """Of 400 ordinary names of parameters, with a number each, hardly any is left out and none is mangled; of 4,000 some stay."""
    metadata = {f"model.layers.{n // 10}.self_attn.proj{n % 10}.weight": n / 7 for n in range(4_000)}
    for size, least, most in ((400, 300, 400), (4_000, 200, 300)):  # more of the second would take too long
        given = dict(islice(metadata.items(), size))
        kept = recorded(given)
        assert kept.pop("truncated") == f"{size - len(kept)} more"
        assert least < len(kept) < most
        assert kept.items() <= given.items()


def test_text_keeps_both_ends() -> None:
    """Of a traceback that does not fit, the exception at its end stays as well as its beginning; what is short stays whole."""
    lines = [f'  File "train.py", line {n}, in step\n    loss = model(batch)\n' for n in range(400)]
    trace = "Traceback (most recent call last):\n" + "".join(lines) + "ValueError: nan in the loss of layer 7"
    kept = recorded({"rank": 3, "error": trace, "exit_code": 1})
    assert (kept["rank"], kept["exit_code"]) == (3, 1)
    assert kept["error"].startswith(trace[:5000])
    assert kept["error"].endswith(trace[-5000:])
    note = re.search(r"\[truncated: (\d+) more\]", kept["error"])
    assert note is not None
    assert int(note[1]) == len(trace) - len(kept["error"]) + len(note[0])


@pytest.mark.parametrize("letter", ["x", "é", "🙂", "\ud800"])
def test_long_texts_share_the_room(letter: str) -> None:
    """Of texts that do not fit together, the short ones stay whole and the long ones share what is left, whatever their bytes."""
    metadata = {"a": letter * 50_000, "b": letter * 300, "c": letter * 9_000, "d": "short"}
    with capture(redact=None) as seen:
        record(Event("e", EventSource.WORKER, metadata=metadata))
        kept = seen[0].event.metadata
        assert LIMIT * 0.8 < seen[0].size <= LIMIT
    if letter != "\ud800":
        assert kept["b"] == metadata["b"]
        assert len(kept["a"]) == pytest.approx(len(kept["c"]), rel=0.2)
    assert kept["d"] == "short"


def test_what_is_short_comes_before_what_is_nested() -> None:
    """A container with more than fits takes no room from the numbers behind it, nor all of it from the next container."""
    kept = recorded(
        {"big": [{"n": str(n)} for n in range(5_000)], "rank": 3, "other": {str(n): "x" for n in range(90)}}
    )
    assert kept["rank"] == 3
    assert len(kept["big"]) > 5
    assert len(kept["other"]) > 5


def test_secret_over_a_cut() -> None:
    """No part of a secret shows where a text is cut through it, at either end."""
    key = (
        "-----BEGIN PRIVATE KEY-----\n" + "\n".join("SECRET" * 10 for _ in range(100)) + "\n-----END PRIVATE KEY-----\n"
    )
    for before in (4_000, 8_000, 20_000):
        for after in (100, 5_000, 8_000, 30_000):
            kept = recorded({"text": "w " * (before // 2) + key + "w " * (after // 2)})
            assert "SECRET" not in kept["text"]
    token = "Bearer " + "SECRET" * 60
    for after in range(7_600, 8_400, 100):
        assert "SECRETSECRET" not in recorded({"text": "w " * 9_000 + token + " w" * (after // 2)})["text"]


def test_long_argument_behind_a_flag() -> None:
    """What follows `--password` in a list is redacted however long it is."""
    assert recorded({"argv": ["--password", "p" * 9_000, "x"]}) == {"argv": ["--password", "[redacted]", "x"]}
    assert recorded({"argv": ["--password", "p"]}) == {"argv": ["--password", "[redacted]"]}


class Masked(numpy.ndarray):
    """An array whose class may do anything."""

    def item(self, *_: Any) -> Any:
        """Be asked."""
        raise AssertionError("asked")


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (decimal.Decimal("1.5"), 1.5),
        (fractions.Fraction(1, 4), 0.25),
        (10**30, 1e30),
        (-(10**30), -1e30),
        (numpy.array(2.5), 2.5),
        (numpy.array([[3]]), 3),
        (numpy.longdouble("0.5"), 0.5),
        (numpy.float16(0.5), 0.5),
        (numpy.uint64(2**64 - 1), 2**64 - 1),
        (numpy.bool_(True), True),
        (True, True),
        (10**400, str(10**400)),
        (numpy.datetime64("2026-01-02"), "2026-01-02"),
        (3 + 4j, "(3+4j)"),
    ],
    ids=str,
)
def test_number_stays_a_number(value: Any, arrives: Any) -> None:
    """A metric's value that is a number of another kind arrives as one, and what has no number as text."""
    with capture() as seen:
        put_metric("m", value)
        found = seen[0].metric.value
    assert found == arrives
    assert type(found) is type(arrives)


def test_exact_integers_of_events() -> None:
    """In metadata an integer of more than 64 bits keeps all its digits, as text."""
    assert recorded({"n": 2**80, "m": 2**64 - 1}) == {"n": str(2**80), "m": 2**64 - 1}


def test_subclass_of_an_array_is_not_asked() -> None:
    """An array or a tensor of a class of somebody's own is named, not read: it may talk to other processes for its value."""
    assert recorded({"v": numpy.zeros(1).view(Masked)}) == {"v": f"<{__name__}.Masked>"}


@dataclasses.dataclass(slots=True)
class Slotted:
    """A dataclass without a dict."""

    x: int
    y: Any = None


def test_dataclass_with_slots() -> None:
    """A dataclass with slots arrives with its values."""
    assert recorded({"v": Slotted(3, [1])}) == {"v": {"x": 3, "y": [1]}}


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        ({"step": numpy.float32(0.5), "n": 1}, {"step": 0.5, "n": 1}),
        ({"losses": [0.5, 1, None], "tags": ("a", "b")}, {"losses": [0.5, 1, None], "tags": ["a", "b"]}),
        ({"optimizer": {"lr": 0.1, "name": "adam"}}, {"optimizer": {"lr": 0.1, "name": "adam"}}),
        ({"optimizer": {"password": "hunter2"}}, {"optimizer": {"password": "[redacted]"}}),
        ({"argv": ["--token", "hunter2"]}, {"argv": ["--token", "[redacted]"]}),
        ({"urls": ["http://joe:hunter2@host/"]}, {"urls": ["http://[redacted]@host/"]}),
        ({"nested": [[1]]}, {"nested": [[1]]}),
    ],
)
def test_common_values_the_quick_way(value: Any, arrives: Any) -> None:
    """NumPy's scalars, small lists and dicts arrive as by the long way, their secrets cut, the second time as the first."""
    assert recorded(value) == arrives
    with capture() as seen:
        for _ in range(3):
            record(Event("e", EventSource.WORKER, metadata=value))
        assert [one.event.metadata for one in seen] == [arrives] * 3


def test_quick_way_leaves_the_callers_dict_alone() -> None:
    """A number that is converted is not written back to the caller's metadata."""
    metadata = {"v": numpy.float32(0.5)}
    with capture() as seen:
        for _ in range(2):
            record(Event("e", EventSource.WORKER, metadata=metadata))
        assert seen[1].event.metadata == {"v": 0.5}
    assert type(metadata["v"]) is numpy.float32


def test_strict_takes_numbers() -> None:
    """`strict=True` has nothing against a number of another kind, and raises for an object in a metric too."""
    with capture(strict=True) as seen:
        record(Event("e", EventSource.WORKER, metadata={"n": decimal.Decimal(1)}))
        with pytest.raises(MetadataError):
            put_metric("m", object())
        assert len(seen) == 1


def test_largest_dicts_take_no_time() -> None:
    """No dict holds the caller up: twenty thousand keys take a few seconds less than they once did."""
    for make in DICTS.values():
        metadata = make(20_000)
        began = time.monotonic()
        recorded(metadata)
        assert time.monotonic() - began < 2


def test_walk_of_a_reader_cuts_nothing() -> None:
    """Without a bound the walk keeps all: it is for values that were read from a file."""
    value = {"text": "x" * 100_000, "list": list(range(4_000)), 2**70: [b"x"]}
    walk = Walk()
    assert walk.fields([value]) == [{"text": "x" * 100_000, "list": list(range(4_000)), str(2**70): ["x"]}]


def test_what_a_job_says_of_itself_is_whole_the_first_time() -> None:
    """Eighty options, new names and new texts, flat or in groups, are kept whole though none was ever seen."""
    options = {f"model_option_{number}": f"/data/run-{number}/x" if number % 3 else number for number in range(80)}
    groups = {f"group_{group}": dict(islice(options.items(), 8 * group, 8 * group + 8)) for group in range(8)}
    assert recorded(options) == options
    assert recorded(groups) == groups


def test_a_secret_among_many_is_found() -> None:
    """One look at many names and texts together finds the one that is a secret's or carries one, wherever it stands."""
    for at in range(40):
        items = [(f"name{number}", f"text {number}") for number in range(40)]
        items[at] = ("api_key", "s3cret")
        assert "s3cret" not in str(recorded(dict(items)))
        items[at] = ("said", "password=s3cret")
        assert "s3cret" not in str(recorded({"v": dict(items)}))
        assert "s3cret" not in str(recorded({"v": [[text] for _, text in items]}))


def test_objects_that_raise_are_few() -> None:
    """To find out whose an exception is takes its time: of many objects that raise the first few are asked."""
    asked = []

    class Zone(datetime.tzinfo):
        def utcoffset(self, _: object) -> Any:
            asked.append(1)
            raise RuntimeError("no offset")

    found = recorded({"v": [datetime.datetime(2026, 1, 1, tzinfo=Zone()) for _ in range(100)], "after": 1})
    assert found["after"] == 1
    assert found["v"][0] == "<datetime.datetime>"
    assert found["v"][-1].endswith("more]")
    assert 1 <= len(asked) <= 16


def test_exceptions_in_exceptions_are_bounded() -> None:
    """An exception that holds exceptions, and they others, takes no longer than any other value, and its own name stays."""
    error = Exception("the first")
    for _ in range(4):
        error = Exception(*[error] * 16)
    assert calls_of({"error": error}) < 8_000
    kept = recorded({"error": error, "after": 1})
    assert kept["error"].startswith("Exception: Exception: Exception: ")
    assert kept["after"] == 1


def test_a_group_of_exceptions_says_what_each_is() -> None:
    """Of a few exceptions in one, each is told with what it holds."""
    kept = recorded({"error": Exception("ranks failed", [ValueError("rank", n) for n in range(8)])})
    assert all(f"ValueError: rank, {n}" in kept["error"] for n in range(8))


@pytest.mark.parametrize("length", [513, 600, 767, 768, 2_000])
def test_note_of_a_cut_says_what_is_missing(length: int) -> None:
    """Behind texts that were long, of a text a little longer than its share both ends stay, and the note says what does not."""
    text = "".join(f"{n:04d}" for n in range(length))[:length]
    found = Walk(Redactor(), room=100_000).fields(["x" * LIMIT, "x" * LIMIT, text])[2]
    head, gone, tail = re.fullmatch(r"(\d+)(?:\[truncated: (\d+) more\])?(\d+)", found).groups()  # type: ignore[union-attr]
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) >= 256
    assert len(head) + int(gone or 0) + len(tail) == length
