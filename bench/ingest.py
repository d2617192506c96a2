"""C-STORE ingest: `ichor receive` against DCMTK, Orthanc, pynetdicom and dicom-storescp in the same run.

Every row of "what it must show" (docs/ingest.md): alternating pairs, medians, fresh directories. Ichor is the process
that a site runs, with journal, header facts and relay; only the level of durability is chosen per row, and named.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import _peers
from bench._peers import Absent, Server, serving
from bench._replay import Messages, Sender, Sent, finish, write_files

_NAMES = {
    "dcmtk": "DCMTK storescp --fork, TCP_NODELAY=1", "dcmtk tuned": "the same with +B -pdu 131072",
    "dcmtk stock": "stock DCMTK storescp", "orthanc": "Orthanc (syncs files), TCP_NODELAY=1",
    "pynetdicom": "python -m pynetdicom storescp", "rust": "dicom-storescp -n",
}  # fmt: skip


@dataclass(kw_only=True)
class Bench:
    """What the rows share."""

    memory: Path  # fresh directories are made here, and deleted after each run
    disk: Path  # ... and here, deleted at the end: creating files soon after deleting many is slow on ext4
    sender: Sender
    pairs: int
    seconds: float
    full: bool
    missed: list[str] = field(default_factory=list)
    runs: int = 0

    def fresh(self, *, synced: bool) -> Path:
        self.runs += 1
        return (self.disk if synced else self.memory) / f"run{self.runs}"

    def judge(self, what: str, value: float, goal: float | None, *, least: bool, detail: str, unit: str = "") -> None:
        """One line, and whether its goal was met."""
        said = ""
        if goal is not None:
            met = value >= goal if least else value <= goal
            said = f"; goal {'>=' if least else '<='} {goal:g}{unit}: {'met' if met else 'MISSED'}"
            if not met:
                self.missed.append(what)
        shown = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        print(f"{what}: {shown}{unit} {detail}{said}", flush=True)


def main() -> int:
    options = _options()
    rows = [name for name in ROWS if not options.only or name in options.only]
    absent = _peers.missing(["dcmtk", "orthanc", "storescu"])
    if absent:
        print(f"peers are missing: apt install {' '.join(sorted(set(absent)))}")
        return 1
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        print("the sender needs a C compiler: apt install gcc libc6-dev")
        return 1
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before it began; ratios are what counts")
    memory = Path(tempfile.mkdtemp(prefix="ichor-bench-", dir=options.memory))
    disk = Path(tempfile.mkdtemp(prefix="ichor-bench-", dir=options.disk))
    try:
        bench = Bench(
            memory=memory, disk=disk, sender=Sender(memory), pairs=options.pairs, seconds=options.seconds,
            full=options.full,
        )  # fmt: skip
        for name in rows:
            print(f"\n-- {name}", flush=True)
            try:
                ROWS[name](bench)
            except Absent as why:
                print(f"skipped: {why}")
            except (RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
                print(f"{name}: {error}")
                bench.missed.append(name)
    finally:
        shutil.rmtree(memory, ignore_errors=True)
        shutil.rmtree(disk, ignore_errors=True)
    print("\n" + ("missed: " + "; ".join(bench.missed) if bench.missed else "every goal met"))
    return 1 if bench.missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench ingest", description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="ROW,...", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.2, help="of sending per run (default 1.2)")
    parser.add_argument("--memory", default="/dev/shm", help="where nothing is synced (a tmpfs)")
    parser.add_argument("--disk", default=tempfile.gettempdir(), help="where both sides sync (a real file system)")
    parser.add_argument("--full", action="store_true", help="1,000,000 instances of 4 KB instead of 60,000")
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(ROWS)
    if unknown:
        parser.error(f"--only {', '.join(sorted(unknown))}: of {', '.join(ROWS)}")
    return options


# --- throughput -------------------------------------------------------------------------------------------------


def _rate(
    bench: Bench, name: str, messages: Messages, *, associations: int, synced: bool = False, lag: bool = False
) -> float:
    """Instances per second of one receiver in a fresh folder; with ``lag``, also how far Ichor's relay was behind."""
    folder = bench.fresh(synced=synced)
    warm = bench.sender.messages(messages.kind.name, root=2)
    with serving(name, folder, durability="instance" if synced else "none") as server:
        first = bench.sender.send(warm, server.port, count=20)
        sent = bench.sender.send(messages, server.port, associations=associations, seconds=bench.seconds)
        if sent.failed:
            raise RuntimeError(f"{name} refused {sent.failed} of {sent.acknowledged + sent.failed} instances")
        if lag:
            _say_lag(server, sent.acknowledged + first.acknowledged, sent)
    if not synced:
        shutil.rmtree(folder)
    return sent.rate


def _say_lag(server: Server, expected: int, sent: Sent) -> None:
    ended = time.monotonic()
    there = journalled(server)
    until_journalled(server, expected, patience=300)
    print(
        f"   journal: {there} of {expected} when {sent.seconds:.1f} s of sending ended, all of them "
        f"{time.monotonic() - ended:.1f} s later (facts and index are off the response's path)",
        flush=True,
    )


def journalled(server: Server) -> int:
    """Objects in the journal now."""
    path = server.folder / "data" / "journal.sqlite"
    if not path.exists():
        return 0
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        try:
            return int(connection.execute("SELECT count(*) FROM objects").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return 0


def until_journalled(server: Server, expected: int, *, patience: float) -> None:
    deadline = time.monotonic() + patience
    while (there := journalled(server)) < expected:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{there} of {expected} objects in the journal after {patience:.0f} s")
        time.sleep(0.1)


def _against(
    peer: str, kind: str, associations: Sequence[int], goals: Sequence[float | None], *, synced: bool = False
) -> Callable[[Bench], None]:
    def run(bench: Bench) -> None:
        messages = bench.sender.messages(kind)
        for count, goal in zip(associations, goals, strict=True):
            rates: dict[str, list[float]] = {"ichor": [], peer: []}
            for pair in range(bench.pairs):
                for name in ("ichor", peer) if pair % 2 == 0 else (peer, "ichor"):
                    last = pair == bench.pairs - 1 and name == "ichor" and peer == "dcmtk"
                    rates[name].append(_rate(bench, name, messages, associations=count, synced=synced, lag=last))
            ratios = [mine / theirs for mine, theirs in zip(rates["ichor"], rates[peer], strict=True)]
            level = "instance" if synced else "none"
            bench.judge(
                f"{kind}, {count} association{'s' if count > 1 else ''}, level {level}, to {_NAMES[peer]}",
                statistics.median(ratios), goal, least=True,
                detail=f"[{min(ratios):.2f}-{max(ratios):.2f}], {statistics.median(rates['ichor']):.0f} to "
                f"{statistics.median(rates[peer]):.0f} instances/s",
            )  # fmt: skip

    return run


def _durable(bench: Bench) -> None:
    messages = bench.sender.messages("MR")
    rates = [_rate(bench, "ichor", messages, associations=4, synced=True) for _ in range(bench.pairs)]
    bench.judge(
        "durable MR, 4 associations", statistics.median(rates), 2000, least=True, unit=" instances/s",
        detail=f"[{min(rates):.0f}-{max(rates):.0f}]",
    )  # fmt: skip


def _stock(bench: Bench) -> None:
    """What a user of Debian's storescu sees: its start and its reading of files included, Nagle's algorithm on."""
    rates: dict[str, list[float]] = {"ichor": [], "dcmtk stock": []}
    folders = {"ichor": (bench.memory / "many", 4000), "dcmtk stock": (bench.memory / "few", 20)}
    for folder, count in folders.values():
        write_files(bench.sender.messages("MR"), folder, count=count)
    for pair in range(bench.pairs):
        for name in list(rates) if pair % 2 == 0 else list(rates)[::-1]:
            folder, count = folders[name]
            run = bench.fresh(synced=False)
            with serving(name, run) as server:
                started = time.monotonic()
                subprocess.run(
                    ["storescu", "-R", "+sd", "-aec", "ICHOR", "127.0.0.1", str(server.port), str(folder)],
                    check=True, timeout=300, capture_output=True,
                    env={k: v for k, v in os.environ.items() if k != "TCP_NODELAY"},
                )  # fmt: skip
                rates[name].append(count / (time.monotonic() - started))
            shutil.rmtree(run)
    for folder, _ in folders.values():
        shutil.rmtree(folder)
    ratios = [mine / theirs for mine, theirs in zip(*rates.values(), strict=True)]
    bench.judge(
        "MR, stock storescu, to stock DCMTK storescp", statistics.median(ratios), 100, least=True,
        detail=f"[{min(ratios):.0f}-{max(ratios):.0f}], {statistics.median(rates['ichor']):.0f} to "
        f"{statistics.median(rates['dcmtk stock']):.1f} instances/s",
    )  # fmt: skip


# --- latency ----------------------------------------------------------------------------------------------------


def _latency(bench: Bench) -> None:
    for kind in ("CT", "MR"):
        seen: dict[str, list[Sent]] = {"ichor": [], "dcmtk": []}
        for pair in range(bench.pairs):
            for name in list(seen) if pair % 2 == 0 else list(seen)[::-1]:
                run = bench.fresh(synced=False)
                with serving(name, run) as server:
                    bench.sender.send(bench.sender.messages(kind, root=2), server.port, count=20)
                    seen[name].append(bench.sender.send(bench.sender.messages(kind), server.port, count=200, hold=True))
                shutil.rmtree(run)
        p50, p99 = ({n: statistics.median(getattr(s, f) for s in seen[n]) for n in seen} for f in ("p50", "p99"))
        bench.judge(
            f"{kind}, last byte to response, p50", p50["ichor"], p50["dcmtk"], least=False, unit=" ms",
            detail=f"(the goal is {_NAMES['dcmtk']})",
        )  # fmt: skip
        bench.judge(
            f"{kind}, last byte to response, p99", p99["ichor"], 5, least=False, unit=" ms",
            detail=f"(DCMTK {p99['dcmtk']:.3g})",
        )  # fmt: skip


# --- memory -----------------------------------------------------------------------------------------------------


class _Watch(threading.Thread):
    """Highest PSS of a receiver's processes while it runs, sampled; MiB."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server, self._over = server, threading.Event()
        self.seen: list[float] = []

    def run(self) -> None:
        while not self._over.wait(0.05):
            self.seen.append(self._server.pss())

    @property
    def highest(self) -> float:
        return max(self.seen)

    def by_tenths(self) -> str:
        """The highest in each tenth of the time: does it still grow?"""
        tenths = (self.seen[len(self.seen) * k // 10 : len(self.seen) * (k + 1) // 10] for k in range(10))
        return ", ".join(f"{max(tenth):.0f}" for tenth in tenths if tenth)

    def __enter__(self) -> _Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def _associations(bench: Bench) -> None:
    for count in (1, 8, 64):
        run = bench.fresh(synced=False)
        with serving("ichor", run) as server:
            messages = bench.sender.messages("MR")
            with (
                _Watch(server) as watch,
                bench.sender.connected(messages, server.port, associations=count, seconds=2.0) as process,
            ):
                sent = finish(process)
                until_journalled(server, sent.acknowledged, patience=300)
            names = ", ".join(f"{_peers.resident(pid, 'VmRSS:'):.0f}" for pid in server.processes())
            bench.judge(
                f"memory at {count} association{'s' if count > 1 else ''}", watch.highest, 100 + 2 * count, least=False, unit=" MiB",
                detail=f"(PSS of all its processes, highest while {sent.acknowledged} MR came; RSS of each now: {names})",
            )  # fmt: skip
        shutil.rmtree(run)


def _many(bench: Bench) -> None:
    total, first, growth = 1_000_000 if bench.full else 60_000, 20_000, 8.0
    run = bench.fresh(synced=False)
    with serving("ichor", run) as server:
        watches, sent = [], 0
        for root, count in ((3, first), (4, total - first)):
            with _Watch(server) as watch:
                messages = bench.sender.messages("4KB", root=root)
                sent += bench.sender.send(messages, server.port, associations=4, count=count // 4).acknowledged
                until_journalled(server, sent, patience=3600)
            watches.append(watch)
        before, after = watches
        bench.judge(
            f"growth over {total:,} instances of 4 KB", after.highest - before.highest, growth, least=False, unit=" MiB",
            detail=f"(highest PSS {before.highest:.0f} MiB in the first {first:,}, {after.highest:.0f} MiB in the rest, "
            f"in tenths of its time {after.by_tenths()}; journal included)" + ("" if bench.full else "; --full sends 1,000,000"),
        )  # fmt: skip
    shutil.rmtree(run)


def _large(bench: Bench) -> None:
    messages, small = bench.sender.messages("500MB"), bench.sender.messages("CT", root=2)
    run = bench.fresh(synced=False)
    with serving("ichor", run) as server:
        first = bench.sender.send(small, server.port, count=50).acknowledged
        until_journalled(server, first, patience=60)
        processes = server.processes()
        before = {pid: _peers.resident(pid, "VmHWM:") for pid in processes}
        sent = bench.sender.send(messages, server.port, count=1)
        until_journalled(server, first + 1, patience=120)
        growth = {pid: _peers.resident(pid, "VmHWM:") - before[pid] for pid in processes}
        bench.judge(
            "RSS growth over a 500 MB enhanced object", sum(growth.values()), 16, least=False, unit=" MiB",
            detail=f"(of each process: {', '.join(f'{g:.1f}' for g in growth.values())}; {sent.seconds:.2f} s; "
            "highest RSS, after 50 CT images, header facts included)",
        )  # fmt: skip
    shutil.rmtree(run)
    messages.data_set.unlink()


ROWS: dict[str, Callable[[Bench], None]] = {
    "ct": _against("dcmtk", "CT", (1, 4), (1.2, 1.0)),
    "mr": _against("dcmtk", "MR", (1, 4), (1.0, 1.0)),
    "rust-ct": _against("rust", "CT", (1, 4), (1.2, 1.2)),
    "rust-mr": _against("rust", "MR", (1, 4), (1.2, 1.2)),
    "orthanc-mr": _against("orthanc", "MR", (1, 4), (5.0, None), synced=True),
    "orthanc-ct": _against("orthanc", "CT", (1, 4), (2.0, None), synced=True),
    "pynetdicom-ct": _against("pynetdicom", "CT", (1, 4), (None, None)),
    "pynetdicom-mr": _against("pynetdicom", "MR", (1, 4), (None, None)),
    "tuned-ct": _against("dcmtk tuned", "CT", (1, 4), (None, None)),
    "tuned-mr": _against("dcmtk tuned", "MR", (1, 4), (None, None)),
    "stock": _stock,
    "latency": _latency,
    "durable": _durable,
    "memory": _associations,
    "many": _many,
    "large": _large,
}


if __name__ == "__main__":
    sys.exit(main())
