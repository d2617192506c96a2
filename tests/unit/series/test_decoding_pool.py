"""Frames decoded in several processes: the same images, the first bad frame's reason, no work after a refusal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydicom.pixels import get_encoder
from pydicom.uid import JPEGLSLossless

from ichor.errors import Unreadable
from ichor.series import decoding_pool
from ichor.series.decoding import FrameFormat
from ichor.series.decoding_pool import decode_all

ROWS, COLUMNS, FRAMES = 64, 48, 40
FORM = FrameFormat(
    transfer_syntax_uid=JPEGLSLossless, rows=ROWS, columns=COLUMNS, encapsulated=True, photometric="MONOCHROME2",
    bits_allocated=16, bits_stored=12, signed=False,
)  # fmt: skip
OPTIONS: dict[str, Any] = {
    "rows": ROWS, "columns": COLUMNS, "number_of_frames": 1, "samples_per_pixel": 1, "bits_allocated": 16,
    "bits_stored": 12, "pixel_representation": 0, "photometric_interpretation": "MONOCHROME2",
}  # fmt: skip


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return np.random.default_rng(8).integers(0, 4096, (FRAMES, ROWS, COLUMNS)).astype(np.uint16)


@pytest.fixture(scope="module")
def streams(truth: np.ndarray) -> list[bytes]:
    return [bytes(get_encoder(JPEGLSLossless).encode(frame, **OPTIONS)) for frame in truth]


def gathered(streams: list[bytes], *, processes: int) -> np.ndarray:
    result = np.zeros((len(streams), ROWS, COLUMNS), dtype=np.int64)

    def put(image: np.ndarray, k: int) -> bool:
        result[k] += image
        return True

    assert decode_all(((data, FORM, k) for k, data in enumerate(streams)), put, processes=processes)
    return result


def warm(count: int) -> list[Any]:
    """Helpers that are up; idle again."""
    helpers = decoding_pool._borrow(count)
    for helper in helpers:
        assert helper.ready(60.0)
    decoding_pool._give_back(helpers)
    return helpers


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_frame_is_handed_over_once_whoever_decoded_it(
    processes: int, truth: np.ndarray, streams: list[bytes]
) -> None:
    warm(processes - 1)
    assert np.array_equal(gathered(streams, processes=processes), truth)


def test_helpers_do_a_part_of_the_work(streams: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    warm(1)
    here: list[int] = []
    helper_has_one = threading.Event()
    original = decoding_pool._Helper.decode

    def helped(self: Any, data: bytes, form: FrameFormat) -> Any:
        helper_has_one.set()
        return original(self, data, form)

    def own(*_: Any) -> Any:
        # This process waits with its first frame until the helper has one.
        assert helper_has_one.wait(60.0)
        here.append(1)
        return np.zeros((ROWS, COLUMNS))

    monkeypatch.setattr(decoding_pool._Helper, "decode", helped)
    monkeypatch.setattr(decoding_pool, "decode_frame", own)
    sums: list[int] = []

    def put(image: np.ndarray, _: None) -> bool:
        sums.append(int(image.sum()))
        return True

    decode_all(((data, FORM, None) for data in streams), put, processes=2)
    assert len(sums) == FRAMES
    assert len(here) < FRAMES
    assert sum(total > 0 for total in sums) == FRAMES - len(here)


@pytest.mark.parametrize("processes", [1, 3])
def test_a_damaged_frame_ends_the_work_with_its_reason(processes: int, streams: list[bytes]) -> None:
    warm(processes - 1)
    damaged = [*streams[:5], b"\xff\xd8" + bytes(50), *streams[5:]]
    with pytest.raises(Unreadable, match="damaged"):
        gathered(damaged, processes=processes)
    assert gathered(streams, processes=processes).any()


def test_no_frame_is_read_after_a_refusal(streams: list[bytes]) -> None:
    read: list[int] = []

    def frames() -> Iterator[tuple[bytes, FrameFormat, int]]:
        for k, data in enumerate(streams):
            read.append(k)
            yield data, FORM, k

    assert not decode_all(frames(), lambda _, k: k < 3, processes=1)
    assert read == [0, 1, 2, 3]


def test_what_reading_raises_is_raised(streams: list[bytes]) -> None:
    def frames() -> Iterator[tuple[bytes, FrameFormat, int]]:
        yield streams[0], FORM, 0
        raise Unreadable("gone")

    with pytest.raises(Unreadable, match="gone"):
        decode_all(frames(), lambda *_: True, processes=2)


def test_a_killed_helper_costs_no_frame(truth: np.ndarray, streams: list[bytes]) -> None:
    (helper,) = warm(1)
    helper._process.send_signal(signal.SIGKILL)
    helper._process.wait()
    assert np.array_equal(gathered(streams, processes=2), truth)
    assert helper not in decoding_pool._idle


def test_helpers_end_with_the_process_that_started_them() -> None:
    program = (
        "import time\nfrom ichor.series import decoding_pool as pool\n(h,) = pool._borrow(1)\n"
        "assert h.ready(60)\nprint(h._process.pid, flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and alive(pid):
        time.sleep(0.02)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
