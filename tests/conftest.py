"""What every test may need: real peers, real data, free ports. A missing peer skips, or fails under REQUIRE_PEERS=1."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from absent import absent
from hypothesis import HealthCheck, settings
from kafka_broker import broker, kafka_bus, kafka_servers, make_broker, prefix, quorum  # noqa: F401 - fixtures
from pynetdicom import _config
from s3 import aged_bucket, new_bucket, s3, s3_credentials, way  # noqa: F401 - fixtures

# How long an example takes says nothing on a loaded machine, and who runs the tests gets the examples that others got:
# `pytest --hypothesis-profile=search` looks for new ones.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", parent=settings.get_profile("search"), derandomize=True)
settings.load_profile("same")

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="module", autouse=True)
def libraries_as_they_were() -> Iterator[None]:
    """What a receiver in this process sets for itself, of the libraries, is no other module's."""
    loggers = [logging.getLogger(name) for name in ("pynetdicom", "pydicom")]
    levels, hook = [logger.level for logger in loggers], threading.excepthook
    names = [name for name in vars(_config) if name.isupper()]
    before = {name: copy(getattr(_config, name)) for name in names}
    yield
    for name, value in before.items():
        setattr(_config, name, value)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    threading.excepthook = hook


@pytest.fixture(scope="session")
def peer() -> Callable[[str, str], str]:
    """``peer("storescu", "dcmtk")``: path of a program of a Debian package, or skip (CI: fail) with what to install."""

    def find(program: str, package: str) -> str:
        path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
        if path is None:
            absent(f"{program} is not installed: apt install {package}")
        return path

    return find


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``real_data("ct_head_phantom_philips_28x5mm")``: the unpacked folder of a public data set, or skip."""
    root = tmp_path_factory.mktemp("real-data")

    def unpack(name: str) -> Path:
        archive = _DATA / f"{name}.zip"
        if not archive.exists():
            pytest.skip(f"real data are not here: ../shared/data/{name}.zip")
        if not (root / name).exists():
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(root)
        return root / name

    return unpack


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A TCP port on 127.0.0.1 that nothing listens on, also while its server is away for a while."""
    given: set[int] = set()
    # Those from here on the kernel gives to whoever asks for any.
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    # Each process of pytest-xdist has ports of its own.
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 16
    ours = range(first // 2 + process, first, 16) if first > 10_000 else [0] * 1000

    def pick() -> int:
        for port in random.SystemRandom().sample(ours, len(ours)):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                port = int(probe.getsockname()[1])
                if port not in given:
                    given.add(port)
                    return port
        pytest.fail("no port is free")

    return pick


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """``small_disk("1m")``: a file system in memory of that size, or skip where none may be mounted."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        if os.geteuid() != 0:
            pytest.skip("only root may mount a small file system")
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def late_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender's association is descheduled behind its checkpoint until a response is there, its caller a little longer."""
    from pynetdicom import AE
    from pynetdicom.association import Association
    from pynetdicom.dimse import DIMSEServiceProvider

    def put(association: Any, paused: bool) -> None:
        was = vars(association).get("paused")
        if was and not paused and threading.current_thread() is association and association.is_requestor:
            until = time.monotonic() + 0.2
            while association.dimse.msg_queue.empty() and time.monotonic() < until:
                time.sleep(0.0005)
        vars(association)["paused"] = paused

    told = property(lambda association: vars(association)["paused"], put)
    monkeypatch.setattr(Association, "_is_paused", told, raising=False)
    get = DIMSEServiceProvider.get_msg

    def get_late(provider: Any, block: bool = False) -> Any:
        if block:
            time.sleep(0.25)
        return get(provider, block)

    associate = AE.associate

    def associate_late(*args: Any, **kwargs: Any) -> Association:
        association = associate(*args, **kwargs)
        time.sleep(0.02)
        return association

    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", get_late)
    monkeypatch.setattr(AE, "associate", associate_late)
