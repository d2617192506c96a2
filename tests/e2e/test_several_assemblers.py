"""A receiver and two assemblers as processes: studies are shared, and one that is killed leaves nothing behind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from e2e.receive import Receive
from unit.listener.modality import Scu, encode, image

from ichor.bus.sqlite import SqliteBus
from ichor.clock import SystemClock
from ichor.messages import EVENTS, StudyAssembled, open_envelope
from ichor.shards import shard_of
from ichor.store.ownership import unowned

SHARDS = 4
STUDIES = [f"1.2.826.24.{n}" for n in range(12)]


def send(receive: Receive, numbers: range) -> None:
    scu = Scu(receive.port, calling="CT1")
    for study in STUDIES:
        for number in numbers:
            uid = f"{study}.1.{number}"
            data = encode(image(uid, study=study, series=f"{study}.1"))
            assert scu.store(data, sop_instance=uid) == 0
    scu.release()


def images(receive: Receive) -> dict[str, int]:
    """Images of each study, as its assembler knows them."""
    bus = SqliteBus(receive.data / "bus.sqlite", clock=SystemClock())
    try:
        views = [open_envelope(envelope) for _, envelope in bus.read(EVENTS, limit=100_000)]
    finally:
        bus.close()
    found = {v.study_instance_uid: v for v in views if isinstance(v, StudyAssembled)}
    return {uid: sum(series.instances for series in view.series) for uid, view in found.items()}


def test_two_assemblers_share_the_studies_and_one_takes_over(tmp_path: Path, free_port: Callable[[], int]) -> None:
    assert len({shard_of(study, SHARDS) for study in STUDIES}) == SHARDS
    receive = Receive(tmp_path / "site", free_port(), listener={"processes": 1}, assemble={"shards": SHARDS})
    assemblers: list[subprocess.Popen[bytes]] = []
    state = receive.data / "assembly"

    def shared(among: int) -> bool:
        return len(list((state / "members").iterdir())) == among and not unowned(state, SHARDS)

    try:
        receive.start()
        assemblers.append(receive.beside("assemble"))
        receive.until(lambda: (state / "members").exists() and shared(1), what="the first assembler")
        assemblers.append(receive.beside("assemble"))
        receive.until(lambda: shared(2) and receive.log().count("is given up") == 2, what="the second one")
        send(receive, range(3))
        receive.until(lambda: images(receive) == dict.fromkeys(STUDIES, 3), what="all studies")
        assemblers[0].kill()
        send(receive, range(3, 5))
        receive.until(lambda: images(receive) == dict.fromkeys(STUDIES, 5), what="all studies again")

        assert not (receive.data / "assembly.sqlite").exists()
        assert sorted(path.name for path in state.glob("*.sqlite")) == [f"{n}.sqlite" for n in range(SHARDS)]
        why = receive.ichor("why", STUDIES[0])
        assert (why.returncode, "First seen" in why.stdout) == (0, True)
        assert f"{SHARDS} of {SHARDS} have an assembler" in receive.ichor("doctor").stdout
        (receive.folder / "ichor.toml").write_text(
            (receive.folder / "ichor.toml").read_text().replace("shards = 4", "shards = 2")
        )
        for role in ("assemble", "receive"):
            refused = receive.ichor(role)
            assert (refused.returncode, refused.stderr.count("divided into 4")) == (1, 1)
    finally:
        for process in assemblers:
            process.kill()
            process.wait()
        receive.kill()
