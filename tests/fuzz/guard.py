"""What holds for every case: only documented exceptions, bounded time and memory, quiet logs without a patient in them."""

from __future__ import annotations

import logging
import random
import resource
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

CPU_SECONDS = 2.0
WALL_SECONDS = 60.0  # a hang that takes no processor time
MEMORY = 1 << 30  # bytes of address space beyond those at the start
SECRET = "SECRET"  # stands in every patient's name and number of the valid messages


class Target(Protocol):
    """One reader of a stranger's bytes."""

    def case(self, rng: random.Random) -> str:
        """Run one case and check what came out; a word for how it ended. AssertionError: it is not as documented."""

    def close(self) -> None: ...


class Finding(NamedTuple):
    """A case that broke something; ``--target T --seed S --only N`` runs it again."""

    target: str
    seed: int
    number: int
    what: str


class Overtime(BaseException):
    """Raised in the middle of a case, past every `except Exception`."""


class _Watch(logging.Handler):
    """Collects errors, and lines that hold a patient's name."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info))
        if record.levelno >= logging.ERROR or SECRET in text.upper():
            self.errors.append(text)


def rng_of(target: str, seed: int, number: int) -> random.Random:
    return random.Random(f"{target}/{seed}/{number}")


class Guard:
    """Runs cases of one target in the main thread; use as a context. ``limits``: hold memory and time to theirs."""

    def __init__(self, name: str, target: Target, *, seed: int, limits: bool = True) -> None:
        self._name, self._target, self._seed, self._limits = name, target, seed, limits
        self._watch = _Watch()
        self.ends: dict[str, int] = {}
        self.findings: list[Finding] = []
        self.slowest = (0.0, -1)  # seconds of processor time, case

    def __enter__(self) -> Guard:
        self._handlers, self._level = logging.root.handlers[:], logging.root.level
        logging.root.handlers[:] = [self._watch]
        logging.root.setLevel(logging.WARNING)
        self._signal: Any = signal.signal(signal.SIGALRM, _overtime)
        self._address_space = resource.getrlimit(resource.RLIMIT_AS)
        if self._limits:
            with open("/proc/self/statm") as file:
                now = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, self._address_space[1]))
        return self

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._address_space)
        signal.signal(signal.SIGALRM, self._signal)
        logging.root.handlers[:] = self._handlers
        logging.root.setLevel(self._level)

    def run(self, number: int) -> None:
        rng = rng_of(self._name, self._seed, number)
        began = time.process_time()
        wrong = ""
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        try:
            end = self._target.case(rng)
            self.ends[end] = self.ends.get(end, 0) + 1
        except (Exception, Overtime):  # noqa: BLE001 - each of them is what is looked for
            wrong = traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        took = time.process_time() - began
        self.slowest = max(self.slowest, (took, number))
        if took > CPU_SECONDS:
            wrong += f"\n{took:.1f} s of processor time"
        if self._watch.errors:
            wrong += "\nlogged: " + "\n".join(self._watch.errors)
            self._watch.errors.clear()
        if wrong:
            self.findings.append(Finding(self._name, self._seed, number, wrong.strip()))


def _overtime(*_: object) -> None:
    raise Overtime


Maker = Callable[[], Target]
