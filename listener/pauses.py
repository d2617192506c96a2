"""Studies that could not be looked at: how often in a row, and until when each is let be. Knows nothing of what is in them."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST, _LONGEST = 1.0, 300.0  # seconds
_TELLING = 5  # failures in a row that are told of: 15 s after the first


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """After ``failures`` in a row; ``until`` is POSIX seconds."""

    failures: int
    until: float

    @property
    def to_tell(self) -> bool:
        """It is time to say that this does not go by."""
        return self.failures >= _TELLING


class Pauses(dict[str, Pause]):
    """By study. They are not kept on disk: a new start tries everything again."""

    def failed(self, uid: str, *, now: float) -> Pause:
        """Once more: each pause is twice as long as the one before, five minutes at most."""
        failures = self[uid].failures + 1 if uid in self else 1
        pause = self[uid] = Pause(failures=failures, until=now + min(_FIRST * 2.0 ** min(failures - 1, 30), _LONGEST))
        return pause

    def hold(self, uid: str, *, now: float) -> bool:
        """It is to be let be for now."""
        return uid in self and now < self[uid].until
