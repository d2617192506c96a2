"""Which roles a series can play: rules as data over facts of the whole series, each with its reason. Decides nothing else.

A rule has two lists of checks. The first says whether the series is meant at all: a bone kernel is *not a candidate*.
The second says whether one that is meant can be used: a lossy head CT is a *refused candidate*, and a study in which
all candidates are refused gets the answer "not analysed" with that reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ichor.reasons import Reason
from ichor.series.grid import Grid
from ichor.series.kernels import KernelClass, kernel_class
from ichor.types import Instance

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_LOCALIZER_WORDS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"})
_HEAD_WORDS = ("HEAD", "BRAIN", "SKULL", "CRANI", "CEREBR", "KOPF", "SCHAEDEL", "TETE", "CRANE")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFacts:
    """A series in the words that rules use. None where nothing is known.

    ``kind``: image, localizer, derived, secondary_capture, report. ``tilt``: angle of the normal to the table, degrees.
    ``thickness``: largest slice thickness, or the largest spacing where no header has one, mm.
    """

    kind: str
    modality: str
    images: int
    head: bool | None
    contrast: bool
    kernel: KernelClass
    tilt: float | None
    multiframe: bool
    lossy: bool
    conflict: bool
    defect: str | None
    positions: int | None
    coverage: float | None
    spacing: float | None
    thickness: float | None
    finding: str | None
    series_number: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """``fact`` must stand in ``relation`` to ``value``; an unknown fact (None) passes. Else: ``reason``."""

    fact: str
    relation: str
    value: Any
    reason: str

    def reason_against(self, facts: SeriesFacts) -> str | None:
        """None when the check holds. A reason ``*`` is the fact itself."""
        actual = getattr(facts, self.fact)
        if actual is None or RELATIONS[self.relation](actual, self.value):
            return None
        return str(actual) if self.reason == "*" else self.reason


RELATIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "is": operator.eq,
    "is not": operator.ne,
    "at most": operator.le,
    "at least": operator.ge,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a series must be to be meant for ``role`` (``meant``) and to be usable for it (``usable``).

    ``rank`` names facts and how they order candidates, best first: (fact, preferred value or "most" or "least", step);
    numbers are compared in steps, so that two reconstructions of one scan do not differ by the ends of their range.
    """

    role: str
    meant: tuple[Check, ...]
    usable: tuple[Check, ...]
    rank: tuple[tuple[str, Any, float], ...]


THICKNESS_LIMIT_MM = 5.05  # 5 mm and what rounding adds
TILT_LIMIT_DEG = 40.0  # gantries tilt to 30

RULES: tuple[Rule, ...] = (
    Rule(
        role="ncct_head",
        meant=(
            Check(fact="kind", relation="is not", value="report", reason=Reason.REPORT),
            Check(fact="kind", relation="is not", value="localizer", reason=Reason.LOCALIZER),
            Check(fact="kind", relation="is not", value="secondary_capture", reason=Reason.SECONDARY_CAPTURE),
            Check(fact="kind", relation="is not", value="derived", reason=Reason.DERIVED),
            Check(fact="modality", relation="is", value="CT", reason="not a CT"),
            Check(fact="head", relation="is", value=True, reason=Reason.NOT_HEAD),
            Check(fact="contrast", relation="is", value=False, reason=Reason.CONTRAST),
            Check(fact="kernel", relation="is not", value=KernelClass.SHARP, reason=Reason.BONE_KERNEL),
            Check(fact="tilt", relation="at most", value=TILT_LIMIT_DEG, reason=Reason.NOT_AXIAL),
        ),
        usable=(
            Check(fact="lossy", relation="is", value=False, reason=Reason.LOSSY),
            Check(fact="conflict", relation="is", value=False, reason=Reason.DUPLICATE_OTHER_BYTES),
            Check(fact="defect", relation="is", value=None, reason="*"),
            Check(fact="multiframe", relation="is", value=False, reason=Reason.MULTIFRAME),
            Check(fact="images", relation="at least", value=2, reason=Reason.ONE_SLICE),
            Check(fact="finding", relation="is", value=None, reason="*"),
            Check(fact="positions", relation="at least", value=2, reason=Reason.ONE_SLICE),
            Check(fact="thickness", relation="at most", value=THICKNESS_LIMIT_MM, reason=Reason.TOO_THICK),
        ),
        rank=(
            ("kernel", KernelClass.SOFT, 1),
            ("coverage", "most", 20),
            ("thickness", "most", 0.5),
            ("series_number", "least", 1),
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the rules say of one series. ``rank`` per role: lower sorts first, comparable within a role.

    ``refused``: role -> reason, for a series that is meant for the role and cannot be used. ``reason``: why it plays
    none, in the words of the rule that came nearest.
    """

    roles: tuple[str, ...]
    rank: Mapping[str, tuple[float, ...]]
    refused: Mapping[str, str]
    reason: str | None

    @property
    def meant(self) -> frozenset[str]:
        """Roles that it plays, or would play if it could be used."""
        return frozenset(self.roles) | frozenset(self.refused)


def judge(facts: SeriesFacts, *, rules: Sequence[Rule] = RULES) -> Verdict:
    """Apply every rule."""
    roles, refused, rank, reason = [], {}, {}, None
    for rule in rules:
        against = next((r for c in rule.meant if (r := c.reason_against(facts))), None)
        if against is not None:
            reason = reason or against
            continue
        rank[rule.role] = _rank(facts, rule)
        against = next((r for c in rule.usable if (r := c.reason_against(facts))), None)
        if against is None:
            roles.append(rule.role)
        else:
            refused[rule.role] = against
    if refused and not roles:
        reason = next(iter(refused.values()))
    return Verdict(roles=tuple(roles), rank=rank, refused=refused, reason=None if roles else reason)


def facts_of(instances: Sequence[Instance], grid: Grid | None, *, conflict: bool = False) -> SeriesFacts:
    """Facts of a series. Without ``grid`` (a series that is still coming) what depends on it is unknown."""
    first = next((i for i in instances if i.defect is None), instances[0])
    images = [i for i in instances if i.geometry is not None]
    defects = [i.defect for i in instances if i.defect is not None]
    stack = grid.stacks[0] if grid is not None and grid.stacks else None
    thick = [i.geometry.slice_thickness for i in images if i.geometry and i.geometry.slice_thickness]
    head = [_is_head(i.body_part) for i in instances if i.body_part]
    multiframe = any(i.pixels is not None and i.pixels.frames > 1 for i in instances)
    return SeriesFacts(
        kind=_kind(first, all_defective=len(defects) == len(instances)),
        modality=first.modality,
        images=len(instances),
        head=any(head) if head else None,
        contrast=any(i.contrast for i in instances),
        kernel=kernel_class(first.kernel),
        tilt=_tilt(images),
        multiframe=multiframe,
        lossy=any(i.pixels is not None and i.pixels.lossy for i in instances),
        conflict=conflict,
        defect=next(iter(defects), None),
        positions=len(stack.positions) if stack else None,
        coverage=stack.coverage if stack else None,
        spacing=stack.spacing if stack else None,
        thickness=max(thick) if thick else (stack.spacing if stack else None),
        finding=_finding(grid),
        series_number=first.series_number,
    )


def _finding(grid: Grid | None) -> str | None:
    return next(iter(grid.findings), None) if grid is not None else None


def _kind(first: Instance, *, all_defective: bool) -> str:
    """What sort of object the series is made of, by its first object."""
    types = first.image_type
    if first.sop_class_uid.startswith(_SECONDARY_CAPTURE):
        return "secondary_capture"
    if first.geometry is None and first.pixels is None and not all_defective:
        return "report"
    if _LOCALIZER_WORDS & set(types):
        return "localizer"
    if types[:1] == ("DERIVED",):
        # Lossy compression makes an image DERIVED (PS3.3 C.7.6.1.1.2) and changes nothing else in Image Type.
        compressed = first.pixels is not None and first.pixels.lossy and types[1:3] == ("PRIMARY", "AXIAL")
        return "image" if compressed else "derived"
    return "image"


def _is_head(body_part: str | None) -> bool:
    return any(word in (body_part or "") for word in _HEAD_WORDS)


def _tilt(images: Sequence[Instance]) -> float | None:
    """Angle between the slice normal and the patient's long axis, degrees."""
    for image in images:
        orientation = image.geometry.orientation_lps if image.geometry else None
        if orientation is not None:
            normal = np.cross(orientation[:3], orientation[3:])
            return float(np.degrees(np.arccos(min(1.0, abs(float(normal[2]) / float(np.linalg.norm(normal)))))))
    return None


def _rank(facts: SeriesFacts, rule: Rule) -> tuple[float, ...]:
    """Sort key; an unknown fact is taken as the best it could turn out to be, so that an open series may outrank."""
    key = []
    for fact, wish, step in rule.rank:
        actual = getattr(facts, fact)
        if wish in ("most", "least"):
            key.append(-np.inf if actual is None else round(actual / step) * (-1.0 if wish == "most" else 1.0))
        else:
            key.append(0.0 if actual == wish else 1.0)
    return tuple(key)
