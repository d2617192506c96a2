"""Gives memory that was freed back to the system. Frees nothing itself, counts nothing."""

from __future__ import annotations

import ctypes

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other C libraries have none


def give_back() -> None:
    """Let glibc's heap shrink: large messages that come and go leave holes in it, which it keeps. Some milliseconds."""
    if _trim is not None:
        _trim(0)
