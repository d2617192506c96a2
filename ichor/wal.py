"""SQLite's write-ahead log; one machine's processes alone may share a file that has one."""

from __future__ import annotations

import sqlite3
import time


def set_wal(db: sqlite3.Connection, *, patience: float = 30.0) -> None:
    """Switch to WAL, for which SQLite, unlike for all else, does not wait while others use the file.

    Parameters
    ----------
    patience : seconds after which what SQLite said of the lock is raised.

    Raises
    ------
    sqlite3.OperationalError
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
