"""Two processes that receive on one port: shares, limits over both, and the death of either under open associations."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.receive import Receive
from e2e.site import Site
from unit.listener.modality import Rejected, Scu, encode, image
from unit.listener.test_tls import Authority, SecureScu, trusting

ROLES = ("receive", "receive-2")
STUDY = "1.2.826.17"
_ESTABLISHED = "01"


@pytest.fixture
def start(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., Receive]]:
    """``start(**settings of the listener)``: `ichor receive` with both processes ready."""
    made: list[Receive] = []

    def begin(**listener: object) -> Receive:
        receiver = Receive(tmp_path / "site", free_port(), listener={"processes": 2, **listener})
        made.append(receiver)
        receiver.start()
        receiver.until(lambda: sorted(receiver.receiving()) == list(ROLES), what="both processes")
        return receiver

    yield begin
    for receiver in made:
        receiver.kill()


def held(pid: int, port: int) -> int:
    """Connections of senders that a process holds."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == _ESTABLISHED}
    return sum(os.path.realpath(link).rpartition("/")[2] in ours for link in Path(f"/proc/{pid}/fd").iterdir())


def shares(receiver: Receive) -> list[int]:
    pids = receiver.receiving()
    return [held(pids[role], receiver.port) for role in ROLES]


def store(scu: Scu, n: int) -> int:
    uid = f"{STUDY}.{n}"
    return scu.store(encode(image(uid, study=STUDY, series=f"{STUDY}.0")), sop_instance=uid)


def lives(scu: Scu, n: int) -> bool:
    """Whether an association still stores."""
    try:
        return store(scu, n) == 0
    except OSError:
        return False


def test_four_associations_are_served_two_by_two(start: Callable[..., Receive]) -> None:
    receiver = start()
    senders = [Scu(receiver.port) for _ in range(4)]
    receiver.until(lambda: shares(receiver) == [2, 2], what="two each")
    assert [store(scu, n) for n, scu in enumerate(senders)] == [0] * 4
    for scu in senders:
        scu.release()
    receiver.until(lambda: receiver.journalled(STUDY) == 4, what="four objects in the journal")
    assert receiver.log().count("receiving on") == 1
    receiver.stop()


def test_limits_count_over_both_processes(start: Callable[..., Receive]) -> None:
    receiver = start(associations=3)
    senders = [Scu(receiver.port) for _ in range(3)]
    assert min(shares(receiver)) > 0
    for _ in range(4):
        with pytest.raises(Rejected) as rejected:
            Scu(receiver.port)
        assert rejected.value.args[0] == (2, 3, 2)
    senders.pop().release()
    receiver.until(lambda: admitted(receiver, senders), what="the place of the one that was released")
    with pytest.raises(Rejected):
        Scu(receiver.port)


def admitted(receiver: Receive, senders: list[Scu]) -> bool:
    try:
        senders.append(Scu(receiver.port))
    except Rejected:
        return False
    return True


@pytest.mark.parametrize(("killed", "left"), [ROLES, ROLES[::-1]])
def test_associations_of_one_process_outlive_the_other(start: Callable[..., Receive], killed: str, left: str) -> None:
    receiver = start(associations=4)
    senders = [Scu(receiver.port) for _ in range(4)]
    receiver.until(lambda: shares(receiver) == [2, 2], what="two each")
    survivor = receiver.receiving()[left]
    receiver.kill_receiving(killed)
    assert receiver.receiving()[left] == survivor
    alive = [scu for n, scu in enumerate(senders) if lives(scu, n)]
    assert len(alive) == 2
    # The places of the dead are free again, those of the living are not.
    alive += [Scu(receiver.port) for _ in range(2)]
    receiver.until(lambda: shares(receiver) == [2, 2], what="two each again")
    with pytest.raises(Rejected):
        Scu(receiver.port)
    assert [store(scu, 10 + n) for n, scu in enumerate(alive)] == [0] * 4
    for scu in alive:
        scu.release()
    receiver.until(lambda: receiver.journalled(STUDY) == 6, what="what both have stored in the journal")


def hang(process: int) -> None:
    """Stop a process, and see all its threads stopped: one still on its way might take a connection with it."""
    os.kill(process, signal.SIGSTOP)
    tasks = Path(f"/proc/{process}/task")
    while any((task / "stat").read_text().rpartition(")")[2].split()[0] != "T" for task in tasks.iterdir()):
        time.sleep(0.01)


def test_a_connection_that_was_given_to_a_process_that_hangs_is_served_by_the_first(
    start: Callable[..., Receive],
) -> None:
    receiver = start()
    second = receiver.receiving()["receive-2"]
    first = Scu(receiver.port)
    hang(second)
    more = [Scu(receiver.port) for _ in range(3)]  # the first of these comes back from the other's inbox
    assert [store(scu, n) for n, scu in enumerate([first, *more])] == [0] * 4
    assert held(receiver.receiving()["receive"], receiver.port) == 4
    assert receiver.log().count("receiving process 2 does not take its connections") >= 1
    os.kill(second, signal.SIGCONT)
    receiver.until(
        lambda: more.append(Scu(receiver.port)) is None and held(second, receiver.port) > 0, what="its share again"
    )
    assert [store(scu, 10 + n) for n, scu in enumerate(more)] == [0] * len(more)


def test_nobody_who_connects_is_lost_while_one_process_is_stopped(start: Callable[..., Receive]) -> None:
    receiver = start()
    first = Scu(receiver.port)
    second = receiver.receiving()["receive-2"]
    stays = Scu(receiver.port)  # so it drains for seconds
    receiver.until(lambda: held(second, receiver.port) == 1, what="one for the second process")
    os.kill(second, signal.SIGTERM)
    while "role receive-2 ended" not in receiver.log():
        Scu(receiver.port).release()
    assert store(first, 0) == 0
    stays.socket.close()
    receiver.until(lambda: sorted(receiver.receiving()) == list(ROLES), what="both processes")


def test_a_hand_over_comes_before_tls(
    start: Callable[..., Receive], tmp_path: Path, peer: Callable[[str, str], str]
) -> None:
    authority = Authority(tmp_path, peer("openssl", "openssl"), "hospital")
    certificate, key = authority.issue("server")
    receiver = start(**{"tls.cert": str(certificate), "tls.key": str(key), "tls.ca": str(authority.certificate)})
    client = trusting(authority.issue("ct"))
    senders = [SecureScu(receiver.port, client) for _ in range(4)]
    receiver.until(lambda: shares(receiver) == [2, 2], what="two each")
    assert [store(scu, n) for n, scu in enumerate(senders)] == [0] * 4
    for scu in senders:
        scu.release()


def test_a_stop_leaves_nobody_waiting(start: Callable[..., Receive]) -> None:
    receiver = start()
    senders = [socket.create_connection(("127.0.0.1", receiver.port), timeout=60) for _ in range(6)]
    receiver.until(lambda: shares(receiver) == [3, 3], what="three connections each")
    receiver.stop()
    assert [sender.recv(1) for sender in senders] == [b""] * 6


def test_stat_on_one_process_slows_routine_on_the_other_and_metrics_add_up(site: Site) -> None:
    site.env |= {"ICHOR_LISTENER__PROCESSES": "2", "ICHOR_LISTENER__STAT_AE_TITLES": '["ICHOR_STAT"]'}
    site.start()
    run = site.folder / "data" / "run"
    site.until(lambda: (run / "receive-2.ready").exists(), timeout=300, what="both processes")
    urgent, routine = Scu(site.listener_port, called="ICHOR_STAT"), Scu(site.listener_port)
    pids = [int((run / f"{role}.ready").read_text()) for role in ROLES]
    assert [held(pid, site.listener_port) for pid in pids] == [1, 1]
    sampled = metrics(site)
    assert sampled["ichor_associations_open"] == 2
    assert sampled['ichor_receive_path{path="fast"}'] == 2
    assert sampled["ichor_routine_waits_total"] == 0
    over = threading.Event()

    def send(scu: Scu, first: int) -> None:
        n = first
        while not over.is_set():
            assert store(scu, n) == 0
            n += 1

    sending = [threading.Thread(target=send, args=args, daemon=True) for args in ((urgent, 0), (routine, 1_000_000))]
    for thread in sending:
        thread.start()
    site.until(lambda: metrics(site)["ichor_routine_waits_total"] >= 3, timeout=300, what="routine objects that wait")
    over.set()
    for thread in sending:
        thread.join(timeout=60)
    urgent.release()
    routine.release()
    site.until(lambda: metrics(site)["ichor_associations_open"] == 0, timeout=300, what="the end of both")


def metrics(site: Site) -> dict[str, float]:
    _, text = site.request("/metrics")
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
