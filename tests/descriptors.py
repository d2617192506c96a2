"""What this process has open of one kind. Not their number: earlier tests' threads open and close others meanwhile."""

from __future__ import annotations

import contextlib
import os

EVENTS = "anon_inode:[eventfd]"


def descriptors(begin: object) -> list[str]:
    """What descriptors point at that begins so: a folder, or `EVENTS`; also what has been removed."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(target for target in found if target.startswith(str(begin)))
