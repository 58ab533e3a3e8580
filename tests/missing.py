"""What a test does without the server it is for."""

import os
from typing import NoReturn

import pytest

__all__ = ("missing",)


def missing(sentence: str) -> NoReturn:
    """Skip the test; in CI, which has to have all servers, fail it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)
    raise AssertionError(sentence)
