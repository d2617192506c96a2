"""`ichor demo`: a scanner, Ichor and a PACS on this machine; what was found against what is true. RESEARCH, synthetic.

Everything is real but the heads and the PACS: `ichor serve` runs as its own process, the scanner sends by C-STORE over
TCP, results come back by C-STORE.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from dicom_out.demo_pacs import DemoPacs
from ichor.cli.push import push_files
from ichor.errors import IchorError
from phantoms.ct_study import Truth, write_ct_head

_START_PATIENCE = 300.0  # a slow machine compiles the network for minutes, once
_PATIENCE = 240.0  # seconds for all answers once everything was sent: some 11 where nothing else runs
_SEG = "1.2.840.10008.5.1.4.1.1.66.4"
_REPORT = "1.2.840.10008.5.1.4.1.1.88.34"


@dataclass(frozen=True, slots=True)
class Case:
    """One study of the demo and what must come back."""

    title: str
    bleed: str | float
    expect: str  # found, none, not analysed
    slices: int = 28
    drop: int | None = None  # index of a slice that the scanner loses
    tilt: float = 0.0
    gaps: str = "even"


_CASES = (
    Case("bleed of 38 mL", 38.0, "found"),
    Case("bleed of 12 mL, gantry tilted", 12.0, "found", tilt=12.0),
    Case("no bleed", "none", "none"),
    Case("a slice was lost on the way", 25.0, "not analysed", drop=11),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    case: Case
    truth_ml: float
    found_ml: float | None
    dice: float | None
    answer: str
    seconds: float | None
    right: bool


def demo(*, once: bool, data: Path | None, seed: int) -> int:
    """Run the demo; 0 when all came back right. Without ``once`` it serves on until Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="ichor-demo-") as temporary:
        root = data if data is not None else Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool, DemoPacs() as pacs:
            print("Ichor demo. Synthetic heads, demo weights. RESEARCH: not for clinical use.", flush=True)
            heads = [pool.submit(_make, case, seed + n, root / "scanner" / str(n)) for n, case in enumerate(_CASES)]
            pool.shutdown(wait=False)  # its processes end with the last head: a Ctrl-C would be told by each of them
            listener, console = _free_port(), _console_port()
            server = _serve(root, listener, console, pacs)
            try:
                return _play(heads, server, listener, console, pacs, once=once)
            finally:
                _stop(server)


def _play(
    heads: Sequence[Future[Truth]], server: subprocess.Popen[bytes], listener: int, console: int, pacs: DemoPacs,
    *, once: bool,
) -> int:  # fmt: skip
    address = f"http://127.0.0.1:{console}/"
    _wait_ready(address, server)
    print(f"Console: {address}", flush=True)
    sent: list[tuple[Case, Truth]] = []
    for case, head in zip(_CASES, heads, strict=True):
        truth = head.result()
        push_files(_files(case, truth), to=f"ICHOR@127.0.0.1:{listener}", calling_ae="SCANNER")
        print(f"  scanner: sent {case.title!r}", flush=True)
        sent.append((case, truth))
    deadline = time.monotonic() + _PATIENCE
    outcomes = [_judge(case, truth, _wait_study(address, truth, deadline), pacs) for case, truth in sent]
    _print_table(outcomes)
    right = all(outcome.right for outcome in outcomes)
    print("All came back right." if right else "NOT all came back right.", flush=True)
    print(f"Console: {address}", flush=True)
    if not once:
        print("Serving on; Ctrl-C ends.", flush=True)
        try:
            server.wait()
        except KeyboardInterrupt:
            print("Ending.")
    return 0 if right else 1


def _make(case: Case, seed: int, folder: Path) -> Truth:
    return write_ct_head(folder, seed=seed, bleed=case.bleed, slices=case.slices, tilt=case.tilt, gaps=case.gaps)


def _files(case: Case, truth: Truth) -> list[Path]:
    soft = truth.files("soft")
    lost = soft[case.drop] if case.drop is not None else None
    return [path for path in truth.files() if path != lost]


def _serve(root: Path, listener: int, console: int, pacs: DemoPacs) -> subprocess.Popen[bytes]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ICHOR_", "PROMETHEUS_"))}
    settings: Mapping[str, str] = clean | {
        "ICHOR_DATA": str(root / "data"),
        "ICHOR_LISTENER__PORT": str(listener),
        "ICHOR_CONSOLE__PORT": str(console),
        "ICHOR_DESTINATIONS__0__NAME": "pacs",
        "ICHOR_DESTINATIONS__0__AE_TITLE": pacs.ae_title,
        "ICHOR_DESTINATIONS__0__HOST": "127.0.0.1",
        "ICHOR_DESTINATIONS__0__PORT": str(pacs.port),
    }
    with (root / "serve.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "ichor", "serve"], env=settings, stdout=log, stderr=log)


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_ready(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_PATIENCE
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise IchorError(f"serve ended with exit code {server.returncode}; run `ichor serve` to see why")
        try:
            with urllib.request.urlopen(address + "readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise IchorError(f"serve was not ready within {_START_PATIENCE:.0f} s")


def _wait_study(address: str, truth: Truth, deadline: float) -> dict[str, Any]:
    """The study's JSON once it is final, or as it stands at the deadline."""
    study: dict[str, Any] = {"state": "unknown", "jobs": [], "results": [], "reason": "never seen"}
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}api/v1/studies/{truth.study_instance_uid}", timeout=5) as answer:
                study = json.load(answer)
        except OSError:
            pass  # not known yet: the loop asks again until the deadline
        if study["state"] in ("done", "failed"):
            return study
        time.sleep(0.1)
    return study


def _judge(case: Case, truth: Truth, study: Mapping[str, Any], pacs: DemoPacs) -> Outcome:
    back = {uid: o for uid, o in pacs.received.items() if o.StudyInstanceUID == truth.study_instance_uid}
    job = study["jobs"][-1] if study["jobs"] else None
    values = {m["name"]: m["value"] for m in job["measurements"]} if job else {}
    found_ml = values.get("haematoma_volume")
    dice = _dice(truth, [o for o in back.values() if o.SOPClassUID == _SEG])
    reports = [o for o in back.values() if o.SOPClassUID == _REPORT]
    if job is None or study["state"] != "done":
        answer = f"{study['state']}: {study['reason'] or 'no answer'}"
    elif found_ml is None:
        answer = f"not analysed: {job['reason']}"
    else:
        answer = "haematoma" if found_ml > 0 else "none found"
    truth_ml = sum(lesion.volume_ml for lesion in truth.lesions)
    right = study["state"] == "done" and bool(reports)
    if case.expect == "found":
        right &= bool(found_ml) and dice is not None and dice >= 0.7
    elif case.expect == "none":
        right &= found_ml == 0.0 and dice is None
    else:
        right &= answer.startswith("not analysed") and dice is None
    seconds = sum(job["seconds"].values()) if job else None
    return Outcome(case, truth_ml, found_ml, dice, answer, seconds, right)


def _dice(truth: Truth, segmentations: Sequence[Any]) -> float | None:
    """Dice of all segments together with the truth, by the frames' own positions; None without a SEG."""
    if not segmentations:
        return None
    (dataset,) = segmentations
    found = np.zeros(truth.head.mask_zyx.shape, bool)
    frames = dataset.pixel_array.reshape(-1, *found.shape[1:])
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        away = np.linalg.norm(truth.head.slice_positions_mm - position, axis=1)
        if away.min() > 0.1:
            return 0.0  # a frame that lies on no slice of the source is wrong, however well it looks
        found[int(np.argmin(away))] |= frame.astype(bool)
    true = truth.head.mask_zyx > 0
    total = int(found.sum() + true.sum())
    return 2.0 * float((found & true).sum()) / total if total else None


def _print_table(outcomes: Sequence[Outcome]) -> None:
    head = f"{'study':<32}{'truth mL':>9}{'found mL':>10}{'Dice':>7}{'s':>6}  answer"
    print(f"\n{head}\n{'-' * len(head)}")
    for o in outcomes:
        found = "-" if o.found_ml is None else f"{o.found_ml:.1f}"
        dice = "-" if o.dice is None else f"{o.dice:.2f}"
        seconds = "-" if o.seconds is None else f"{o.seconds:.1f}"
        mark = "" if o.right else "   <-- WRONG"
        print(f"{o.case.title:<32}{o.truth_ml:>9.1f}{found:>10}{dice:>7}{seconds:>6}  {o.answer}{mark}")
    print(flush=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _console_port() -> int:
    """8080 where it is free, so that the address is the one in the README."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 8080))
        except OSError:
            return _free_port()
    return 8080
