"""A program or file that a test needs is not here. Looks for nothing."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def absent(message: str) -> NoReturn:
    """Skip, saying what to install; where ``REQUIRE_PEERS=1`` (CI), fail."""
    if os.environ.get("REQUIRE_PEERS") == "1":
        pytest.fail(message)
    pytest.skip(message)
