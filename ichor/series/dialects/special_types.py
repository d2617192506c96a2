"""Values of Image Type and Frame Type that say neither kind nor component: an axis of their own. Decides no kind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ichor.series.kinds import component_of_types

_FORMS = frozenset({"MOSAIC", "VFRAME"})  # how the images are stored, not what they are


def special_types(image_type: Sequence[str], *, philips: bool) -> str | None:
    """Values 3 and later without those that name a component or a form of storage, joined; None where none is left."""
    return _special_types(tuple(image_type), philips)


@lru_cache(maxsize=1024)
def _special_types(image_type: tuple[str, ...], philips: bool) -> str | None:
    left = [
        value
        for value in image_type[2:]
        if value and value not in _FORMS and component_of_types((value,), philips=philips) is None
    ]
    return "\\".join(left) or None
