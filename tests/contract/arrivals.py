"""Seeded arrivals of synthetic series with known truth, as messages to the assembler. No pixels, no network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from ichor.messages import AssociationClosed
from ichor.types import Geometry, Instance, Pixels

CT = "1.2.840.10008.5.1.4.1.1.2"


def make_slice(
    *,
    study: str = "1.2.3",
    series: str = "1.2.3.1",
    number: int,
    z: float | None = None,
    spacing: float = 5.0,
    thickness: float | None = None,
    count: int | None = None,
    calling_ae: str = "CT1",
    association: str = "a1",
    acquisition: int | None = 1,
    tilt: float = 0.0,
    patient: str = "p",
    identity: str = "i",
    received_at: float = 0.0,
    **changes: object,
) -> Instance:
    """One axial head CT slice as the receiver would tell of it."""
    place = spacing * number if z is None else z
    sine, cosine = float(np.sin(np.deg2rad(tilt))), float(np.cos(np.deg2rad(tilt)))
    uid = f"{series}.{number}"
    whose = hashlib.sha256(patient.encode()).hexdigest()[:32] + "0" * 32
    made = Instance(
        sop_instance_uid=uid,
        sop_class_uid=CT,
        series_instance_uid=series,
        study_instance_uid=study,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="CT",
        location=f"{study}/{series}/{uid}",
        file_sha256=hashlib.sha256(f"{uid}{identity}".encode()).hexdigest(),
        content_sha256=hashlib.sha256(uid.encode()).hexdigest(),
        identity_sha256=identity,
        patient_sha256=whose,
        accession_sha256=None,
        association=association,
        calling_ae=calling_ae,
        called_ae="ICHOR",
        priority=None,
        received_at=received_at,
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        series_number=2,
        instance_number=number,
        acquisition_number=acquisition,
        body_part="HEAD",
        kernel="H30s",
        counts=(("ImagesInAcquisition", count),) if count is not None else (),
        geometry=Geometry(
            rows=64,
            columns=64,
            position_lps=(-110.0, -110.0, place),
            orientation_lps=(1.0, 0.0, 0.0, 0.0, cosine, sine),
            pixel_spacing=(0.5, 0.5),
            slice_thickness=spacing if thickness is None else thickness,
            frame_of_reference_uid="1.2.3.9",
        ),
        pixels=Pixels(offset=1000, length=8192, encapsulated=False, lossy=False, rescale_intercept=-1024.0),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Habit:
    """How one sender behaves. ``count``: none, right, high, low (of two acquisitions), one (always 1)."""

    ae: str
    count: str
    splits: float  # probability that a series comes over several associations
    pause: float  # typical seconds between slices
    order: str  # forward, backward, random
    late: float  # probability that some slices come long after the rest
    missing: float  # probability that some slices never come
    aborts: float = 0.0


HABITS = (
    Habit("CT1", "right", 0.0, 0.01, "forward", 0.0, 0.0),
    Habit("CT2", "right", 0.1, 0.05, "random", 0.05, 0.05),
    Habit("CT3", "none", 0.0, 0.01, "forward", 0.0, 0.0),
    Habit("CT4", "none", 0.0, 0.2, "forward", 0.02, 0.02),
    Habit("CT5", "none", 0.4, 0.05, "random", 0.05, 0.0),
    Habit("CT6", "low", 0.0, 0.05, "forward", 0.02, 0.0),
    Habit("CT7", "high", 0.0, 0.02, "backward", 0.02, 0.0),
    Habit("CT8", "one", 0.05, 0.02, "random", 0.02, 0.0),
    Habit("CT9", "right", 0.3, 0.5, "backward", 0.1, 0.1, aborts=0.1),
    Habit("CT10", "none", 0.05, 0.05, "forward", 0.02, 0.02, aborts=0.1),
)


@dataclass
class Truth:
    """What a series really is. ``sent`` will arrive sooner or later, ``never`` will not."""

    uid: str
    habit: Habit
    whole: frozenset[str]
    sent: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    gap: bool = False  # what never comes leaves a hole inside


@dataclass(frozen=True)
class Happening:
    """At ``at``: instances of one association, or its end."""

    at: float
    association: str
    instances: tuple[Instance, ...] = ()
    closed: AssociationClosed | None = None


@dataclass
class Arrival:
    """One study's arrival: happenings in order of time, and the truth about its series."""

    study: str
    truths: dict[str, Truth] = field(default_factory=dict)
    happenings: list[Happening] = field(default_factory=list)


def draw_arrivals(seed: int, count: int, *, start: float = 1_700_000_000.0) -> Iterator[Arrival]:
    """``count`` series over as many studies as that takes, one study after the other."""
    rng = np.random.default_rng(seed)
    made, at, n = 0, start, 0
    while made < count:
        n += 1
        series = min(int(rng.integers(1, 4)), count - made)
        arrival = _draw_study(rng, f"1.2.826.0.{n}", series, at)
        made += series
        at = max(h.at for h in arrival.happenings) + 300.0
        yield arrival


def _draw_study(rng: np.random.Generator, study: str, series: int, start: float) -> Arrival:
    arrival = Arrival(study)
    habit = HABITS[int(rng.integers(len(HABITS)))]
    # (association, slices in order of sending); series of a study go over the same associations, interleaved.
    parts: list[list[Instance]] = [[]]
    late: list[Instance] = []
    for k in range(series):
        truth, slices = _draw_series(rng, study, f"{study}.{k + 1}", habit)
        arrival.truths[truth.uid] = truth
        if rng.random() < habit.missing:
            away = _some(rng, slices)
            slices = [s for s in slices if s not in away]
            kept = sorted(s.instance_number or 0 for s in slices)
            truth.gap = any(b - a > 1 for a, b in pairwise(kept))
        truth.sent = frozenset(s.sop_instance_uid for s in slices)
        if rng.random() < habit.late and len(slices) > 4:
            away = _some(rng, slices)
            slices = [s for s in slices if s not in away]
            truth.late = frozenset(s.sop_instance_uid for s in away)
            late += away
        if rng.random() < habit.splits and len(slices) > 2:
            cut = int(rng.integers(1, len(slices)))
            while len(parts) < 2:
                parts.append([])
            parts[0] += slices[:cut]
            parts[1] += slices[cut:]
        else:
            parts[0] += slices
    if rng.random() < 0.3:
        for part in parts:
            rng.shuffle(part)  # type: ignore[arg-type]  # series interleaved
    if late:
        parts.append(late)
    at = start
    for p, part in enumerate(parts):
        at += 0.0 if p == 0 else float(rng.uniform(15, 120)) if part is late else float(rng.exponential(4.0))
        at = _send(rng, arrival, part, habit, f"{study}-a{p}", at)
    arrival.happenings.sort(key=lambda h: h.at)
    return arrival


def _draw_series(rng: np.random.Generator, study: str, uid: str, habit: Habit) -> tuple[Truth, list[Instance]]:
    images = int(rng.integers(4, 48))
    if habit.count == "low":
        images += images % 2
    spacing = float(rng.choice([1.0, 2.5, 3.0, 5.0]))
    thickness = np.full(images, spacing)
    z = np.arange(images) * spacing
    if images > 12 and rng.random() < 0.2:  # thin below, thick above
        half = images // 2
        z[half:] = z[half] + np.arange(images - half) * 2 * spacing
        thickness[half:] = 2 * spacing
    stated = {"none": None, "right": images, "high": images + 7, "low": images // 2, "one": 1}[habit.count]
    tilt = float(rng.choice([0.0, 0.0, 12.0, 20.0]))
    slices = [
        make_slice(
            study=study, series=uid, number=i + 1, z=float(z[i]), thickness=float(thickness[i]), count=stated,
            calling_ae=habit.ae, tilt=tilt, acquisition=1 + (i >= images // 2) if habit.count == "low" else 1,
        )
        for i in range(images)
    ]  # fmt: skip
    if habit.order == "backward":
        slices.reverse()
    elif habit.order == "random":
        slices = [slices[i] for i in rng.permutation(images)]
    return Truth(uid, habit, frozenset(s.sop_instance_uid for s in slices)), slices


def _some(rng: np.random.Generator, slices: list[Instance]) -> list[Instance]:
    """A few slices, at least two stay."""
    most = max(1, min(4, len(slices) - 2))
    return [slices[i] for i in rng.choice(len(slices), size=int(rng.integers(1, most + 1)), replace=False)]


def _send(
    rng: np.random.Generator, arrival: Arrival, slices: list[Instance], habit: Habit, name: str, at: float
) -> float:
    """Happenings of one association, perhaps aborted and taken up again; the time when it ended."""
    abort = int(rng.integers(1, len(slices))) if len(slices) > 2 and rng.random() < habit.aborts else len(slices)
    for turn, part in enumerate((slices[:abort], slices[abort:])):
        if not part:
            continue
        association = f"{name}{'' if turn == 0 else '-again'}"
        i = 0
        while i < len(part):
            size = int(rng.integers(1, 6))
            at += float(rng.exponential(habit.pause)) * size
            if rng.random() < 0.01:
                at += float(rng.exponential(2.0))  # the scanner reconstructs
            batch = tuple(replace(s, association=association, received_at=at) for s in part[i : i + size])
            arrival.happenings.append(Happening(at, association, batch))
            if rng.random() < 0.05:
                arrival.happenings.append(Happening(at + 0.001, association, batch))  # delivered twice
            i += size
        counts: dict[str, int] = {}
        for s in part:
            counts[s.series_instance_uid] = counts.get(s.series_instance_uid, 0) + 1
        at += 0.01
        released = turn == 1 or abort == len(slices)
        closed = AssociationClosed(
            study_instance_uid=arrival.study, association=association, released=released, calling_ae=habit.ae,
            counts=counts, closed_at=at,
        )  # fmt: skip
        arrival.happenings.append(Happening(at, association, closed=closed))
        if not released:
            at += float(rng.exponential(3.0))
    return at
