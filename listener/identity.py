"""Whose a study is by its newest headers, read beside a running assembler. Compared before each delivery; writes nothing."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path


def identity_of(state_path: Path) -> Callable[[str], str | None]:
    """A function from Study Instance UID to the identity digest of what its last job uses.

    It gives None for a study that the assembler does not know, and while there is no assembler's state at all. It may
    be called from any thread.
    """
    local = threading.local()

    def ask(study_instance_uid: str) -> str | None:
        connection: sqlite3.Connection | None = getattr(local, "connection", None)
        if connection is None:
            if not state_path.exists():
                return None
            connection = local.connection = sqlite3.connect(state_path, timeout=30.0)
            connection.execute("PRAGMA query_only = ON")
        try:
            row = connection.execute("SELECT identity FROM studies WHERE uid = ?", (study_instance_uid,)).fetchone()
        except sqlite3.OperationalError:
            # The assembler has made the file and not yet its tables.
            return None
        return row[0] if row else None

    return ask
