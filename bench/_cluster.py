"""Kafka, a DICOM receiver and roles of Ichor as processes, a head to send, and CPU by role. Brings no study to an end.

Kafka and the processes are those of the tests, on free ports and in temporary folders.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pydicom

from bench._peers import descendants
from bench._site import free_ports
from ichor.bus.kafka import KafkaBus
from ichor.config import KafkaSettings
from phantoms.ct_study import write_ct_head

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from e2e.cluster import Member, plugin_folder
from kafka_broker import Broker, classpath

SHARDS = 8
SLICES, MATRIX = 20, 128
SENDERS = 4
PATIENCE_SECONDS = 900.0
_REST_SECONDS = 5.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Site:
    """Kafka, a DICOM receiver that keeps nothing, one store; members come and go."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.store = folder, folder / "store"
        self.store.mkdir()
        # As in the tests: Kafka's controller syncs all the time, and a busy disk would stop it.
        where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ichor-bench-", dir=where)))
        (kafka := self.memory / "kafka").mkdir()
        broker = Broker(kafka, java="java", classpath=classpath("mvn"), free_port=lambda: free_ports(1)[0])
        stack.callback(broker.stop)
        broker.start()
        self.servers, self._log, self.broker = broker.servers, kafka / "log", broker.pid
        self._stack = stack
        self._plugin = plugin_folder(folder / "plugin")
        (folder / "control" / "at-work").mkdir(parents=True)
        (self.pacs,) = free_ports(1)
        # Without the variable Nagle's algorithm costs 40 ms a response.
        receiver = subprocess.Popen(
            ["storescp", "--ignore", str(self.pacs)], env={**os.environ, "TCP_NODELAY": "1"}, cwd=folder
        )
        stack.callback(receiver.wait)
        stack.callback(receiver.kill)

    def member(self, name: str, command: str, *, prefix: str, **more: str) -> Member:
        """A role as a pod of its own, ready."""
        settings = {
            "ICHOR_BUS__URL": f"kafka://{self.servers}", "ICHOR_BUS__KAFKA__PREFIX": prefix,
            "ICHOR_BUS__KAFKA__MEMBER": name, "ICHOR_STORE__URL": f"file:{self.store}",
            "ICHOR_ASSEMBLE__SHARDS": str(SHARDS), "ICHOR_DESTINATIONS__0__NAME": "pacs",
            "ICHOR_DESTINATIONS__0__AE_TITLE": "PACS", "ICHOR_DESTINATIONS__0__HOST": "127.0.0.1",
            "ICHOR_DESTINATIONS__0__PORT": str(self.pacs), "PYTHONPATH": str(self._plugin),
            "SMALL_PIPELINE": str(self.folder / "control"),
        } | more  # fmt: skip
        member = Member(name, command, self.folder / f"{prefix}{name}", settings)
        self._stack.callback(member.kill)
        member.start()
        return member

    def bus(self, prefix: str, name: str = "asking") -> KafkaBus:
        folder = self.folder / f"{prefix}{name}"
        folder.mkdir()
        bus = KafkaBus(f"kafka://{self.servers}", KafkaSettings(prefix=prefix, timeout=30.0), folder)
        self._stack.callback(bus.close)
        return bus

    def bytes_by_topic(self, prefix: str) -> Counter[str]:
        """Of Kafka's log, as it lies on the disk (its records are compressed)."""
        found: Counter[str] = Counter()
        for path in self._log.glob(f"{prefix}*-0/*.log"):
            topic = path.parent.name.removeprefix(prefix).removesuffix("-0")
            for many in ("instances", "jobs", "group.assembler"):  # shards and lanes as one
                topic = many if topic.startswith(many) else topic
            found[topic] += path.stat().st_size
        return found


class Meter:
    """CPU seconds of processes and their descendants by role, from when it is made. None may have ended meanwhile."""

    def __init__(self, roles: dict[str, list[int]]) -> None:
        self._pids = {role: [pid for root in roots for pid in descendants(root)] for role, roots in roles.items()}
        self._before = self._now()

    def read(self) -> dict[str, float]:
        return {role: now - self._before[role] for role, now in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {role: sum(map(_cpu, pids)) for role, pids in self._pids.items()}


def at_rest(roots: dict[str, list[int]]) -> str:
    """CPU milliseconds a second by role, while there is nothing to do."""
    time.sleep(_REST_SECONDS)
    meter = Meter(roots)
    time.sleep(_REST_SECONDS)
    return ", ".join(f"{role} {1000 * value / _REST_SECONDS:.0f}" for role, value in meter.read().items())


class Head:
    """A small synthetic head that is sent as one new study after another, as files by `storescu`."""

    _ROOT = "1.2.826.0.1.3680043.10.1434.77"
    _STUDY = 6_000_000_000

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        write_ct_head(folder / "head", seed=20_510, bleed=30.0, slices=SLICES, matrix=MATRIX, series={"soft"})
        self._files = []
        for n, path in enumerate(sorted((folder / "head" / "dicom").rglob("*.dcm"))):
            item = pydicom.dcmread(path)
            item.StudyInstanceUID, item.SeriesInstanceUID = (
                f"{self._ROOT}.1.{self._STUDY}",
                f"{self._ROOT}.2.{self._STUDY}",
            )
            item.FrameOfReferenceUID = f"{self._ROOT}.3.{self._STUDY}"
            item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = f"{self._ROOT}.4.{self._STUDY}.{n}"
            item.PatientID = str(self._STUDY)
            item.save_as(path, enforce_file_format=True)
            self._files.append(path.read_bytes())

    def send(self, numbers: Iterable[int], port: int) -> None:
        """Send studies, `SENDERS` at a time, an association each."""

        def send(number: int) -> None:
            old, new = str(self._STUDY).encode(), str(self._STUDY + 1 + number).encode()
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                for n, content in enumerate(self._files):
                    Path(folder, f"{n:03d}").write_bytes(content.replace(old, new))
                subprocess.run(
                    ["storescu", "-aet", "CT1", "-aec", "ICHOR", "+sd", "127.0.0.1", str(port), folder],
                    env={**os.environ, "TCP_NODELAY": "1"}, check=True,
                )  # fmt: skip

        with ThreadPoolExecutor(SENDERS) as pool:
            list(pool.map(send, numbers))


def wait_ready(*members: Member) -> None:
    """Until all say so; RuntimeError for one that ended, or takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(member.is_ready() for member in members):
        for member in members:
            if time.monotonic() > deadline or not member.processes():
                raise RuntimeError(f"{member.name} is not ready: {member.log()[-2000:]}")
        time.sleep(0.1)


def _cpu(pid: int) -> float:
    """Seconds in user and kernel mode, proc_pid_stat(5) fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
