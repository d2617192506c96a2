"""Scans of one patient in different studies: which is the one before another, and may the two be compared. Pure.

Identity is compared by digests: that of the Patient ID alone finds the scans, those of its issuer and of the birth date
must agree. What disagrees is said, without saying whose it is. See docs/decisions/0020.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from ichor.reasons import Reason
from ichor.types import Earlier, Instance, ManifestRef, Scan

NOBODY = "0" * 32


def scan_of(
    instances: Iterable[Instance], *, study_instance_uid: str, pipeline: str, about: str,
    inputs: Mapping[str, ManifestRef],
) -> Scan | None:  # fmt: skip
    """The scan that these images of a job's main input are; None where they name no patient, or several."""
    images = tuple(instances)
    patients = {i.patient_sha256 for i in images if len(i.patient_sha256) == 64} - {NOBODY * 2}
    births = {i.birth_date_sha256 for i in images}
    if len(patients) != 1 or len(births - {None}) > 1:
        return None
    (patient,) = patients
    # One that some images lack is missing: said, as any disagreement.
    birth = None if None in births else next(iter(births))
    if patient[:32] == NOBODY:
        return None
    times = [i.acquired_at for i in images if i.acquired_at is not None]
    return Scan(
        study_instance_uid=study_instance_uid, pipeline=pipeline, patient=patient[:32], issuer=patient[32:],
        birth_date=birth, acquired_at=min(times, default=None), acquired_until=max(times, default=None),
        received_at=max(i.received_at for i in images), about=hashlib.sha256(about.encode()).hexdigest()[:32],
        inputs=dict(inputs),
    )  # fmt: skip


def before(scan: Scan, others: Iterable[Scan], *, hours: float) -> tuple[Earlier, str] | None:
    """The newest scan of the same patient less than ``hours`` earlier, and what tells it from another.

    One that disagrees on whose it is, or when, is not compared, which is said where there is no other. Scans of one
    moment are copies, and so are those that overlap in time, as one that is not whole does: neither is the earlier.
    """
    refusal: Reason | None = None
    for other in sorted(others, key=lambda o: (-(o.acquired_at or 0.0), o.study_instance_uid)):
        if other.study_instance_uid == scan.study_instance_uid or other.patient != scan.patient:
            continue
        timed = scan.acquired_at is not None and other.acquired_at is not None
        passed = (scan.acquired_at or 0.0) - (other.acquired_at or 0.0)
        if not (0 < passed <= hours * 3600 if timed else abs(scan.received_at - other.received_at) <= hours * 3600):
            continue
        if timed and (other.acquired_until or 0.0) >= (scan.acquired_at or 0.0):
            continue
        disagreement = _disagreement(scan, other)
        if disagreement is None:
            found = Earlier(
                study_instance_uid=other.study_instance_uid, inputs=other.inputs, hours=round(passed / 3600, 2)
            )  # fmt: skip
            return found, json.dumps([other.study_instance_uid, other.about, found.hours])
        refusal = refusal or disagreement
    return None if refusal is None else (Earlier(refusal=refusal.value), refusal.value)


def changes(later: Scan, others: Iterable[Scan], *, was: Scan | None, now: Scan | None, hours: float) -> bool:
    """Whether ``later`` is to be compared with something else once a scan is no longer ``was`` but ``now``.

    ``others`` are the scans beside it, in whatever state that one is among them.
    """
    one = was or now
    beside = [] if one is None else [o for o in others if o.study_instance_uid != one.study_instance_uid]
    keys = [
        None if (found := before(later, [*beside, *([scan] if scan else [])], hours=hours)) is None else found[1]
        for scan in (was, now)
    ]
    return keys[0] != keys[1]


def _disagreement(one: Scan, other: Scan) -> Reason | None:
    if one.issuer != other.issuer:
        return Reason.EARLIER_OTHER_ISSUER
    if one.birth_date is None or other.birth_date is None:
        return Reason.EARLIER_NO_BIRTH_DATE
    if one.birth_date != other.birth_date:
        return Reason.EARLIER_OTHER_BIRTH_DATE
    return Reason.EARLIER_NO_TIME if one.acquired_at is None or other.acquired_at is None else None
