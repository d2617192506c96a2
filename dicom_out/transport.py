"""C-STORE and C-ECHO to a destination with pynetdicom. Decides nothing about retries: it says what was answered."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from ichor.checkpoint import hold_while_sending
from ichor.errors import TransientError
from ichor.types import Destination, ResultObject

# What Ichor makes: SOP Class UID -> the name that people know.
RESULT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture",
    "1.2.840.10008.5.1.4.1.1.88.34": "Comprehensive 3D SR",
    "1.2.840.10008.5.1.4.1.1.88.11": "Basic Text SR",
}

VERIFICATION = "1.2.840.10008.1.1"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
# An association has 128 presentation contexts at most (PS3.8 section 9.3.2.2); two are asked for per class.
_MOST_CLASSES = 64


class Unreachable(TransientError):
    """No association, or it was lost. ``no_listener``: nothing answered at the port, so a probe of it tells more."""

    def __init__(self, reason: str, *, no_listener: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.no_listener = no_listener


class Verdict(Enum):
    """What an answer to a C-STORE means for the delivery."""

    SENT = "sent"
    LATER = "later"  # the destination says that it cannot now
    UNCLEAR = "unclear"  # may be the object, may be the destination's day
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one object: verdict and, unless sent, the reason in words. No text of the peer: it may name a patient."""

    verdict: Verdict
    reason: str | None = None


def store_objects(
    destination: Destination,
    objects: Sequence[ResultObject],
    *,
    calling_ae: str,
    read: Callable[[ResultObject], bytes],
    before_each: Callable[[], None] = lambda: None,
) -> Iterator[tuple[ResultObject, Answer]]:
    """Send objects over one association, each answered on its own.

    A class that the destination does not accept is REFUSED; the others go on. A stored data set is decoded and encoded
    again for the transfer syntax that the destination accepted; in Explicit VR Little Endian, in which results are
    stored, elements that nobody touched keep their bytes.

    Raises
    ------
    Unreachable
        No association, or it ended before the last answer; what was yielded before stays true.
    """
    classes = list(dict.fromkeys(o.sop_class_uid for o in objects))[:_MOST_CLASSES]
    with _associated(destination, classes, calling_ae=calling_ae) as association:
        accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
        for number, item in enumerate(objects, start=1):
            before_each()
            if item.sop_class_uid not in accepted:
                yield item, Answer(Verdict.REFUSED, f"the destination does not accept {UID(item.sop_class_uid).name}")
                continue
            yield item, _store(association, read(item), message_id=number)


def _store(association: Association, data: bytes, *, message_id: int) -> Answer:
    if not association.is_established:
        raise Unreachable("the association was aborted")
    dataset = dcmread(io.BytesIO(data))
    with _while_it_lasts(association):
        response = association.send_c_store(dataset, msg_id=message_id % 65535)
    if "Status" not in response:
        raise Unreachable("the association was lost before an answer")
    return judge(int(response.Status))


@contextmanager
def _while_it_lasts(association: Association) -> Iterator[None]:
    """pynetdicom raises RuntimeError where an association ended since it was looked at."""
    try:
        yield
    except RuntimeError:
        if association.is_established:
            raise
        raise Unreachable("the association was aborted") from None


def judge(status: int) -> Answer:
    """The meaning of a C-STORE status (PS3.4 table B.2-1, PS3.7 annex C)."""
    if status == 0x0000 or status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0111, 0x0116):
        return Answer(Verdict.SENT)
    named = f"0x{status:04X}"
    if status >> 8 == 0xA7 or status == 0x0213:
        return Answer(Verdict.LATER, f"{named}: the destination is out of resources")
    if status >> 8 == 0xA9:
        return Answer(Verdict.REFUSED, f"{named}: the destination says that the data set does not match its class")
    if status == 0x0122:
        return Answer(Verdict.REFUSED, f"{named}: the destination does not support this SOP class")
    if status == 0x0124:
        return Answer(Verdict.REFUSED, f"{named}: the destination does not authorise us")
    if status == 0x0110 or status >> 12 == 0xC:
        return Answer(Verdict.UNCLEAR, f"{named}: the destination cannot process the object")
    return Answer(Verdict.REFUSED, f"{named}: refused by the destination")


def echo(destination: Destination, *, calling_ae: str) -> None:
    """C-ECHO.

    Raises
    ------
    Unreachable
        With the reason in words.
    """
    with _associated(destination, [VERIFICATION], calling_ae=calling_ae) as association:
        if not association.accepted_contexts:
            raise Unreachable("the destination does not accept Verification")
        with _while_it_lasts(association):
            response = association.send_c_echo()
        if "Status" not in response:
            raise Unreachable("no answer to C-ECHO")
        if response.Status != 0x0000:
            raise Unreachable(f"C-ECHO was answered with 0x{int(response.Status):04X}")


def accepted_classes(destination: Destination, classes: Sequence[str], *, calling_ae: str) -> tuple[str, ...]:
    """Those of ``classes`` for which the destination accepts a presentation context; nothing is stored.

    Raises
    ------
    Unreachable
        With the reason in words.
    """
    with _associated(destination, list(classes)[:_MOST_CLASSES], calling_ae=calling_ae) as association:
        accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
    return tuple(uid for uid in classes if uid in accepted)


@contextmanager
def _associated(destination: Destination, classes: Sequence[str], *, calling_ae: str) -> Iterator[Association]:
    entity = AE(ae_title=calling_ae)
    entity.connection_timeout = CONNECT_SECONDS
    entity.acse_timeout = entity.network_timeout = entity.dimse_timeout = ANSWER_SECONDS
    for uid in classes:
        # Apart, so that the peer cannot choose Implicit where it takes both.
        entity.add_requested_context(uid, [ExplicitVRLittleEndian])
    contexts = list(entity.requested_contexts)
    for uid in classes:
        entity.requested_contexts = []
        entity.add_requested_context(uid, [ImplicitVRLittleEndian])
        contexts.extend(entity.requested_contexts)
    try:
        association = entity.associate(
            destination.host, destination.port, contexts=contexts, ae_title=destination.ae_title
        )
    except OSError:  # a name that is not found now may be tomorrow
        raise Unreachable("the destination's host is not found", no_listener=True) from None
    hold_while_sending(association)
    try:
        if association.is_established:
            yield association
        elif association.rejected_contexts and not association.accepted_contexts and not association.is_rejected:
            # Accepted with no context at all: the library has aborted it, and every class is refused.
            yield association
        else:
            raise _failure(association)
    finally:
        if association.is_established:
            association.release()


def _failure(association: Association) -> Unreachable:
    if association.is_rejected:
        answer = association.acceptor.primitive
        why = getattr(answer, "reason_str", "") if answer is not None else ""
        return Unreachable(f"association rejected: {why.lower() or 'no reason given'}")
    if association.acceptor.primitive is None:
        return Unreachable("no connection to the destination", no_listener=True)
    return Unreachable("association aborted by the destination")
