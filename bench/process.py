"""The contract's figures of the process: a dead role is back, a killed serve is ready again, SIGTERM drains.

Goals (docs/contract.md): started again <= 2 s, ready <= 15 s, drained <= 10 s; the longest of several runs counts.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench._site import free_ports, start_ichor, wait
from ichor.cli.supervisor import COMMANDS, roles_of
from ichor.config import ListenerSettings

ROLES = roles_of(*COMMANDS, stow=False, receivers=ListenerSettings().processes)
RUNS = 3
GOALS = {"dead role started again": 2.0, "killed serve ready again": 15.0, "SIGTERM to exit": 10.0}


def main() -> int:
    seconds: dict[str, list[float]] = {name: [] for name in GOALS}
    with tempfile.TemporaryDirectory(prefix="ichor-bench-") as temporary:
        folder = Path(temporary)
        ports = dict(zip(("listener", "console"), free_ports(2), strict=True))
        ready = f"http://127.0.0.1:{ports['console']}/readyz"
        server = start_ichor(folder, ports)
        wait(ready)
        for _ in range(RUNS):
            for role in ROLES:
                seconds["dead role started again"].append(_kill_role(folder, server.pid, role))
                wait(ready)
            server.kill()
            server.wait()
            started = time.monotonic()
            server = start_ichor(folder, ports)
            wait(ready)
            seconds["killed serve ready again"].append(time.monotonic() - started)
        started = time.monotonic()
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)
        seconds["SIGTERM to exit"].append(time.monotonic() - started)
    missed = False
    for name, goal in GOALS.items():
        worst = max(seconds[name])
        missed |= worst > goal
        print(f"{name:>26}: longest of {len(seconds[name])} {worst:6.2f} s, goal <= {goal:.0f} s")
    return 1 if missed else 0


def _kill_role(folder: Path, supervisor: int, role: str) -> float:
    """Seconds until the supervisor has a new child."""
    pid = int((folder / "data" / "run" / f"{role}.ready").read_text())
    before = _children(supervisor)
    started = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while not _children(supervisor) - before:
        time.sleep(0.005)
    return time.monotonic() - started


def _children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


if __name__ == "__main__":
    sys.exit(main())
