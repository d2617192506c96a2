"""A whole site on free ports in a temporary folder: `ichor serve` as a process, and what a tester does with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ICHOR = [sys.executable, "-m", "ichor"]


@dataclass
class Site:
    """`ichor serve`, or another ``command``, in ``folder``; ``env`` are its settings."""

    folder: Path
    listener_port: int
    console_port: int
    env: dict[str, str] = field(default_factory=dict)
    engines: Path | None = None  # compiled before: a new data folder begins with them
    process: subprocess.Popen[bytes] | None = None
    command: str = "serve"

    def settings(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("ICHOR_", "PROMETHEUS_"))}
        return clean | {
            "ICHOR_DATA": str(self.folder / "data"),
            "ICHOR_LISTENER__PORT": str(self.listener_port),
            "ICHOR_CONSOLE__PORT": str(self.console_port),
            **self.env,
        }

    def add_destination(self, index: int, *, name: str, ae_title: str, port: int) -> None:
        prefix = f"ICHOR_DESTINATIONS__{index}__"
        self.env |= {
            prefix + "NAME": name, prefix + "AE_TITLE": ae_title, prefix + "HOST": "127.0.0.1", prefix + "PORT": str(port),
        }  # fmt: skip

    def start(self, *, wait: bool = True) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self.folder / "data"
        if self.engines is not None and not data.exists():
            data.mkdir(mode=0o700)
            shutil.copytree(self.engines, data / "engines")
        log = (self.folder / "serve.log").open("ab")
        self.process = subprocess.Popen([*ICHOR, self.command], env=self.settings(), stdout=log, stderr=log)
        log.close()
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout: float = 300.0) -> None:
        self.until(lambda: self._is_ready(), timeout=timeout, what="readiness")

    def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"serve ended with {self.process.returncode}:\n{self.log()[-3000:]}")
        try:
            return self.request("/readyz")[0] == 200
        except OSError:
            return False

    def log(self) -> str:
        return (self.folder / "serve.log").read_text(errors="replace")

    def request(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.console_port}{path}", data=data, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, raw, kind = answer.status, answer.read(), answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            status, raw, kind = error.code, error.read(), error.headers.get_content_type()
        return status, json.loads(raw) if kind == "application/json" else raw

    def study(self, uid: str) -> dict[str, Any] | None:
        status, answer = self.request(f"/api/v1/studies/{uid}")
        return answer if status == 200 else None

    def wait_study(
        self, uid: str, *, states: tuple[str, ...] = ("done", "failed"), revision: int = 1, timeout: float = 600.0
    ) -> dict[str, Any]:
        """The study once it is in one of ``states`` at ``revision`` or later."""
        last: dict[str, Any] | None = None

        def there() -> bool:
            nonlocal last
            try:
                last = self.study(uid)
            except OSError:
                return False
            return last is not None and last["state"] in states and last["revision"] >= revision

        self.until(there, timeout=timeout, what=lambda: f"study {uid} in {states}: {json.dumps(last)[:3000]}")
        assert last is not None
        return last

    def until(self, true: Callable[[], bool], *, timeout: float, what: str | Callable[[], str]) -> None:
        deadline = time.monotonic() + timeout
        while not true():
            if time.monotonic() > deadline:
                text = what if isinstance(what, str) else what()
                pytest.fail(f"waited {timeout:.0f} s in vain for {text}\n--- log\n{self.log()[-3000:]}")
            time.sleep(0.05)

    def ichor(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command with this site's settings."""
        done = subprocess.run([*ICHOR, *arguments], env=self.settings(), capture_output=True, text=True, timeout=240)
        if check and done.returncode != 0:
            pytest.fail(f"ichor {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def push(self, folder: Path, *, called: str = "ICHOR") -> None:
        self.ichor("push", str(folder), "--to", f"{called}@127.0.0.1:{self.listener_port}")

    def stop(self) -> int:
        """SIGTERM and its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
