"""Compressed frames decoded in several processes at once. No codec: `ichor.series.decoding.decode_frame` does each frame.

The codec plug-ins keep the interpreter's lock while they decode (`bench.series` measures it), so threads alone would take
turns. Helpers are started at first use, join in as soon as they are up, wait for the next series, and end with the process
that started them, however it ends: their standard input closes.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Generic, TypeVar

import numpy.typing as npt

from ichor.errors import Unreadable
from ichor.series.decoding import FrameFormat, decode_frame

T = TypeVar("T")

MOST_PROCESSES = 4
WORTHWHILE_PIXELS = 1 << 21  # eight frames of 512 x 512: below, one process is done before a helper is asked
_READY = b"R"
_WAIT = 0.02


def decode_all(
    frames: Iterable[tuple[bytes, FrameFormat, T]], put: Callable[[npt.NDArray[Any], T], bool], *, processes: int
) -> bool:
    """Decode every frame and hand it to ``put`` with its third element, in no order, from several threads.

    Frames are taken one at a time: memory is one frame per process.

    Parameters
    ----------
    put
        False ends the work: no further frame is begun.
    processes
        At most so many at once, this one among them.

    Returns
    -------
    bool
        Whether ``put`` agreed to all.

    Raises
    ------
    Unreadable
        What reading or decoding the first bad frame raised.
    """
    work = _Work(iter(frames), put)
    helpers = _borrow(max(0, processes - 1))
    threads = [threading.Thread(target=work.through, args=(helper,), daemon=True) for helper in helpers]
    for thread in threads:
        thread.start()
    work.here()
    for thread in threads:
        thread.join()
    _give_back(helpers)
    if work.error is not None:
        raise work.error
    return work.agreed


def processes_for(pixels: int) -> int:
    """How many processes a series of so many compressed pixels is worth on the cores that we may use."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES) if pixels >= WORTHWHILE_PIXELS else 1


class _Work(Generic[T]):
    def __init__(
        self, frames: Iterator[tuple[bytes, FrameFormat, T]], put: Callable[[npt.NDArray[Any], T], bool]
    ) -> None:
        self._frames, self._put = frames, put
        self._lock = threading.Lock()
        self._over = False
        self.agreed = True
        self.error: BaseException | None = None

    def here(self) -> None:
        self._run(decode_frame)

    def through(self, helper: _Helper) -> None:
        while not helper.ready(_WAIT):
            if self._over or helper.gone:
                return
        self._run(helper.decode)

    def _run(self, decode: Callable[[bytes, FrameFormat], npt.NDArray[Any]]) -> None:
        try:
            while (frame := self._next()) is not None:
                data, form, what = frame
                if not self._put(decode(data, form), what):
                    self.agreed, self._over = False, True
        except BaseException as error:  # noqa: BLE001  the thread that asked for the work raises it
            self._over = True
            self.error = self.error or error

    def _next(self) -> tuple[bytes, FrameFormat, T] | None:
        with self._lock:
            frame = None if self._over else next(self._frames, None)
            self._over |= frame is None
            return frame


class _Helper:
    """A process that decodes one frame after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ichor.series.decoding_pool"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        self._ready = False
        self.gone = False

    def ready(self, seconds: float) -> bool:
        """Whether it can be asked; waits so long for it to come up."""
        if not self._ready and not self.gone:
            out = _pipe(self._process.stdout).fileno()
            asked = select.poll()
            asked.register(out, select.POLLIN)
            if asked.poll(1000 * seconds):
                self._ready = os.read(out, 1) == _READY
                self.gone = not self._ready
        return self._ready and not self.gone

    def decode(self, data: bytes, form: FrameFormat) -> npt.NDArray[Any]:
        """As `decode_frame`, which it does here when the process is gone."""
        if not self.gone:
            try:
                pickle.dump((data, form), _pipe(self._process.stdin), protocol=5)
                _pipe(self._process.stdin).flush()
                answer = pickle.load(_pipe(self._process.stdout))
            except (OSError, EOFError, pickle.UnpicklingError):
                self.gone = True
            else:
                if isinstance(answer, str):
                    raise Unreadable(answer)
                decoded: npt.NDArray[Any] = answer
                return decoded
        return decode_frame(data, form)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


_idle: list[_Helper] = []
_idle_lock = threading.Lock()


@atexit.register
def _end_idle() -> None:
    while _idle:
        _idle.pop().end()


def _borrow(count: int) -> list[_Helper]:
    with _idle_lock:
        helpers = [_idle.pop() for _ in range(min(count, len(_idle)))]
    return helpers + [_Helper() for _ in range(count - len(helpers))]


def _give_back(helpers: list[_Helper]) -> None:
    for helper in helpers:
        if helper.gone:
            helper.end()
            continue
        with _idle_lock:
            _idle.append(helper)


def _pipe(stream: Any) -> BinaryIO:
    pipe: BinaryIO = stream
    return pipe


def _serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answer until ``source`` ends: an array, or the reason why there is none."""
    import pydicom.pixels.decoders.base  # noqa: F401  here, and not when the first frame waits

    os.write(target.fileno(), _READY)
    while True:
        try:
            data, form = pickle.load(source)
        except EOFError:
            return
        try:
            answer: npt.NDArray[Any] | str = decode_frame(data, form)
        except Unreadable as error:
            answer = error.reason
        pickle.dump(answer, target, protocol=5)
        target.flush()


if __name__ == "__main__":
    # Ctrl-C goes to every process of the terminal; the one that started this decides when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable()  # what is wrong with a frame is in the answer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a codec prints is no answer
    _serve(sys.stdin.buffer, answers)
