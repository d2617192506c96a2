"""Synthetic series for tests: which truths are stored in which forms, what dcm2niix makes of them. Tests nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from ichor.types import AxisName
from phantoms.series import FORMS, Scan, scenes

CLASSIC = tuple(name for name in FORMS if name.startswith("classic"))
MOSAIC = ("mosaic-siemens", "mosaic-siemens-descending", "mosaic-siemens-xa", "tiled-uih")
ENHANCED = tuple(name for name in FORMS if name.startswith("enhanced"))
SHELLS = (0.0, 700.0, 1000.0, 0.0, 1000.0, 700.0, 1000.0, 0.0, 700.0, 700.0, 1000.0)
SORTED_SHELLS = tuple(sorted(SHELLS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A truth, and the forms in which a scanner could store it."""

    scan: Scan
    forms: tuple[str, ...]
    # What Debian's dcm2niix 1.0.20220720 makes of a form, where it is not the truth: found by running it.
    unread: dict[str, str] = field(default_factory=dict)


_AS_ONE = "it stacks the frames of all volumes as slices of one"
_NOT_AS_ONE = {"enhanced-ge": _AS_ONE, "enhanced-siemens-whole": _AS_ONE}
_TILT = "its affine leaves out the shear of a tilted gantry"
_STACKS = dict.fromkeys(ENHANCED, "it takes two stacks of one object for volumes or slices of one")

CASES = {
    "plain": Case(scan=scenes.plain(), forms=(*CLASSIC, *MOSAIC, *ENHANCED)),
    "dwi": Case(scan=scenes.diffusion(), forms=(*CLASSIC, *MOSAIC, *ENHANCED), unread=_NOT_AS_ONE),
    "dwi-trace-adc": Case(
        scan=scenes.diffusion("dwi-trace-adc", trace=True, adc=True, seed=20),
        # A tensor scan of GE holds no trace.
        forms=(*(form for form in CLASSIC if form != "classic-ge"), *MOSAIC, *ENHANCED), unread=_NOT_AS_ONE,
    ),
    "dwi-shells": Case(
        scan=scenes.diffusion("dwi-shells", b_values=SHELLS, seed=9),
        forms=("classic-siemens", "classic-canon", "classic-uih", *MOSAIC, "enhanced-siemens", "enhanced-canon"),
    ),
    "dwi-sorted-shells": Case(
        scan=scenes.diffusion("dwi-sorted-shells", b_values=SORTED_SHELLS, seed=12),
        forms=("classic-philips", "enhanced-philips"),
    ),
    "dwi-sagittal": Case(
        scan=scenes.diffusion("dwi-sagittal", stack=scenes.sagittal_stack(), seed=10),
        forms=("classic-philips", "classic-siemens", "classic-canon", "classic-uih", *MOSAIC, "enhanced-canon"),
    ),
    "dwi-row-encoded": Case(
        scan=scenes.diffusion("dwi-row-encoded", phase_encoding="ROW", seed=11),
        forms=("classic-ge", "mosaic-siemens", "enhanced-philips"),
    ),
    "dsc": Case(
        scan=scenes.perfusion(times=12, slices=5), forms=(*CLASSIC, *MOSAIC, *ENHANCED), unread=_NOT_AS_ONE
    ),
    "dsc-scaled": Case(
        scan=scenes.perfusion("dsc-scaled", times=6, slices=5, scaled_per_image=True),
        forms=("classic-philips", "enhanced-philips"),
    ),
    "echoes": Case(scan=scenes.multi_echo(), forms=(*CLASSIC, *MOSAIC, *ENHANCED), unread=_NOT_AS_ONE),
    "complex": Case(
        scan=scenes.complex_echoes(),
        forms=("classic-philips", "classic-siemens", "classic-ge", "classic-standard", "mosaic-siemens", *ENHANCED),
        unread=_NOT_AS_ONE,
    ),
    "stacks": Case(scan=scenes.two_stacks(), forms=(*CLASSIC, *ENHANCED), unread=_STACKS),
    "ct": Case(scan=scenes.head_ct("ct", degrees=0.0), forms=("classic-standard", "enhanced-canon")),
    "ct-tilted": Case(
        scan=scenes.head_ct("ct-tilted"), forms=("classic-standard", "enhanced-canon"),
        unread={"classic-standard": _TILT, "enhanced-canon": _TILT},
    ),
    "ct-uneven": Case(
        scan=scenes.head_ct("ct-uneven", degrees=0.0, gaps=(5.0, 5.0, 5.0, 7.0, 5.0, 5.0)),
        forms=("classic-standard", "enhanced-canon"),
        unread=dict.fromkeys(("classic-standard", "enhanced-canon"), "it fits one slice distance"),
    ),
    "ct-perfusion": Case(scan=scenes.ct_perfusion(), forms=("classic-standard", "enhanced-canon")),
}  # fmt: skip
ALL = [(name, form) for name, case in CASES.items() for form in case.forms]


# Forms in which only Instance Numbers tell the order: of diffusion volumes, of stacks; as in these scanners' files.
_NUMBERED = {
    AxisName.DIFFUSION: {"classic-ge", "classic-canon", "classic-standard"},
    AxisName.STACK: {"classic-philips", "classic-siemens", "classic-ge", "classic-uih"},
}


def numbers_may_lie(scan: Scan, form: str) -> bool:
    """True where a header says the order of volumes and stacks by something else than Instance Number."""
    return not any(form in _NUMBERED.get(axis.name, ()) for axis in scan.axes)
