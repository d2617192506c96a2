"""The supervisor: one process per role, forked from a warm parent. Knows processes, nothing of DICOM.

Roles are forked, not started anew, so that a dead one is back within tens of milliseconds although its imports take
a second. The parent stays single-threaded (a fork of a threaded process may inherit held locks). Children ask the
kernel to be killed with the parent (PR_SET_PDEATHSIG), so they die however it dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ichor.cli.metrics_folder import count_as, forget_live
from ichor.errors import CannotStart, IchorError

log = logging.getLogger(__name__)

Role = Callable[[threading.Event, Callable[[], None]], None]
# What ``ichor NAME`` runs alone, each in a process of its own; ``ichor serve`` runs all.
COMMANDS = {
    "receive": ("receive", "relay", "stow"),
    "assemble": ("assemble",),
    "work": ("work",),
    "send": ("send",),
    "console": ("console",),
}

_RECEIVE, _STOW = "receive", "stow"
_CANNOT_START = 78  # EX_CONFIG of sysexits.h: trying again will not help
_DRAIN_SECONDS = 9.0
# A role that dies at once is tried again soon, then less often; always below the two seconds that docs/contract.md promises.
_BACKOFF = (0.0, 0.1, 0.3, 0.8, 1.5)
_PR_SET_PDEATHSIG = 1
_READY_AGAIN = 1.0  # seconds


def roles_of(*commands: str, stow: bool, receivers: int = 1) -> tuple[str, ...]:
    """The roles of ``commands``, in the order of their start.

    ``stow``: whether that one is configured; ``receivers``: 2 and more are ``receive-2`` and so on.
    """
    roles: list[str] = []
    for role in (role for name in commands for role in COMMANDS[name] if stow or role != _STOW):
        roles.append(role)
        if role == _RECEIVE:
            roles += [f"{_RECEIVE}-{number}" for number in range(2, receivers + 1)]
    return tuple(roles)


@dataclass
class _Child:
    pid: int
    started: float
    quick_deaths: int = 0
    due: float | None = field(default=None)  # when to start again


class Supervisor:
    """Keeps every role alive until SIGTERM or SIGINT, then drains them."""

    def __init__(self, roles: Mapping[str, Role], run_folder: Path) -> None:
        self._roles = roles
        self._folder = run_folder
        self._children: dict[str, _Child] = {}
        self._stopping = False
        self._wake, self._poke = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._poke, False)

    def run(self) -> int:
        """Serve until a signal; 0 after a clean drain, 1 when a role cannot start or had to be killed."""
        signal.set_wakeup_fd(self._poke, warn_on_full_buffer=False)
        for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(sign, self._noticed)
        self._forget_ready()
        for name in self._roles:
            self._start(name, quick_deaths=0)
        while not self._stopping:
            code = self._reap()
            if code is not None:
                self._drain()
                return code
            self._restart_due()
            self._sleep()
        return self._drain()

    def _forget_ready(self) -> None:
        # Of ours only: other single roles may run beside us.
        for name in self._roles:
            self._forget(name)

    def _forget(self, name: str) -> None:
        (self._folder / f"{name}.ready").unlink(missing_ok=True)
        forget_live(name)

    def _noticed(self, number: int, _frame: object) -> None:
        # Only flags: the loop does the work. SIGCHLD merely ends the sleep.
        if number != signal.SIGCHLD:
            self._stopping = True

    def _sleep(self) -> None:
        """Until a signal (it writes to the wake-up pipe) or the next start that is due."""
        due = [max(0.0, c.due - time.monotonic()) for c in self._children.values() if c.due is not None]
        if select.select([self._wake], [], [], min([5.0, *due]))[0]:
            os.read(self._wake, 4096)

    def _start(self, name: str, quick_deaths: int) -> None:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os._exit(_child(name, self._roles[name], self._folder, parent))
        self._children[name] = _Child(pid, time.monotonic(), quick_deaths)

    def _reap(self) -> int | None:
        """Note dead children; an exit code when the whole must end."""
        for name, child in list(self._children.items()):
            if child.due is not None:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid == 0:
                continue
            self._forget(name)
            code = os.waitstatus_to_exitcode(status)
            if code == _CANNOT_START:
                del self._children[name]
                log.error("stopping all roles: %s cannot start", name)
                return 1
            lived = time.monotonic() - child.started
            child.quick_deaths = child.quick_deaths + 1 if lived < 5.0 else 0
            child.due = time.monotonic() + _BACKOFF[min(child.quick_deaths, len(_BACKOFF) - 1)]
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            log.warning("role %s ended (%s) after %.1f s; starting it again", name, how, lived)
        return None

    def _restart_due(self) -> None:
        now = time.monotonic()
        for name, child in list(self._children.items()):
            if child.due is not None and child.due <= now:
                self._start(name, child.quick_deaths)

    def _drain(self) -> int:
        """SIGTERM to all, SIGKILL to who is left at the end of the time."""
        alive = {n: c for n, c in self._children.items() if c.due is None}
        for child in alive.values():
            _signal(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + _DRAIN_SECONDS
        killed = False
        while alive:
            for name, child in list(alive.items()):
                if os.waitpid(child.pid, os.WNOHANG)[0]:
                    del alive[name]
            if alive and time.monotonic() > deadline:
                killed = True
                for name, child in alive.items():
                    log.warning("role %s did not drain in time", name)
                    _signal(child.pid, signal.SIGKILL)
                    os.waitpid(child.pid, 0)
                break
            time.sleep(0.02)
        self._forget_ready()
        return 1 if killed else 0


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        log.debug("process %d was gone already", pid)


def _child(name: str, role: Role, folder: Path, parent: int) -> int:
    """Body of a forked role; its exit code."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with(parent)
    count_as(name)
    return run_role(name, role, folder, forked=True)


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when ``parent`` dies (Linux); exit at once if it has died already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def run_role(name: str, role: Role, folder: Path, *, forked: bool = False) -> int:
    """Run one role in this process until SIGTERM (alone: or SIGINT); 0 after a clean drain."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # Ctrl-C reaches the whole process group: under a supervisor only that one acts on it, and then asks us.
    signal.signal(signal.SIGINT, signal.SIG_IGN if forked else lambda *_: stop.set())
    ready = folder / f"{name}.ready"
    try:
        role(stop, lambda: _say_ready(name, ready, stop))
    except CannotStart as error:
        log.error("role %s cannot start: %s", name, error)
        return _CANNOT_START
    except IchorError as error:
        log.error("role %s: %s", name, error)
        return 1
    except OSError as error:
        log.error("role %s: %s", name, error.strerror)
        return 1
    except Exception:
        log.exception("role %s died of an unexpected error", name)
        return 1
    finally:
        ready.unlink(missing_ok=True)
        logging.shutdown()
    return 0


def _say_ready(name: str, path: Path, stop: threading.Event) -> None:
    """Write the ready file; where that fails, as on a full disk, say so once and try on while the role works."""
    try:
        _write_pid(path)
    except OSError as error:
        log.warning("role %s works but cannot say that it is ready (%s); trying again", name, error.strerror)
        threading.Thread(target=_say_ready_in_the_end, args=(name, path, stop), name="ready", daemon=True).start()


def _say_ready_in_the_end(name: str, path: Path, stop: threading.Event) -> None:
    while not stop.wait(_READY_AGAIN):
        with contextlib.suppress(OSError):
            _write_pid(path)
            log.info("role %s is ready", name)
            return


def _write_pid(path: Path) -> None:
    path.write_text(str(os.getpid()))


def all_ready(folder: Path, roles: list[str]) -> tuple[bool, str]:
    """Are all roles up? The detail names those that are not."""
    missing = [name for name in roles if not _alive(folder / f"{name}.ready")]
    return not missing, "ready" if not missing else f"waiting for: {', '.join(missing)}"


def _alive(path: Path) -> bool:
    try:
        os.kill(int(path.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True
