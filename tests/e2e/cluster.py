"""A whole cluster on one machine: each role of Ichor a process with a data folder of its own, one store, one real Kafka.

Not Kubernetes: `Cluster` starts what died again, as a kubelet does, and knows nothing else of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from pathlib import Path

import pydicom
import pytest
from e2e.orthanc import Orthanc
from e2e.site import ICHOR
from e2e.stream import data_set_bytes
from pydicom.dataset import Dataset

from ichor.bus.kafka import KafkaBus
from ichor.config import KafkaSettings
from ichor.errors import TransientError
from ichor.history import Projection
from ichor.history.projection import log as messages_of
from ichor.history.study import Study
from ichor.messages import InstancesReceived, open_envelope
from ichor.shards import shards
from ichor.store.protocol import Spool
from ichor.store.spool import FileSpool
from ichor.types import StudyState

PATIENCE = 1200.0  # seconds of a machine that does much else; never waited for when all is well
_SHARDS = 4
_REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
_TEXT_REPORT = "1.2.840.10008.5.1.4.1.1.88.11"
_BACK_AFTER = 0.5  # seconds, of a dead process
# Hides the entry points of the installed Ichor: of several distributions of a name the first on the path counts.
_METADATA = "Metadata-Version: 2.1\nName: ichor\nVersion: 0.1.0\n"
_ENTRY_POINTS = "[ichor.pipelines]\nsmall = small_pipeline:PIPELINE\n"


@dataclass(eq=False)
class Member:
    """One command of Ichor as a pod of its own."""

    name: str
    command: str
    folder: Path
    settings: dict[str, str]
    port: int = 0  # of a receiver
    console: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    wanted: bool = False
    starts: int = 0

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*ICHOR, self.command], env=self.environment(), cwd=self.folder, stdout=log, stderr=log
            )
        self.wanted = True
        self.starts += 1

    def environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("ICHOR_", "PROMETHEUS_"))}
        return clean | {"ICHOR_DATA": str(self.data)} | self.settings

    def processes(self) -> list[int]:
        """It and all descendants."""
        if self.process is None or self.process.poll() is not None:
            return []
        found = [self.process.pid]
        for parent in found:
            for task in Path(f"/proc/{parent}/task").glob("*/children"):
                try:
                    found += [int(child) for child in task.read_text().split()]
                except OSError:
                    continue
        return found

    def signal(self, pid: int, how: signal.Signals) -> None:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return

    def kill(self) -> None:
        """End all of it at once, and for good."""
        self.wanted = False
        tree = self.processes()
        for pid in tree:
            self.signal(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        _until(lambda: not any(_alive(pid) for pid in tree), what=f"the end of {self.name}")

    def is_ready(self) -> bool:
        """All of its roles have said so, and live."""
        ready = list((self.data / "run").glob("*.ready"))
        try:
            return bool(self.processes()) and bool(ready) and all(_alive(int(path.read_text())) for path in ready)
        except (FileNotFoundError, ValueError):
            return False

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


class Cluster:
    """Receivers, assemblers, workers and senders by number, over ``servers``; results go to ``orthanc``.

    ``whole``: each receiver is an `ichor serve`, which has all roles. ``settings``: further ones of every member.
    """

    def __init__(
        self, folder: Path, *, servers: str, prefix: str, orthanc: Orthanc, free_port: Callable[[], int],
        receivers: int = 2, assemblers: int = 2, workers: int = 3, senders: int = 2, whole: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.orthanc = folder, orthanc
        self.servers, self.prefix = servers, prefix
        self.store = folder / "store"
        self.store.mkdir(parents=True)
        self.control = folder / "control"
        (self.control / "at-work").mkdir(parents=True)
        self._plugin = plugin_folder(folder / "plugin")
        self._settings = dict(settings or {})
        command = "serve" if whole else "receive"
        self.receivers = [
            self._member(f"{command}-{n}", command, port=free_port(), console=free_port()) for n in range(receivers)
        ]
        self.assemblers = [self._member(f"assemble-{n}", "assemble") for n in range(assemblers)]
        self.workers = [self._member(f"work-{n}", "work") for n in range(workers)]
        self.senders = [self._member(f"send-{n}", "send") for n in range(senders)]
        self.left: list[Member] = []
        self._over = threading.Event()
        self._lock = threading.Lock()  # of starts
        self._kubelet: threading.Thread | None = None
        self._bus: KafkaBus | None = None
        self._projection: Projection | None = None

    @property
    def members(self) -> list[Member]:
        return [*self.receivers, *self.assemblers, *self.workers, *self.senders]

    def start(self) -> None:
        for member in self.members:
            member.start()
        self._kubelet = threading.Thread(target=self._keep_alive, daemon=True)
        self._kubelet.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        for member in self.members:
            self.until(member.is_ready, what=f"{member.name} ready")

    def end(self) -> None:
        self._over.set()
        if self._kubelet is not None:
            self._kubelet.join()
        for member in [*self.members, *self.left]:
            for pid in member.processes():
                member.signal(pid, signal.SIGCONT)
            member.kill()
        if self._bus is not None:
            self._bus.close()

    def lose_volume(self, receiver: Member) -> None:
        """Kill a receiver, and take its journal with all else of its own away; a fresh one of its name starts."""
        with self._lock:
            receiver.kill()
            shutil.rmtree(receiver.data)
            receiver.start()

    def join(self, group: list[Member]) -> Member:
        """One more worker (or assembler, or sender): ``group`` is that list of this cluster's."""
        command, number = group[-1].command, 1 + max(int(one.name.rpartition("-")[2]) for one in group)
        made = self._member(f"{command}-{number}", command)
        with self._lock:
            made.start()
            group.append(made)
        self.until(made.is_ready, what=f"{made.name} ready")
        return made

    def leave(self, group: list[Member], member: Member) -> None:
        """End one as an autoscaler does: it may hand back what it has in hand. Nobody starts it again."""
        with self._lock:
            group.remove(member)
            self.left.append(member)
        assert member.process is not None
        member.signal(member.process.pid, signal.SIGTERM)
        self.until(lambda: not member.processes(), what=f"the end of {member.name}\n{member.log()[-2500:]}")

    def at_work(self) -> list[Member]:
        """Workers with a job in hand."""
        pids = {int(sign.name) for sign in (self.control / "at-work").iterdir()}
        return [worker for worker in self.workers if pids.intersection(worker.processes())]

    def _member(self, name: str, command: str, *, port: int = 0, console: int = 0) -> Member:
        settings = {
            "ICHOR_BUS__URL": f"kafka://{self.servers}", "ICHOR_BUS__KAFKA__PREFIX": self.prefix,
            "ICHOR_BUS__KAFKA__MEMBER": name, "ICHOR_STORE__URL": f"file:{self.store}",
            "ICHOR_ASSEMBLE__SHARDS": str(_SHARDS),
            "ICHOR_DESTINATIONS__0__NAME": "pacs", "ICHOR_DESTINATIONS__0__AE_TITLE": self.orthanc.ae_title,
            "ICHOR_DESTINATIONS__0__HOST": "127.0.0.1", "ICHOR_DESTINATIONS__0__PORT": str(self.orthanc.dicom_port),
            "PYTHONPATH": str(self._plugin), "SMALL_PIPELINE": str(self.control),
        }  # fmt: skip
        if port:
            settings |= {
                "ICHOR_CONSOLE__PORT": str(console),
                "ICHOR_LISTENER__PORT": str(port), "ICHOR_LISTENER__PROCESSES": "1", "ICHOR_STORE__RECEIVER": name,
                "ICHOR_LISTENER__STAT_AE_TITLES": '["ICHOR_STAT"]',
            }  # fmt: skip
        return Member(name, command, self.folder / name, settings | self._settings, port, console)

    def _keep_alive(self) -> None:
        while not self._over.wait(_BACK_AFTER):
            with self._lock:
                for member in self.members:
                    if member.wanted and member.process is not None and member.process.poll() is not None:
                        member.start()

    # --- what came of it ----------------------------------------------------------------------------------------------

    def bus(self) -> KafkaBus:
        """Its bus, for questions."""
        if self._bus is None:
            folder = self.folder / "asking"
            folder.mkdir(exist_ok=True)
            settings = KafkaSettings(prefix=self.prefix, timeout=30.0)
            self._bus = KafkaBus(f"kafka://{self.servers}", settings, folder)
        return self._bus

    def studies(self) -> dict[str, Study]:
        """All studies of the event log, by UID."""
        if self._projection is None:
            self._projection = Projection(self.bus())
        self._projection.catch_up()
        return {study.study_instance_uid: study for study in self._projection.studies()}

    def wait_done(self, uids: Iterable[str], *, slices: int, timeout: float = PATIENCE) -> None:
        """Until all these studies are done, with all their slices, and nobody has anything left to do."""
        wanted, last = set(uids), {}

        def there() -> bool:
            nonlocal last
            try:
                studies = self.studies()
                last = {uid: _state(studies.get(uid), slices=slices) for uid in wanted}
                return set(last.values()) == {"done"} and not self.behind()
            except TransientError:
                return False

        self.until(
            there, timeout=timeout,
            what=lambda: f"{len(wanted)} studies: {Counter(last.values())}, {self.behind()}, {[u for u in wanted if last.get(u) != 'done'][:5]}",
        )  # fmt: skip

    def behind(self) -> dict[tuple[str, str], int]:
        """Messages that a group has not finished."""
        lags = {(lag.topic, lag.group): lag.waiting + lag.leased for lag in self.bus().lag()}
        return {key: count for key, count in lags.items() if count}

    def is_idle(self) -> bool:
        """Whether the bus answers that nothing waits and nobody has anything in hand."""
        try:
            return not self.behind()
        except TransientError:
            return False

    def until(self, true: Callable[[], bool], *, what: str | Callable[[], str], timeout: float = PATIENCE) -> None:
        _until(true, what=what, timeout=timeout, say=self.say)

    def say(self) -> str:
        """Ends of all logs."""
        there = [member for member in [*self.members, *self.left] if (member.folder / "log").exists()]
        return "\n".join(f"--- {m.name}, {m.starts} starts\n{m.log()[-2500:]}" for m in there)

    def logged(self, text: str) -> int:
        """How often that stands in a log."""
        return sum(member.log().count(text) for member in [*self.members, *self.left])

    def ichor(self, *arguments: str) -> str:
        """What a command prints in a worker's pod."""
        done = subprocess.run(
            [*ICHOR, *arguments], env=self.workers[0].environment(), cwd=self.folder, capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def check_nothing_lost(
        self, acknowledged: Iterable[Path], *, among: Spool | None = None, divided: int = _SHARDS
    ) -> None:  # fmt: skip
        """Every acknowledged image was told by a receiver, and lies in the store (``among``) byte for byte."""
        spool, told = among or FileSpool(self.store / "spool"), {}
        for envelope in chain.from_iterable(messages_of(self.bus(), shard.topic) for shard in shards(divided)):
            content = open_envelope(envelope)
            if isinstance(content, InstancesReceived):
                for instance in content.instances:
                    told[instance.sop_instance_uid] = instance.location
        lost = []
        for path in acknowledged:
            uid = pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID
            data = data_set_bytes(path)
            if uid not in told:
                lost.append(uid)
                continue
            with spool.open(told[uid]) as file:
                assert file.read().endswith(data), uid
        assert not lost, f"{len(lost)} acknowledged images were told to nobody: {lost[:3]}\n{self.say()}"

    def check_results(self, uids: Iterable[str], *, slices: int) -> int:
        """Each study's result is in Orthanc once, under its study, and of all its slices; how many were amended."""
        wanted, amended = set(uids), 0
        assert set(self.orthanc.studies()) == wanted
        studies = self.studies()
        for uid in wanted:
            there = self.orthanc.instances(uid)
            objects = [pydicom.dcmread(BytesIO(self.orthanc.file(one["ID"]))) for one in there]
            assert len({o.SOPInstanceUID for o in objects}) == len(objects)
            assert {o.StudyInstanceUID for o in objects} == {uid}
            assert {r.object.sop_instance_uid for r in studies[uid].results} == {o.SOPInstanceUID for o in objects}
            (job,) = [job for job in studies[uid].jobs if job.current]
            assert job.done is not None
            current = {item.sop_instance_uid for item in job.done.objects}
            # One answer stands: any other report in the PACS is named as the predecessor of a later one.
            reports = [o for o in objects if o.SOPClassUID == _REPORT]
            standing = {r.SOPInstanceUID for r in reports} - {name for r in reports for name in _replaced(r)}
            assert len(standing) == 1, (uid, [j.state for j in studies[uid].jobs], self.say())
            assert standing <= current
            (text,) = [o for o in objects if o.SOPClassUID == _TEXT_REPORT and o.SOPInstanceUID in current]
            assert f"{slices} slices of" in _said(text), (uid, _said(text), [j.state for j in studies[uid].jobs])
            sources = {o.PatientID for o in objects}
            assert len(sources) == 1, uid
            amended += len(reports) > 1
        return amended


def _replaced(report: Dataset) -> list[str]:
    return [
        item.ReferencedSOPInstanceUID
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]


def _said(report: Dataset) -> str:
    """All texts of a report."""
    inner = "".join(_said(item) for item in report.get("ContentSequence", []))
    return f"{report.get('TextValue', '')}\n{inner}"


def _state(study: Study | None, *, slices: int) -> str:
    if study is None:
        return "unknown"
    if study.state is not StudyState.DONE:
        return study.state.value
    return "done" if sum(series.instances for series in study.series) == slices else "lacks images"


def plugin_folder(folder: Path) -> Path:
    """A folder for PYTHONPATH by which the small pipeline is the only one that is installed."""
    metadata = folder / "ichor-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(_METADATA)
    (metadata / "entry_points.txt").write_text(_ENTRY_POINTS)
    shutil.copy(Path(__file__).parent / "small_pipeline" / "small_pipeline.py", folder)
    return folder


def _until(
    true: Callable[[], bool], *, what: str | Callable[[], str], timeout: float = PATIENCE,
    say: Callable[[], str] = lambda: "",
) -> None:  # fmt: skip
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            text = what if isinstance(what, str) else what()
            pytest.fail(f"waited {timeout:.0f} s in vain for {text}\n{say()}")
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
