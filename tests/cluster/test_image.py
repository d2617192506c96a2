"""The CPU image, for files and for S3, built by buildah from the Dockerfile and started. Minutes each: `-m cluster`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.soak, pytest.mark.timeout(3000)]
BASE = os.environ.get("ICHOR_TEST_BASE", "localhost/ichor-test-base")
UID = 10001


class Buildah:
    """buildah without an engine: every container is a folder and a chroot."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.environ = os.environ | {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}

    def __call__(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            [self.path, *arguments], capture_output=True, text=True, check=False, env=self.environ, timeout=2900
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def buildah(peer: Callable[[str, str], str]) -> Buildah:
    if os.geteuid() != 0:
        pytest.skip("only root builds images here")
    made = Buildah(peer("buildah", "buildah"))
    known = subprocess.run(
        [made.path, "inspect", "--type", "image", BASE], capture_output=True, check=False, env=made.environ
    )
    if known.returncode != 0:
        pytest.skip(f"no image {BASE}: tests/cluster/tools base, or ICHOR_TEST_BASE")
    return made


@pytest.fixture(scope="module", params=["serve", "s3"])
def requirements(request: pytest.FixtureRequest) -> str:
    """What the Dockerfile calls so."""
    return str(request.param)


@pytest.fixture(scope="module")
def container(buildah: Buildah, requirements: str) -> Iterator[str]:
    given = [f"--build-arg={name}" for name in ("PIP_INDEX_URL", "PIP_CERT") if name in os.environ]
    buildah(
        "bud", "--quiet", "--layers", f"--build-arg=BASE={BASE}",
        f"--build-arg=REQUIREMENTS={requirements}", *given, "--volume=/etc/ssl/certs:/etc/ssl/certs:ro",
        f"--tag=localhost/ichor-test-{requirements}", ROOT,
    )  # fmt: skip
    name = buildah("from", "--pull-never", f"localhost/ichor-test-{requirements}")
    yield name
    buildah("rm", name)


def test_the_image_is_not_root_and_holds_nothing_that_builds(
    buildah: Buildah, container: str, requirements: str
) -> None:  # fmt: skip
    assert buildah("run", container, "--", "id", "-u") == str(UID)
    assert buildah("run", container, "--", "ichor", "--version").startswith("ichor ")
    missing = "import importlib.util as u, sys; sys.exit(any(u.find_spec(n) for n in ('pip', 'pytest', 'torch')))"
    buildah("run", container, "--", "python", "-c", missing)
    known = "import importlib.util as u; print(u.find_spec('s3fs') is not None)"
    assert buildah("run", container, "--", "python", "-c", known) == str(requirements == "s3")
    # Nothing of the installation is the user's, so nothing of it can be written.
    writable = buildah("run", container, "--", "find", "/opt/ichor", "/usr", "-xdev", "-writable", "!", "-type", "l")
    assert writable == ""


def test_the_started_image_answers_a_c_echo(
    buildah: Buildah, container: str, peer: Callable[[str, str], str], free_port: Callable[[], int], tmp_path: Path
) -> None:
    echo = peer("echoscu", "dcmtk")
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, UID, UID)
    dicom, console = free_port(), free_port()
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                buildah.path, "run", f"--volume={data}:/var/lib/ichor", container, "--", "ichor", "serve",
                "--data", "/var/lib/ichor", "--set", f"listener.port={dicom}", "--set", f"console.port={console}",
            ],
            stdout=out, stderr=out, env=buildah.environ, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while True:
            asked = [echo, "-aec", "ICHOR", "127.0.0.1", str(dicom)]
            if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        assert {path.stat().st_uid for path in data.iterdir()} == {UID}
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
