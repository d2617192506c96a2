"""A task in a thread of its own, and what came of it. Ends nothing: a thread cannot be ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ichor.errors import IchorError

T = TypeVar("T")


class Running(Generic[T]):
    """A task in a daemon thread: one that hangs does not keep the process alive. ``finished`` is set at its end."""

    def __init__(self, task: Callable[[], T]) -> None:
        self.finished = threading.Event()
        self._value: T | None = None
        self._error: BaseException | None = None
        self._task = task
        threading.Thread(target=self._run, name="attempt", daemon=True).start()

    def _run(self) -> None:
        try:
            self._value = self._task()
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            self._error = error
        except BaseException as error:  # noqa: BLE001 - a panic of a library in Rust, or an exit: ends this task only
            self._error = IchorError(f"unexpected error ({type(error).__name__})")
            self._error.__cause__ = error
        finally:
            self.finished.set()

    def result(self) -> T | None:
        """What the task gave, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._value
