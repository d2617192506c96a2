"""Rules of routing as data: what a series must be to play a role. Facts are gathered and judged in `ichor.series.roles`.

A rule has two lists of checks. The first says whether the series is meant at all: a bone kernel is *not a candidate*.
The second says whether one that is meant can be used: a lossy head CT is a *refused candidate*, and a study in which
all candidates are refused gets the answer "not analysed" with that reason. A site adds its own in ``[[rules]]``.
"""

from __future__ import annotations

import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated, Any

from ichor.reasons import Reason
from ichor.series.kernels import KernelClass
from ichor.series.rescale import HOUNSFIELD
from ichor.types import AxisName, Component, Dialect, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFacts:
    """A series in the words that rules use. None where nothing is known; texts are upper case, as the headers have them.

    ``whole``: judged with its grid; while images still come, what depends on the grid is unknown.
    """

    kind: Annotated[Kind, "of the images that make the array, or of most objects"]
    not_image: Annotated[str | None, "a reason, when `kind` is not image"]
    dialect: Annotated[Dialect, "of the objects that make the array; of a mixture, one that is not classic"]
    modality: Annotated[str, "Modality (0008,0060)"]
    manufacturer: Annotated[str | None, "Manufacturer (0008,0070)"]
    images: Annotated[int, "slices of all volumes that belong to the array; objects, where there is no image"]
    head: Annotated[bool | None, "Body Part Examined (0018,0015) names a head"]
    contrast: Annotated[bool, "an agent is named"]
    kernel: Annotated[KernelClass, "class of the Convolution Kernel (0018,1210)"]
    tilt: Annotated[float | None, "angle of the normal to the table, degrees"]
    no_array: Annotated[str | None, "a reason, when the series is not one array with every slot filled"]
    axes: Annotated[tuple[str, ...] | None, "names of the leading axes of the array"]
    volumes: Annotated[int | None, "along all leading axes"]
    positions: Annotated[int | None, "slice positions"]
    coverage: Annotated[float | None, "from the first to the last slice, mm"]
    spacing: Annotated[float | None, "distance of slices, mm"]
    thickness: Annotated[float | None, "largest slice thickness, or the spacing where no header has one, mm"]
    field_of_view: Annotated[float | None, "the shorter side of the image, mm"]
    series_number: Annotated[int | None, "Series Number (0020,0011)"]
    component: Annotated[Component | None, "of complex images, where all have the same"]
    magnitude: Annotated[bool | None, "false: phase, real or imaginary images only"]
    time_points: Annotated[int | None, "along the axes time, temporal_position and acquisition"]
    duration: Annotated[float | None, "from the first to the last time point, s"]
    diffusion: Annotated[bool | None, "weighted by b > 5 s/mm2"]
    b_max: Annotated[float | None, "s/mm2"]
    b0_volumes: Annotated[int | None, "volumes with b <= 5 s/mm2"]
    directions: Annotated[int | None, "that differ, of the shell of the highest b-value; opposite ones are one"]
    no_gradients: Annotated[str | None, "a reason, when the gradient table cannot be made"]
    acquisition_type: Annotated[str | None, "MR Acquisition Type (0018,0023): 2D, 3D"]
    scanning_sequence: Annotated[tuple[str, ...] | None, "(0018,0020): SE, IR, GR, EP, RM"]
    sequence_variant: Annotated[tuple[str, ...] | None, "(0018,0021)"]
    sequence_name: Annotated[str | None, "Sequence Name (0018,0024), Pulse Sequence Name (0018,9005)"]
    echo_time: Annotated[float | None, "the shortest, ms"]
    repetition_time: Annotated[float | None, "ms"]
    inversion_time: Annotated[float | None, "ms"]
    flip_angle: Annotated[float | None, "degrees"]
    words: Annotated[
        tuple[str, ...] | None, "values 3 and later of Image Type and Frame Type, and Acquisition Contrast (0008,9209)"
    ]
    unit: Annotated[str | None, "of the values, UCUM; `[hnsf'U]`: Hounsfield units"] = None
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """``fact`` must stand in ``relation`` to ``value``, else: ``reason``; ``*`` is the fact itself.

    An unknown fact passes, unless it must be ``known``: then it fails as soon as the series is whole.
    """

    fact: str
    relation: str
    value: Any
    reason: str
    known: bool = False

    def reason_against(self, facts: SeriesFacts) -> str | None:
        """None when the check holds."""
        actual = getattr(facts, self.fact)
        if actual is None:
            return self.reason if self.known and facts.whole else None
        if RELATIONS[self.relation](actual, self.value):
            return None
        return str(actual) if self.reason == "*" else self.reason


RELATIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "is": operator.eq,
    "is not": operator.ne,
    "at most": operator.le,
    "at least": operator.ge,
    "one of": lambda actual, value: actual in value,
    "none of": lambda actual, value: actual not in value,
    "has any of": lambda actual, value: not set(value).isdisjoint(actual),
    "has none of": lambda actual, value: set(value).isdisjoint(actual),
    "has only": lambda actual, value: set(actual) <= set(value),
}
_OF_NUMBERS = ("at most", "at least")
_OF_LISTS = ("has any of", "has none of", "has only")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a series must be to be meant for ``role`` (``meant``) and to be usable for it (``usable``).

    Several rules may name one role: earlier ones rank first. ``rank`` names facts and how they order candidates of
    one rule, best first: (fact, preferred value or "most" or "least", step); numbers are compared in steps, so that
    two reconstructions of one scan do not differ by the ends of their range.
    """

    name: str
    role: str
    about: str
    meant: tuple[Check, ...]
    usable: tuple[Check, ...]
    rank: tuple[tuple[str, Any, float], ...]


THICKNESS_LIMIT_MM = 5.05  # 5 mm and what rounding adds
TILT_LIMIT_DEG = 40.0  # gantries tilt to 30
LEAST_DIRECTIONS = 6  # unknowns of a tensor
LEAST_TIMES = 20
LONGEST_PERFUSION = 300.0  # s; a bolus has passed by then, and functional MR runs on
# An adult brain is some 130 mm high and 140 mm wide; less than this is a part or a test object.
LEAST_COVERAGE_MM = 50.0
LEAST_FIELD_MM = 100.0

# What can be measured at all. A site's own rule begins with these too.
SOUND: tuple[Check, ...] = (
    Check(fact="no_array", relation="is", value=None, reason="*"),
    Check(fact="images", relation="at least", value=2, reason=Reason.ONE_SLICE),
    Check(fact="positions", relation="at least", value=2, reason=Reason.ONE_SLICE),
)
_BRAIN = (
    Check(fact="coverage", relation="at least", value=LEAST_COVERAGE_MM, reason=Reason.TOO_LITTLE_BRAIN),
    Check(fact="field_of_view", relation="at least", value=LEAST_FIELD_MM, reason=Reason.TOO_LITTLE_BRAIN),
)
_IMAGE = Check(fact="not_image", relation="is", value=None, reason="*")
# Results cite a source object per slice; of frames and tiles they would have to cite numbers.
_ONE_IMAGE_PER_OBJECT = Check(fact="dialect", relation="is", value=Dialect.CLASSIC, reason=Reason.MULTIFRAME)
_MR = Check(fact="modality", relation="is", value="MR", reason=Reason.NOT_MR)
_HEAD = Check(fact="head", relation="is", value=True, reason=Reason.NOT_HEAD)
_MAGNITUDE = Check(fact="magnitude", relation="is", value=True, reason=Reason.NOT_MAGNITUDE)
_NOT_DIFFUSION = Check(fact="diffusion", relation="is", value=False, reason=Reason.IS_DIFFUSION)
# Two or three passes are a scan that was repeated: meant, and refused for its further axis.
_NO_TIMES = Check(fact="time_points", relation="at most", value=4, reason=Reason.TIME_SERIES)


def _axes(*names: AxisName) -> Check:
    return Check(fact="axes", relation="has only", value=tuple(n.value for n in names), reason=Reason.OTHER_AXES)


def _between(fact: str, least: float, most: float, *, reason: str, known: bool = True) -> tuple[Check, Check]:
    return (
        Check(fact=fact, relation="at least", value=least, reason=reason, known=known),
        Check(fact=fact, relation="at most", value=most, reason=reason, known=known),
    )


def _sequence(relation: str, *names: str, reason: str) -> Check:
    return Check(fact="scanning_sequence", relation=relation, value=names, reason=reason)


_ORDER = (("coverage", "most", 20), ("series_number", "least", 1))
_T1 = (_MR, _HEAD, _IMAGE, _MAGNITUDE, _NOT_DIFFUSION, _NO_TIMES)
_3D_T1 = Check(fact="acquisition_type", relation="is", value="3D", reason=Reason.NOT_T1, known=True)
_T1_USABLE = (*SOUND, _axes(), *_BRAIN)
_T1_RANK = (("contrast", False, 1), ("spacing", "least", 0.5), *_ORDER)
_SWI = (_MR, _HEAD, _IMAGE, _MAGNITUDE, _NOT_DIFFUSION, _NO_TIMES)
_SWI_USABLE = (*SOUND, _axes(AxisName.COMPONENT, AxisName.ECHO, AxisName.IMAGE_TYPE), *_BRAIN)
_DIFFUSION = Check(fact="diffusion", relation="is", value=True, reason=Reason.NO_DIFFUSION, known=True)
_DWI_SOUND = (
    *SOUND,
    Check(fact="no_gradients", relation="is", value=None, reason="*"),
    _axes(AxisName.DIFFUSION),
    Check(fact="b0_volumes", relation="at least", value=1, reason=Reason.NO_B0, known=True),
)
_DSC = (
    _MR,
    _HEAD,
    _IMAGE,
    _MAGNITUDE,
    _NOT_DIFFUSION,
    Check(fact="time_points", relation="at least", value=LEAST_TIMES, reason=Reason.FEW_TIMES, known=True),
)
_BOLUS = (
    Check(fact="words", relation="has none of", value=("FMRI", "ASL"), reason=Reason.NOT_T2_STAR),
    *_between("echo_time", 12, 70, reason=Reason.NOT_T2_STAR),
    Check(fact="repetition_time", relation="at most", value=4000, reason=Reason.NOT_T2_STAR),
    Check(fact="duration", relation="at most", value=LONGEST_PERFUSION, reason=Reason.LONG_SERIES),
)
_DSC_USABLE = (*SOUND, _axes(AxisName.TIME, AxisName.TEMPORAL_POSITION, AxisName.ACQUISITION), *_BRAIN)
_DSC_RANK = (("contrast", True, 1), ("time_points", "most", 1), *_ORDER)

# Echo and repetition times are those of clinical protocols at 1.5 and 3 T. Siemens and GE name GR and EP of a gradient
# echo EPI, Philips GR or nothing, so EP alone decides nothing.
RULES: tuple[Rule, ...] = (
    Rule(
        name="ncct_head",
        role="ncct_head",
        about="non-contrast axial head CT, soft kernel",
        meant=(
            _IMAGE,
            Check(fact="modality", relation="is", value="CT", reason=Reason.NOT_CT),
            _HEAD,
            Check(fact="contrast", relation="is", value=False, reason=Reason.CONTRAST),
            Check(fact="kernel", relation="is not", value=KernelClass.SHARP, reason=Reason.BONE_KERNEL),
            Check(fact="tilt", relation="at most", value=TILT_LIMIT_DEG, reason=Reason.NOT_AXIAL),
            _NO_TIMES,
        ),
        usable=(
            *SOUND,
            _ONE_IMAGE_PER_OBJECT,
            Check(fact="unit", relation="is", value=HOUNSFIELD, reason=Reason.NOT_HOUNSFIELD, known=True),
            _axes(),
            Check(fact="thickness", relation="at most", value=THICKNESS_LIMIT_MM, reason=Reason.TOO_THICK),
        ),
        rank=(
            ("kernel", KernelClass.SOFT, 1),
            ("coverage", "most", 20),
            ("thickness", "most", 0.5),
            ("series_number", "least", 1),
        ),
    ),
    Rule(
        name="dwi_tensor",
        role="dwi",
        about="diffusion-weighted, a b0 and six directions or more: fit for a tensor, and for what needs b0 and b1000",
        meant=(
            _MR,
            _HEAD,
            _IMAGE,
            _MAGNITUDE,
            _DIFFUSION,
            Check(fact="directions", relation="at least", value=LEAST_DIRECTIONS, reason=Reason.FEW_DIRECTIONS),
        ),
        usable=(*_DWI_SOUND, *_between("b_max", 500, 3100, reason=Reason.B_VALUE), *_BRAIN),
        rank=(("directions", "most", 1), *_ORDER),
    ),
    Rule(
        name="dwi_lesion",
        role="dwi",
        about="diffusion-weighted, a b0 and b near 1000, by few directions or trace: fit for lesions, not for a tensor",
        meant=(
            _MR,
            _HEAD,
            Check(fact="kind", relation="one of", value=(Kind.IMAGE, Kind.TRACE), reason=Reason.NO_DIFFUSION),
            _MAGNITUDE,
            _DIFFUSION,
        ),
        usable=(*_DWI_SOUND, *_between("b_max", 700, 1600, reason=Reason.B_VALUE), *_BRAIN),
        rank=_ORDER,
    ),
    Rule(
        name="adc",
        role="adc",
        about="apparent diffusion coefficient, as the scanner computed it",
        meant=(
            _MR,
            _HEAD,
            Check(fact="kind", relation="is", value=Kind.ADC, reason=Reason.NOT_AN_ADC_MAP),
        ),
        usable=(*SOUND, _axes(), *_BRAIN),
        rank=_ORDER,
    ),
    Rule(
        name="dsc_named",
        role="dsc_perfusion",
        about="time series that Image Type or Acquisition Contrast calls perfusion or T2*-weighted; not spin labelling",
        meant=(
            *_DSC,
            Check(
                fact="words", relation="has any of", value=("PERFUSION", "T2_STAR"),
                reason=Reason.NOT_T2_STAR, known=True,
            ),
            *_BOLUS,
        ),
        usable=_DSC_USABLE,
        rank=_DSC_RANK,
    ),
    Rule(
        name="dsc_gradient",
        role="dsc_perfusion",
        about="time series of gradient echoes with the times of T2*-weighted images, no longer than a bolus needs",
        meant=(*_DSC, _sequence("has none of", "SE", reason=Reason.NOT_T2_STAR), *_BOLUS),
        usable=_DSC_USABLE,
        rank=_DSC_RANK,
    ),
    Rule(
        name="t1_named",
        role="t1",
        about="T1-weighted, as Image Type or Acquisition Contrast says",
        meant=(*_T1, Check(fact="words", relation="has any of", value=("T1",), reason=Reason.NOT_T1, known=True)),
        usable=_T1_USABLE,
        rank=_T1_RANK,
    ),
    Rule(
        name="t1_inversion_3d",
        role="t1",
        about="3-D gradient echo after an inversion (MPRAGE, BRAVO, TFE)",
        meant=(
            *_T1,
            _3D_T1,
            _sequence("has none of", "SE", "EP", reason=Reason.NOT_T1),
            *_between("inversion_time", 250, 1400, reason=Reason.NOT_T1),
            Check(fact="echo_time", relation="at most", value=8, reason=Reason.NOT_T1, known=True),
        ),
        usable=_T1_USABLE,
        rank=_T1_RANK,
    ),
    Rule(
        name="t1_gradient_3d",
        role="t1",
        about="3-D spoiled gradient echo, short times, small angle; not angiography (TR above) nor steady state (angle)",
        meant=(
            *_T1,
            _3D_T1,
            _sequence("has none of", "SE", "EP", reason=Reason.NOT_T1),
            *_between("repetition_time", 5, 16, reason=Reason.NOT_T1),
            *_between("echo_time", 1.5, 6.5, reason=Reason.NOT_T1),
            *_between("flip_angle", 6, 35, reason=Reason.NOT_T1),
        ),
        usable=_T1_USABLE,
        rank=_T1_RANK,
    ),
    Rule(
        name="t1_spin_echo",
        role="t1",
        about="spin echo with short times",
        meant=(
            *_T1,
            Check(fact="scanning_sequence", relation="has any of", value=("SE",), reason=Reason.NOT_T1, known=True),
            _sequence("has none of", "EP", "IR", reason=Reason.NOT_T1),
            *_between("repetition_time", 250, 1000, reason=Reason.NOT_T1),
            Check(fact="echo_time", relation="at most", value=30, reason=Reason.NOT_T1, known=True),
        ),
        usable=_T1_USABLE,
        rank=_T1_RANK,
    ),
    Rule(
        name="t1_inversion_spin_echo",
        role="t1",
        about="spin echo with short echo time after an inversion (T1 FLAIR)",
        meant=(
            *_T1,
            _sequence("has none of", "EP", "GR", reason=Reason.NOT_T1),
            *_between("inversion_time", 500, 1400, reason=Reason.NOT_T1),
            *_between("repetition_time", 1200, 4000, reason=Reason.NOT_T1),
            Check(fact="echo_time", relation="at most", value=40, reason=Reason.NOT_T1, known=True),
        ),
        usable=_T1_USABLE,
        rank=_T1_RANK,
    ),
    Rule(
        name="swi_named",
        role="swi",
        about="susceptibility-weighted, as Image Type says (SWI, SWAN, SWIp)",
        meant=(
            *_SWI,
            Check(
                fact="words", relation="has any of", value=("SWI", "SWIP", "SWAN", "SWI_COMBINED", "FSBB", "VEN_BOLD"),
                reason=Reason.NOT_SUSCEPTIBILITY, known=True,
            ),
        ),
        usable=_SWI_USABLE,
        rank=_ORDER,
    ),
    Rule(
        name="swi_gradient_3d",
        role="swi",
        about="3-D gradient echo with long echo time",
        meant=(
            *_SWI,
            Check(fact="acquisition_type", relation="is", value="3D", reason=Reason.NOT_SUSCEPTIBILITY, known=True),
            _sequence("has none of", "SE", "EP", "IR", reason=Reason.NOT_SUSCEPTIBILITY),
            *_between("echo_time", 12, 50, reason=Reason.NOT_SUSCEPTIBILITY),
            *_between("repetition_time", 20, 90, reason=Reason.NOT_SUSCEPTIBILITY),
        ),
        usable=_SWI_USABLE,
        rank=_ORDER,
    ),
)  # fmt: skip


# --- a site's own -----------------------------------------------------------------------------------------------------


def check_fits(check: Check) -> None:
    """Is it a check that can be made?

    Raises
    ------
    ValueError
        Names the key, the value and what is allowed.
    """
    kinds = fact_types()
    if check.fact not in kinds:
        raise ValueError(f"fact = {check.fact!r}: one of {', '.join(sorted(kinds))}")
    if check.relation not in RELATIONS:
        raise ValueError(f"relation = {check.relation!r}: one of {', '.join(RELATIONS)}")
    kind = kinds[check.fact]
    allowed = _OF_LISTS if kind is tuple else tuple(r for r in RELATIONS if r not in _OF_LISTS)
    if kind not in (int, float):
        allowed = tuple(r for r in allowed if r not in _OF_NUMBERS)
    if check.relation not in allowed:
        raise ValueError(f"relation = {check.relation!r}: for {check.fact}, one of {', '.join(allowed)}")
    several = check.relation in ("one of", "none of", *_OF_LISTS)
    if several and not isinstance(check.value, list | tuple):
        raise ValueError(f"value = {check.value!r}: a list, for {check.relation!r}")
    for value in check.value if several else (check.value,):
        _value_fits(check.fact, value, kind=str if kind is tuple else kind)


def rank_fits(fact: str, prefer: Any, *, step: float) -> None:
    """Is it an order of candidates?

    Raises
    ------
    ValueError
        Names the key, the value and what is allowed.
    """
    kinds = fact_types()
    if fact not in kinds or kinds[fact] is tuple:
        names = sorted(name for name, kind in kinds.items() if kind is not tuple)
        raise ValueError(f"fact = {fact!r}: one of {', '.join(names)}")
    if step <= 0:
        raise ValueError(f"step = {step!r}: above 0")
    if kinds[fact] in (int, float):
        if prefer not in ("most", "least"):
            raise ValueError(f"prefer = {prefer!r}: most or least")
    else:
        _value_fits(fact, prefer, kind=kinds[fact], key="prefer")


def extended(own: Sequence[Rule], *, without: Sequence[str] = (), rules: Sequence[Rule] = RULES) -> tuple[Rule, ...]:
    """A site's rules and ours. One with the name of ours stands in its place; the others come before ours.

    Raises
    ------
    ValueError
        When two have the same name, or ``without`` names none of ours.
    """
    names = [rule.name for rule in own]
    ours = [rule.name for rule in rules]
    for name in (*names, *without):
        if [*names, *without].count(name) > 1:
            raise ValueError(f"name = {name!r}: two rules have this name")
    if unknown := [name for name in without if name not in ours]:
        raise ValueError(f"name = {unknown[0]!r}: to switch off, one of {', '.join(ours)}")
    by_name = {rule.name: rule for rule in own}
    kept = (by_name.get(rule.name, rule) for rule in rules if rule.name not in without)
    return (*(rule for rule in own if rule.name not in ours), *kept)


def _value_fits(fact: str, value: Any, *, kind: type, key: str = "value") -> None:
    if issubclass(kind, StrEnum):
        if value not in list(kind):
            raise ValueError(f"{key} = {value!r}: for {fact}, one of {', '.join(kind)}")
        return
    wanted: tuple[type, ...] = (int, float) if kind is float else (kind,)
    # A bool is an int to Python, and not to a site.
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise ValueError(f"{key} = {value!r}: for {fact}, {words[kind]}")


def fact_types() -> dict[str, type]:
    """Of every fact, what it is when known: bool, int, float, str, an Enum, or tuple (of texts)."""
    hints = typing.get_type_hints(SeriesFacts)
    found = {}
    for fact in fields(SeriesFacts):
        hint = hints[fact.name]
        if isinstance(hint, types.UnionType):
            hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
        found[fact.name] = typing.get_origin(hint) or hint
    del found["whole"]
    return found
