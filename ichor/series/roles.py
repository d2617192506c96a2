"""Which roles a series can play: facts of the whole series, put to the rules of `ichor.series.rules`. Decides nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ichor.reasons import Reason
from ichor.series.grid import Grid
from ichor.series.kernels import kernel_class
from ichor.series.planes import Plane, planes_of
from ichor.series.refusal import array_refusal, of_the_array
from ichor.series.rescale import unit_of
from ichor.series.rules import RULES, Check, Rule, SeriesFacts
from ichor.series.shells import B0_LIMIT, shells
from ichor.types import (
    Axis,
    AxisName,
    Component,
    Dialect,
    Evidence,
    GradientTable,
    Instance,
    Kind,
    SequenceFacts,
    unique,
)

_HEAD_WORDS = ("HEAD", "BRAIN", "SKULL", "CRANI", "CEREBR", "KOPF", "SCHAEDEL", "TETE", "CRANE")
_NOT_IMAGE = {
    Kind.LOCALIZER: Reason.LOCALIZER,
    Kind.SECONDARY_CAPTURE: Reason.SECONDARY_CAPTURE,
    Kind.TRACE: Reason.TRACE,
    Kind.ADC: Reason.PARAMETER_MAP,
    Kind.FA: Reason.PARAMETER_MAP,
    Kind.MIP: Reason.PROJECTION,
    Kind.REFORMAT: Reason.REFORMAT,
    Kind.DERIVED: Reason.DERIVED,
    Kind.REPORT: Reason.REPORT,
}
_TIMES = (AxisName.TIME, AxisName.TEMPORAL_POSITION, AxisName.ACQUISITION)
_SAME_DIRECTION = 1e-3  # of the cosine: 2.6 degrees
_GENERAL = 3  # first checks of our rules: modality, head, kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one rule says of a series: ``plays``, ``refused`` or ``not meant``; the latter two with a reason."""

    role: str
    rule: str
    answer: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the rules say of one series. ``rank`` per role: lower sorts first, comparable within a role.

    ``refused``: role -> reason, for a series that is meant for the role and cannot be used. ``reason``: why it plays
    none, in the words of the rule that came nearest; that no role is for it, where each has its own reason. ``said``:
    every rule, in order. ``facts``: what they were put to.
    """

    roles: tuple[str, ...]
    rank: Mapping[str, tuple[float, ...]]
    refused: Mapping[str, str]
    reason: str | None
    said: tuple[Said, ...] = ()
    facts: SeriesFacts | None = field(default=None, compare=False, repr=False)

    @property
    def meant(self) -> frozenset[str]:
        """Roles that it plays, or would play if it could be used."""
        return frozenset(self.roles) | frozenset(self.refused)

    @property
    def rule(self) -> str | None:
        """The rule that gives it its first role."""
        return next((said.rule for said in self.said if said.answer == "plays"), None)

    def evidence(self) -> tuple[Evidence, ...]:
        """What each rule said, in few lines: those that say no for one reason share a line."""
        return tuple(Evidence(what="rule", detail=line) for line in said_lines(self.said))


def said_lines(said: Sequence[Said]) -> list[str]:
    """What rules said, in words: those that say no for one reason share a line, and a role stands for all its rules."""
    lines = [
        f"{one.rule}: plays {one.role}" if one.answer == "plays" else f"{one.rule}: refused, {one.reason}"
        for one in said
        if one.answer != "not meant"
    ]
    rules_of = Counter(one.role for one in said)
    against: dict[str | None, list[Said]] = {}
    for one in said:
        if one.answer == "not meant":
            against.setdefault(one.reason, []).append(one)
    for reason, those in against.items():
        agreed = Counter(one.role for one in those)
        names = unique([one.role if agreed[one.role] == rules_of[one.role] else one.rule for one in those])
        lines.append(f"not {', '.join(names)}: {reason}")
    return lines


def judge(facts: SeriesFacts, *, rules: Sequence[Rule] = RULES) -> Verdict:
    """Apply every rule."""
    said: list[Said] = []
    rank: dict[str, tuple[float, ...]] = {}
    plays: dict[str, tuple[float, ...]] = {}
    refused: dict[str, str] = {}
    nearest, reason = -1, None
    own_ways: set[str] = set()  # roles whose rules failed at a check that is theirs alone
    for number, rule in enumerate(rules):
        passed, against = _first_against(rule.meant, facts)
        if against is not None:
            said.append(Said(role=rule.role, rule=rule.name, answer="not meant", reason=against))
            shared = any(rule.meant[passed] in other.meant for other in rules if other.role != rule.role)
            if passed >= _GENERAL and not shared:
                own_ways.add(rule.role)
            if passed > nearest:
                nearest, reason = passed, against
            continue
        place = (float(number), *_rank(facts, rule))
        rank.setdefault(rule.role, place)
        _, against = _first_against(rule.usable, facts)
        if against is None:
            plays.setdefault(rule.role, place)
            said.append(Said(role=rule.role, rule=rule.name, answer="plays"))
        else:
            refused.setdefault(rule.role, against)
            said.append(Said(role=rule.role, rule=rule.name, answer="refused", reason=against))
    refused = {role: why for role, why in refused.items() if role not in plays}
    return Verdict(
        roles=tuple(plays),
        rank={**rank, **plays},
        refused=refused,
        reason=None if plays else next(iter(refused.values()), Reason.NO_ROLE if len(own_ways) > 1 else reason),
        said=tuple(said),
        facts=facts,
    )


def facts_of(instances: Sequence[Instance], grid: Grid | None, *, conflict: bool = False) -> SeriesFacts:
    """Facts of a series. Without ``grid`` (a series that is still coming) what depends on it is unknown."""
    first = next((i for i in instances if i.defect is None), instances[0])
    planes = grid.planes if grid is not None else tuple(p for i in instances for p in planes_of(i))
    stack = grid.stacks[0] if grid is not None and grid.stacks else None
    axes = {axis.name: axis for axis in grid.axes} if grid is not None else {}
    geometries = [plane.geometry for plane in planes]
    thick = [g.slice_thickness for g in geometries if g.slice_thickness]
    spaced = next((g for g in geometries if g.pixel_spacing), None)
    head = [_is_head(i.body_part) for i in instances if i.body_part]
    kind = _kind(instances, planes)
    slots = [plane.slot for plane in planes]
    components = {slot.component for slot in slots}
    sequence = next((i.sequence for i in instances if i.sequence is not None), None) or SequenceFacts()
    echoes = [slot.echo_time for slot in slots if slot.echo_time is not None]
    weights = _weights(planes, grid)
    dialects = [i.dialect for i in of_the_array(instances, grid) if i.pixels is not None]
    times = axes.get(AxisName.TIME)
    units = {unit_of(plane.instance) for plane in planes}
    return SeriesFacts(
        kind=kind,
        not_image=_NOT_IMAGE.get(kind),
        dialect=next((d for d in dialects if d is not Dialect.CLASSIC), dialects[0] if dialects else first.dialect),
        modality=first.modality,
        manufacturer=(first.manufacturer or "").upper() or None,
        images=len(planes) or len(instances),
        head=any(head) if head else None,
        contrast=any(i.contrast for i in instances),
        kernel=kernel_class(first.kernel),
        tilt=_tilt(planes),
        no_array=array_refusal(instances, grid, conflict=conflict),
        axes=tuple(name.value for name in axes) if grid is not None else None,
        volumes=int(np.prod([axis.size for axis in grid.axes], dtype=np.int64)) if grid is not None else None,
        positions=len(stack.positions) if stack else None,
        coverage=stack.coverage if stack else None,
        spacing=stack.spacing if stack else None,
        thickness=max(thick) if thick else (stack.spacing if stack else None),
        field_of_view=min(spaced.rows * spaced.pixel_spacing[0], spaced.columns * spaced.pixel_spacing[1])
        if spaced is not None and spaced.pixel_spacing
        else None,
        series_number=first.series_number,
        component=next(iter(components)) if len(components) == 1 else None,
        magnitude=bool(components & {None, Component.MAGNITUDE}) if components else None,
        time_points=int(np.prod([axes[n].size for n in _TIMES if n in axes], dtype=np.int64)) if grid else None,
        duration=float(np.ptp(_numbers(times))) if times is not None and _numbers(times) else None,
        diffusion=weights.weighted,
        b_max=weights.b_max,
        b0_volumes=weights.b0_volumes,
        directions=weights.directions,
        no_gradients=weights.problem,
        acquisition_type=sequence.acquisition_type,
        scanning_sequence=sequence.scanning_sequence or None,
        sequence_variant=sequence.sequence_variant or None,
        sequence_name=(sequence.sequence_name or "").upper() or None,
        echo_time=min(echoes, default=sequence.echo_time),
        repetition_time=sequence.repetition_time,
        inversion_time=sequence.inversion_time,
        flip_angle=sequence.flip_angle,
        words=_words(instances) or None,
        unit=next(iter(units)) if len(units) == 1 else None,
        whole=grid is not None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    weighted: bool | None = None
    b_max: float | None = None
    b0_volumes: int | None = None
    directions: int | None = None
    problem: str | None = None


def _weights(planes: Sequence[Plane], grid: Grid | None) -> _Weights:
    """Diffusion weighting of the volumes; of single images, while the grid is not known."""
    stated = [plane.slot.diffusion for plane in planes if plane.slot.diffusion is not None]
    weighted = any(d.b_value > B0_LIMIT for d in stated)
    if grid is None:
        return _Weights(weighted=weighted or None)
    axis = next((axis for axis in grid.axes if axis.name is AxisName.DIFFUSION), None)
    b_values = _numbers(axis) if axis is not None else sorted({d.b_value for d in stated})
    table = grid.gradients
    return _Weights(
        weighted=weighted,
        b_max=max(b_values, default=None),
        b0_volumes=sum(b <= B0_LIMIT for b in b_values),
        directions=_directions(table) if isinstance(table, GradientTable) else 0,
        problem=str(table) if isinstance(table, Reason) else None,
    )


def _directions(table: GradientTable) -> int:
    """Directions of the shell of the highest b-value that differ; a direction and its opposite measure the same."""
    left = np.asarray(table.directions_lps)[list(shells(table.b_values)[-1].volumes)]
    left = left[left.any(axis=1)]
    left = left / np.linalg.norm(left, axis=1, keepdims=True)
    count = 0
    while len(left):
        count += 1
        left = left[np.abs(left @ left[0]) < 1 - _SAME_DIRECTION]
    return count


def _numbers(axis: Axis) -> list[float]:
    """Values of an axis, without those that say that nothing is stated."""
    return [float(value) for value in axis.values if not isinstance(value, str)]


def _first_against(checks: Sequence[Check], facts: SeriesFacts) -> tuple[int, str | None]:
    """(checks that hold before, reason of the first that does not)."""
    for passed, check in enumerate(checks):
        against = check.reason_against(facts)
        if against is not None:
            return passed, against
    return len(checks), None


def _kind(instances: Sequence[Instance], planes: Sequence[Plane]) -> Kind:
    """That of the images which make the array; without images, that of most objects."""
    kinds = Counter(plane.slot.kind for plane in planes) or Counter(i.kind for i in instances)
    return kinds.most_common(1)[0][0]


def _words(instances: Iterable[Instance]) -> tuple[str, ...]:
    said = {(i.image_type, i.sequence.contrast_words if i.sequence is not None else ()) for i in instances}
    return unique(sorted({word for types, words in said for word in (*types[2:], *words) if word}))


def _is_head(body_part: str | None) -> bool:
    return any(word in (body_part or "") for word in _HEAD_WORDS)


def _tilt(planes: Iterable[Plane]) -> float | None:
    """Angle between the slice normal and the patient's long axis, degrees."""
    for plane in planes:
        orientation = plane.geometry.orientation_lps
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
