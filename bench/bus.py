"""The bus on SQLite: publish, claim and ack per second, beside bare commits, and wake-up between processes. No goal."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ichor.bus.protocol import Delivery
from ichor.bus.sqlite import SqliteBus
from ichor.messages import Envelope

COUNT = 300
FINISHED = 100_000
_ECHO = """
import sys
from ichor.bus.protocol import Delivery
from ichor.bus.sqlite import SqliteBus
bus = SqliteBus(sys.argv[1])
member = bus.subscribe(["ping"], "echo")
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    delivery = member.receive(30)
    print(delivery.envelope.id, flush=True)
    delivery.ack()
bus.close()
"""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="ichor-bench-") as temporary:
        folder = Path(temporary)
        print(f"bare commit of 600 bytes (WAL, FULL)  {_bare(folder / 'bare.sqlite'):8.0f} /s")
        bus = SqliteBus(folder / "bus.sqlite")
        _throughput(bus, "empty")
        _fill(bus, folder / "bus.sqlite")
        _throughput(bus, f"{FINISHED:,} finished")
        _wake(bus, folder / "bus.sqlite")
        bus.close()
    return 0


def _envelopes(prefix: str, count: int) -> list[Envelope]:
    return [
        Envelope(id=f"{prefix}{n}", source="bench", type="bench", time=0.0, subject=f"1.2.{n}", data={"x": "y" * 300})
        for n in range(count)
    ]


def _rate(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(COUNT):
        call()
    return COUNT / (time.perf_counter() - started)


def _bare(path: Path) -> float:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE t (x)")
    rate = _rate(lambda: db.execute("INSERT INTO t VALUES (?)", ("y" * 600,)))
    db.close()
    return rate


def _throughput(bus: SqliteBus, state: str) -> None:
    member = bus.subscribe(["jobs"], "work")
    envelopes = _envelopes(state, COUNT)
    queue = iter(envelopes)
    held: list[Delivery] = []

    def claim() -> None:
        delivery = member.receive(0)
        assert delivery is not None
        held.append(delivery)

    for verb, call in (
        ("publish", lambda: bus.publish("jobs", [next(queue)])),
        ("claim", claim),
        ("ack", lambda: held.pop().ack()),
    ):
        print(f"{verb:8s} one by one, {state:20s}   {_rate(call):8.0f} /s")
    print(f"receive that finds nothing, {state:16s} {1e6 / _rate(lambda: member.receive(0)):6.0f} us")
    started = time.perf_counter()
    bus.publish("jobs", _envelopes(f"batch {state}", COUNT))
    print(f"publish  one batch of {COUNT}, {state:16s} {COUNT / (time.perf_counter() - started):8.0f} /s")
    while (delivery := member.receive(0)) is not None:
        delivery.ack()
    member.close()


def _fill(bus: SqliteBus, path: Path) -> None:
    """Finished messages, written behind the bus's back: through it this would take minutes."""
    body = _envelopes("old", 1)[0].model_dump_json().encode()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    db.executemany(
        "INSERT INTO message (topic, id, subject, rank, published, body) VALUES ('jobs', ?, ?, 2, 0, ?)",
        ((f"old{n}", f"1.2.{n}", body) for n in range(FINISHED)),
    )
    db.execute("COMMIT")
    db.close()
    assert all(lag.waiting == 0 for lag in bus.lag())


def _wake(bus: SqliteBus, path: Path) -> None:
    count = 100
    echo = subprocess.Popen([sys.executable, "-c", _ECHO, str(path), str(count)], stdout=subprocess.PIPE, text=True)
    assert echo.stdout is not None
    echo.stdout.readline()
    seconds = []
    for envelope in _envelopes("ping", count):
        started = time.perf_counter()
        bus.publish("ping", [envelope])
        echo.stdout.readline()
        seconds.append(time.perf_counter() - started)
    echo.wait(timeout=30)
    seconds.sort()
    print(
        f"publish to claimed by another process   median {1e3 * seconds[count // 2]:.1f} ms, "
        f"99th percentile {1e3 * seconds[-2]:.1f} ms (two commits)"
    )


if __name__ == "__main__":
    sys.exit(main())
