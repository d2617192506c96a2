"""What this process has open of one kind, and a limit for it. Not their number: earlier tests' threads open and close others."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

EVENTS = "anon_inode:[eventfd]"


def descriptors(begin: object) -> list[str]:
    """What descriptors point at that begins so: a folder, or `EVENTS`; also what has been removed."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(target for target in found if target.startswith(str(begin)))


@contextlib.contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """About so many may be opened beyond those that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    taken = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)]
    while taken[-1] <= highest:  # also those between
        taken.append(os.dup(taken[0]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1 + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
