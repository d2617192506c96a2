"""The role `assemble`: a fair share of the shards, a thread for each. Knows who owns what, nothing of studies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ichor import metrics
from ichor.errors import CannotStart, TransientError
from ichor.outage import Outage
from ichor.shards import Shard
from ichor.store.ownership import Claim, Members, ShardLost

_LOG = logging.getLogger(__name__)
_LOOK_ROUND = 0.5  # seconds
_WHILE_STARTING = 0.02
_PAUSE = 2.0  # before a shard that could not be kept is taken again: another assembler may be able to
_PATIENCE = 8.0  # a stop may take 10 s


class Assemble(Protocol):
    """`listener.assembler.run_assembler`, as far as it is the same for all shards."""

    def __call__(
        self, *, shard: Shard, state_path: Path, check: Callable[[], None], stop: threading.Event,
        on_ready: Callable[[], None],
    ) -> None: ...  # fmt: skip


def run_assemblers(
    assemble: Assemble, *, folder: Path, state_path: Callable[[int], Path], shards: int, stop: threading.Event,
    on_ready: Callable[[], None], pause: float = _PAUSE,
) -> None:  # fmt: skip
    """Own a fair share of the shards until ``stop``: take what nobody has, give up what is too much.

    A shard is given up between two messages. One whose state cannot be read or written is let go.

    Parameters
    ----------
    folder
        Of `ichor.store.ownership`.
    state_path
        Where a shard's state lies.
    on_ready
        Called when all that can be had at first is being assembled; that may be nothing.
    pause
        Seconds before a shard that was let go is taken again.

    Raises
    ------
    CannotStart
        When this version cannot read a shard's state.
    """
    members = Members(folder, count=shards)
    owner = _Owner(assemble, members, state_path, shards=shards, pause=pause)
    metrics.ASSEMBLY_SHARDS.set(shards)
    outage = Outage(_LOG, role="assemble")
    is_ready = False
    try:
        while not stop.is_set():
            try:
                owner.look_round()
                outage.over()
            except OSError as error:
                outage.away(TransientError(f"shards: {error.strerror or type(error).__name__}; owned ones go on"))
            if not is_ready and owner.is_ready:
                is_ready = True
                on_ready()
            stop.wait(_LOOK_ROUND if is_ready else _WHILE_STARTING)
    finally:
        owner.stop()
        members.close()


class _Running:
    """A shard that is being assembled, in a thread of its own."""

    def __init__(self, assemble: Assemble, claim: Claim, shard: Shard, state_path: Path) -> None:
        self.ready, self.stop = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self._assemble, self._claim, self._shard, self._state_path = assemble, claim, shard, state_path
        self.thread = threading.Thread(target=self._run, name=shard.topic, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._assemble(
                shard=self._shard, state_path=self._state_path, check=self._claim.check, stop=self.stop,
                on_ready=self.ready.set,
            )  # fmt: skip
        except BaseException as error:  # noqa: BLE001 - the thread's end: the owner says what it was
            self.error = error
        finally:
            self._claim.release()


class _Owner:
    """What this process owns."""

    def __init__(
        self, assemble: Assemble, members: Members, state_path: Callable[[int], Path], *, shards: int, pause: float
    ) -> None:
        self._assemble = assemble
        self._members = members
        self._state_path = state_path
        self._shards = shards
        self._pause = pause
        self._running: dict[int, _Running] = {}  # in the order in which they were taken
        self._not_before: dict[int, float] = {}
        self._failed: set[int] = set()  # since they were assembled last

    @property
    def is_ready(self) -> bool:
        self._failed -= {number for number, one in self._running.items() if one.ready.is_set()}
        return not self._failed and all(
            one.ready.is_set() or (one.error is None and not one.thread.is_alive()) for one in self._running.values()
        )

    def look_round(self) -> None:
        """Take or give up; OSError when the folder cannot be used."""
        self._bury()
        share, first = self._members.share()
        kept = [number for number, one in self._running.items() if not one.stop.is_set()]
        for number in kept[share:]:
            _LOG.info("shard %d of %d is given up", number, self._shards)
            self._running[number].stop.set()
        for number in ((first + n) % self._shards for n in range(self._shards)):
            if len(kept) >= share:
                break
            if number in self._running or time.monotonic() < self._not_before.get(number, 0.0):
                continue
            claim = self._members.take(number)
            if claim is not None:
                if self._shards > 1:
                    _LOG.info("shard %d of %d is taken", number, self._shards)
                shard = Shard(number=number, of=self._shards)
                self._running[number] = _Running(self._assemble, claim, shard, self._state_path(number))
                kept.append(number)
        metrics.ASSEMBLY_SHARDS_OWNED.set(sum(self._running[number].ready.is_set() for number in kept))

    def stop(self) -> None:
        for one in self._running.values():
            one.stop.set()
        deadline = time.monotonic() + _PATIENCE
        for one in self._running.values():
            one.thread.join(max(0.0, deadline - time.monotonic()))
        metrics.ASSEMBLY_SHARDS_OWNED.set(0)

    def _bury(self) -> None:
        """Forget those that ended; what ended by itself is said."""
        for number, one in list(self._running.items()):
            if one.thread.is_alive():
                continue
            del self._running[number]
            # Of several shards the others go on; without its only one this process is not what it says that it is.
            if isinstance(one.error, CannotStart) or (
                self._shards == 1 and one.error is not None and not isinstance(one.error, ShardLost)
            ):
                raise one.error
            if one.error is not None:
                self._failed.add(number)
                metrics.LOOP_ERRORS.labels("assemble").inc()
                _LOG.error("shard %d of %d is let go: %s", number, self._shards, one.error, exc_info=one.error)
                self._not_before[number] = time.monotonic() + self._pause
