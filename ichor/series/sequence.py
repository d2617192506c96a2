"""How an MR image was acquired, for the rules of routing: from a classic header or the functional groups. Judges none."""

from __future__ import annotations

from functools import lru_cache

from ichor.series.values import Values
from ichor.types import SequenceFacts

_SCANNING, _VARIANT, _ACQUISITION_TYPE, _NAME = 0x00180020, 0x00180021, 0x00180023, 0x00180024
_REPETITION, _ECHO, _INVERSION, _FLIP = 0x00180080, 0x00180081, 0x00180082, 0x00181314
_PULSE_SEQUENCE_NAME, _ECHO_PULSE, _EPI, _INVERSION_RECOVERY = 0x00189005, 0x00189008, 0x00189018, 0x00189009
_INVERSION_TIMES, _EFFECTIVE_ECHO, _CONTRAST = 0x00189079, 0x00189082, 0x00089209
_TIMING_MACRO, _ECHO_MACRO, _MODIFIER_MACRO = 0x00189112, 0x00189114, 0x00189115
SHARED, PER_FRAME = 0x52009229, 0x52009230
_MAX_TEXTS = 8

_CLASSIC = (
    _SCANNING, _VARIANT, _ACQUISITION_TYPE, _NAME, _PULSE_SEQUENCE_NAME, _ECHO, _REPETITION, _INVERSION, _FLIP, _CONTRAST,
)  # fmt: skip
WANTED = frozenset(
    {
        _SCANNING, _VARIANT, _ACQUISITION_TYPE, _NAME, _REPETITION, _ECHO, _INVERSION, _FLIP, _PULSE_SEQUENCE_NAME,
        _ECHO_PULSE, _EPI, _CONTRAST, SHARED, PER_FRAME,
    }
)  # fmt: skip


def read_sequence(values: Values, *, image_type: tuple[str, ...], frame: Values | None) -> SequenceFacts:
    """Facts of an MR header.

    An enhanced object says in other words what Scanning Sequence says: Echo Pulse Sequence SPIN is SE, GRADIENT is GR,
    BOTH is both, Echo Planar Pulse Sequence YES is EP, Inversion Recovery YES is IR (PS3.3 C.8.13.4 and C.8.13.5.7).

    Parameters
    ----------
    values
        The top level of the header.
    image_type
        Its Image Type values, upper case.
    frame
        Item of the per-frame functional groups of the first frame; None for what has none.
    """
    shared = values.items(SHARED)
    if frame is None and not shared:
        kept = values.kept
        return _of_classic(tuple((tag, kept[tag]) for tag in _CLASSIC if tag in kept), image_type)
    groups = [*shared[:1], *([frame] if frame is not None else [])]
    contrast = values.text(_CONTRAST)
    words = (*image_type[2:], contrast.upper()) if contrast else image_type[2:]
    timing, echo, modifier = (_macro(groups, tag) for tag in (_TIMING_MACRO, _ECHO_MACRO, _MODIFIER_MACRO))
    inversions = modifier.numbers(_INVERSION_TIMES, "d")
    effective = echo.numbers(_EFFECTIVE_ECHO, "d", 1)
    return SequenceFacts(
        scanning_sequence=_upper(values, _SCANNING) or _in_classic_words(values, modifier),
        sequence_variant=_upper(values, _VARIANT),
        acquisition_type=_text(values, _ACQUISITION_TYPE),
        sequence_name=_text(values, _PULSE_SEQUENCE_NAME) or _text(values, _NAME),
        echo_time=_positive(effective[0] if effective else values.decimal(_ECHO)),
        repetition_time=_positive(timing.decimal(_REPETITION) or values.decimal(_REPETITION)),
        inversion_time=_positive(inversions[0] if inversions else values.decimal(_INVERSION)),
        flip_angle=timing.decimal(_FLIP) if timing.raw(_FLIP) else values.decimal(_FLIP),
        contrast_words=words,
    )


@lru_cache(maxsize=256)
def _of_classic(stored: tuple[tuple[int, bytes], ...], image_type: tuple[str, ...]) -> SequenceFacts:
    """Facts of a classic header, all of them text; the images of a series have the same."""
    values = Values(dict(stored))
    contrast = _text(values, _CONTRAST)
    return SequenceFacts(
        scanning_sequence=_upper(values, _SCANNING),
        sequence_variant=_upper(values, _VARIANT),
        acquisition_type=_text(values, _ACQUISITION_TYPE),
        sequence_name=_text(values, _NAME) or _text(values, _PULSE_SEQUENCE_NAME),
        echo_time=_positive(values.decimal(_ECHO)),
        repetition_time=_positive(values.decimal(_REPETITION)),
        inversion_time=_positive(values.decimal(_INVERSION)),
        flip_angle=values.decimal(_FLIP),
        contrast_words=(*image_type[2:], contrast) if contrast else image_type[2:],
    )


def _in_classic_words(values: Values, modifier: Values) -> tuple[str, ...]:
    found = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}.get(_text(values, _ECHO_PULSE) or "", ())
    if _text(values, _EPI) == "YES":
        found = (*found, "EP")
    if _text(modifier, _INVERSION_RECOVERY) == "YES":
        found = (*found, "IR")
    return found


def _macro(groups: list[Values], tag: int) -> Values:
    """First item of a functional group, wherever it stands; an empty one where it does not."""
    return next((items[0] for group in groups if (items := group.items(tag))), Values())


def _upper(values: Values, tag: int) -> tuple[str, ...]:
    return tuple(part.upper() for part in values.texts(tag)[:_MAX_TEXTS] if part)


def _text(values: Values, tag: int) -> str | None:
    text = values.text(tag)
    return text.upper() if text else None


def _positive(number: float | None) -> float | None:
    return float(number) if number is not None and number > 0 else None
