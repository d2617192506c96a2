"""How many files a process may have open: as many as the system allows it. Asks nobody for more, and opens none."""

from __future__ import annotations

import contextlib
import resource

_WANTED = 65_536


def raise_limit() -> None:
    """Raise the soft limit of this process, and of those that it will start, as far as the hard one lets it.

    Connections that wait, associations and open segments may be more together than the usual 1024, and so may files of
    the receipts log that nobody has read.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
