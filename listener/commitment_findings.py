"""What is known of the objects that a request for storage commitment names, by one receiver after the other. No decision.

A receiver's journal is its own, and a sender's associations go to any of the receivers that share a store: the one that
is asked need not be the one that has the objects. So a request goes round until all is found, or everybody has looked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ichor.errors import TransientError
from ichor.messages import CommitmentAsked
from ichor.store.protocol import Receivers
from listener.commitment import PROCESSING_FAILURE

# Failure Reason (0008,1197), PS3.3 C.14.1.1; PROCESSING_FAILURE is one, too.
NO_SUCH_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119
COMMITTED = 0

Pair = tuple[str, str]  # SOP Class UID, SOP Instance UID


class Answering:
    """For whose images this process answers, and who else there is. Safe from any thread.

    Parameters
    ----------
    receivers
        Of a store that several share; None where nobody does.
    """

    def __init__(self, receivers: Receivers | None = None) -> None:
        self._receivers = receivers
        self._own = frozenset({receivers.name if receivers is not None else ""})

    @property
    def own(self) -> frozenset[str]:
        """Names of those whose images are in this journal, or in the receipts log on their way there."""
        return self._own

    def taken_in(self, names: frozenset[str]) -> None:
        """What these stored, who are lost, is among it now."""
        self._own |= names

    def everybody(self) -> frozenset[str]:
        """All receivers that there are or were; TransientError when the store is away."""
        if self._receivers is None:
            return self._own
        try:
            return self._receivers.everybody()
        except OSError as error:
            raise TransientError(f"store: {error.strerror}") from error


@dataclass(slots=True)
class Findings:
    """What is known so far of the objects of ``asked``.

    Attributes
    ----------
    studies
        Place in ``asked.referenced`` -> Study Instance UID, of those that somebody has.
    reasons
        The same -> why it is not committed, or `COMMITTED`.
    """

    asked: CommitmentAsked
    studies: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for place, study, reason in self.asked.found:
            self.studies[place], self.reasons[place] = study, reason

    def open(self, *, commits: bool) -> list[int]:
        """Places of which another receiver may know more; ``commits``: here and not committed is not enough."""
        places = range(len(self.asked.referenced))
        return [place for place in places if place not in self.reasons or (commits and self.reasons[place])]

    def add(self, place: int, *, study: str, classes: Iterable[str]) -> None:
        """A receiver has this instance, under these SOP Class UIDs."""
        reason = PROCESSING_FAILURE if self.asked.referenced[place][0] in classes else CLASS_INSTANCE_CONFLICT
        self.studies.setdefault(place, study)
        self.reasons[place] = min(reason, self.reasons.get(place, reason))

    def commit(self, pairs: Iterable[Pair]) -> None:
        """These are committed, durably."""
        kept = set(pairs)
        self.reasons |= {place: COMMITTED for place in self.reasons if self.asked.referenced[place] in kept}

    def instances(self) -> dict[str, list[str]]:
        """Study Instance UID -> SOP Instance UIDs, of those that somebody has."""
        found: dict[str, dict[str, None]] = {}
        for place, study in self.studies.items():
            found.setdefault(study, {})[self.asked.referenced[place][1]] = None
        return {study: list(instances) for study, instances in found.items()}

    def unknown(self) -> int:
        """How many SOP Instances nobody has."""
        known = {self.asked.referenced[place][1] for place in self.studies}
        return len({instance for _, instance in self.asked.referenced} - known)

    def committed(self) -> tuple[Pair, ...]:
        """What is committed, in the order of the request."""
        return tuple(p for n, p in enumerate(self.asked.referenced) if self.reasons.get(n) == COMMITTED)

    def failed(self) -> tuple[tuple[str, str, int], ...]:
        """All others, with the Failure Reason of each."""
        reasons = (self.reasons.get(place, NO_SUCH_INSTANCE) for place in range(len(self.asked.referenced)))
        return tuple((*p, reason) for p, reason in zip(self.asked.referenced, reasons, strict=True) if reason)

    def told(self) -> tuple[tuple[int, str, int], ...]:
        """As `CommitmentAsked.found` says it."""
        return tuple((place, self.studies[place], reason) for place, reason in sorted(self.reasons.items()))
