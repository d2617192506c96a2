"""What docs/contract.md says of the process: restarts, death of the parent, one per folder, drain, exit codes.

Its figures (2 s, 15 s, 10 s) are measured by `python -m bench process`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.site import ICHOR, Site

from ichor.cli.supervisor import COMMANDS, roles_of
from ichor.config import ListenerSettings

RECEIVERS = ListenerSettings().processes
ROLES = roles_of(*COMMANDS, stow=False, receivers=RECEIVERS)


def pids(site: Site) -> dict[str, int]:
    """Process id of every role that says it is ready."""
    folder = site.folder / "data" / "run"
    return {p.stem: int(p.read_text()) for p in folder.glob("*.ready") if p.read_text()}


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_every_role_has_its_process_and_a_dead_one_is_started_again(site: Site) -> None:
    site.start()
    site.until(
        lambda: sorted(pids(site)) == sorted(ROLES), timeout=300, what="all roles"
    )  # /readyz asks the first receiver
    first = pids(site)
    assert len(set(first.values())) == len(ROLES)
    for role in ROLES:
        kill_and_wait(site, role, pids(site))
    assert site.stop() == 0


def kill_and_wait(site: Site, role: str, before: dict[str, int]) -> None:
    os.kill(before[role], signal.SIGKILL)
    site.until(lambda: len(set(children(site)) - set(before.values())) == 1, timeout=300, what=f"{role} started again")
    site.until(lambda: pids(site).get(role) not in (None, before[role]), timeout=300, what=f"{role} ready")


def children(site: Site) -> list[int]:
    assert site.process is not None
    listing = Path(f"/proc/{site.process.pid}/task/{site.process.pid}/children")
    return [int(pid) for pid in listing.read_text().split()]


def test_children_die_with_a_killed_parent_and_a_second_start_goes_on(site: Site) -> None:
    site.start()
    before = pids(site)
    assert site.process is not None
    site.process.kill()
    site.process.wait()
    site.until(lambda: all(gone(pid) for pid in before.values()), timeout=300, what="children to die")
    site.start()
    assert not set(before.values()) & set(pids(site).values())


def test_a_second_serve_on_the_same_folder_refuses(site: Site) -> None:
    site.start()
    other = Site(site.folder, site.listener_port + 1, site.console_port + 1)
    second = other.ichor("serve", check=False)
    assert second.returncode == 1
    assert "in use" in second.stderr
    assert site.request("/readyz")[0] == 200


def test_receive_alone_is_a_receiver_and_a_relay_of_which_a_folder_has_one(
    site: Site, free_port: Callable[[], int]
) -> None:
    folder = site.folder
    folder.mkdir(parents=True)
    with (folder / "serve.log").open("ab") as log:
        receive = subprocess.Popen([*ICHOR, "receive"], env=site.settings(), stdout=log, stderr=log)
    try:
        site.until(
            lambda: sorted(pids(site)) == sorted(roles_of("receive", stow=False, receivers=RECEIVERS)),
            timeout=180,
            what="receiver and relay",
        )
        other = site.ichor("receive", "--set", f"listener.port={free_port()}", check=False)
        assert other.returncode == 1
        assert "in use" in other.stderr
        before = pids(site)
        assert not any(gone(pid) for pid in before.values())
        receive.send_signal(signal.SIGTERM)
        assert receive.wait(120) == 0
        assert all(gone(pid) for pid in before.values())
    finally:
        receive.kill()
        receive.wait()


def test_sigterm_drains_and_leaves_nobody_behind(site: Site) -> None:
    site.start()
    before = pids(site)
    assert site.stop() == 0
    assert all(gone(pid) for pid in before.values())


def test_a_taken_port_ends_serve_with_one_clear_line(site: Site, tmp_path: Path) -> None:
    site.start()
    other = Site(tmp_path / "other", site.listener_port, site.console_port)
    second = other.ichor("serve", check=False)
    assert second.returncode == 1
    assert str(site.listener_port) in second.stderr or str(site.console_port) in second.stderr


def test_a_newer_data_folder_is_refused(site: Site) -> None:
    data = site.folder / "data"
    data.mkdir(parents=True)
    (data / "VERSION").write_text("999\n")
    second = site.ichor("serve", check=False)
    assert second.returncode == 1
    assert "999" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["facts", "absent"], "absent"),
        (["array", "absent", "--out", "x"], "absent"),
        (["fit", "outcome"], "fit"),
        (["import", "nnunet"], "import"),
        (["phantom", "dwi", "--seed", "1", "--out", "x"], "dwi"),
        (["phantom", "ct-head", "--seed", "1", "--out", "x", "--followup-of", "y"], "followup"),
        (["serve", "--set", "listener.tls.cert=x"], "listener.tls"),
        (["serve", "--set", "bus.url=amqp://h:1"], "bus.url"),
        (["serve", "--set", "listener.prot=1"], "prot"),
        (["push", ".", "--to", "nonsense"], "nonsense"),
        (["nonsense"], "nonsense"),
    ],
)
def test_what_is_not_built_or_wrong_stops_with_exit_2_and_its_name(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    done = subprocess.run([*ICHOR, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
