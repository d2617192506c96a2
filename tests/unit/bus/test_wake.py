"""FIFOs as wake-up and sign of life."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ichor.bus.wake import Wake, lives, notify


def test_a_notice_before_the_wait_is_not_lost(tmp_path: Path) -> None:
    wake = Wake(tmp_path / "wake", "jobs")
    notify(tmp_path / "wake", ["jobs"])
    assert not pending_is_empty(wake)
    wake.wait(30.0)
    assert pending_is_empty(wake)
    wake.close()


def test_only_its_own_channel_wakes_it(tmp_path: Path) -> None:
    one, two = Wake(tmp_path / "wake", "one"), Wake(tmp_path / "wake", "two")
    notify(tmp_path / "wake", ["two", "three"])
    assert pending_is_empty(one)
    assert not pending_is_empty(two)
    one.close()
    two.close()


def test_more_notices_than_a_fifo_holds_do_not_block(tmp_path: Path) -> None:
    wake = Wake(tmp_path / "wake", "jobs")
    end = os.open(wake.path, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while os.write(end, b"x" * 4096):
            pass
    os.close(end)
    notify(tmp_path / "wake", ["jobs"])
    assert lives(tmp_path / "wake", wake.name)
    wake.close()


def test_a_member_lives_until_it_is_closed_or_its_process_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "wake"
    code = (
        "import sys, signal\nfrom pathlib import Path\nfrom ichor.bus.wake import Wake\n"
        "wake = Wake(Path(sys.argv[1]), 'jobs')\nprint(wake.name, flush=True)\nsignal.pause()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert lives(folder, name)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not lives(folder, name)
    assert (folder / name).exists()
    notify(folder, ["jobs"])
    assert not (folder / name).exists()
    own = Wake(folder, "jobs")
    assert lives(folder, own.name)
    own.close()
    assert not lives(folder, own.name)
    assert list(folder.iterdir()) == []


def test_without_fifos_it_polls_and_its_life_is_never_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "mkfifo", refuse)
    with caplog.at_level(logging.WARNING):
        wake = Wake(tmp_path / "wake", "jobs")
    assert "polling" in caplog.text
    wake.wait(0.001)
    notify(tmp_path / "wake", ["jobs"])
    wake.close()
    assert lives(tmp_path / "wake", wake.name)


def pending_is_empty(wake: Wake) -> bool:
    poll = select.poll()
    poll.register(wake._ends[0], select.POLLIN)
    return poll.poll(0) == []
