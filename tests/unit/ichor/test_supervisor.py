"""The supervisor with small roles of its own, as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ichor.cli.supervisor import COMMANDS, roles_of

PROGRAM = """
import sys, pathlib, logging
from ichor.cli.supervisor import Supervisor
from ichor.errors import CannotStart
logging.basicConfig(stream=sys.stderr)
folder = pathlib.Path(sys.argv[1])
def good(stop, on_ready):
    on_ready(); stop.wait()
def cannot(stop, on_ready):
    raise CannotStart("the port is taken")
def stubborn(stop, on_ready):
    on_ready()
    while True: stop.wait(); import time; time.sleep(60)
roles = {"good": good}
if len(sys.argv) > 2: roles[sys.argv[2]] = globals()[sys.argv[2]]
sys.exit(Supervisor(roles, folder).run())
"""


def start(folder: Path, *extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), *extra], stderr=subprocess.PIPE, text=True)


def wait_file(path: Path, process: subprocess.Popen[str], other_than: str = "") -> str:
    while process.poll() is None:
        try:
            text = path.read_text()
        except FileNotFoundError:
            continue
        if text and text != other_than:
            return text
    pytest.fail(f"ended with {process.returncode}")


def test_a_role_that_cannot_start_ends_all_with_its_reason(tmp_path: Path) -> None:
    process = start(tmp_path, "cannot")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the port is taken" in errors


def test_a_killed_role_is_started_again_and_sigterm_drains(tmp_path: Path) -> None:
    process = start(tmp_path)
    first = wait_file(tmp_path / "good.ready", process)
    os.kill(int(first), signal.SIGKILL)
    second = wait_file(tmp_path / "good.ready", process, other_than=first)
    assert second != first
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 0
    assert not (tmp_path / "good.ready").exists()
    assert process.stderr is not None
    process.stderr.close()


@pytest.mark.soak
def test_a_role_that_does_not_drain_is_killed_and_said(tmp_path: Path) -> None:
    process = start(tmp_path, "stubborn")
    pid = int(wait_file(tmp_path / "stubborn.ready", process))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "stubborn did not drain" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_further_receiving_processes_are_roles_behind_the_first() -> None:
    assert roles_of("receive", stow=True, receivers=3) == ("receive", "receive-2", "receive-3", "relay", "stow")
    assert roles_of(*COMMANDS, stow=False) == ("receive", "relay", "assemble", "work", "send", "console")
