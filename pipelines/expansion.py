"""Will the largest haematoma expand? What the classifier says of it, and why it says nothing. Judges nothing itself.

doi:10.1038/s41746-025-02213-w: expansion is growth by more than 6 mL or 33 % on a second CT within 72 h.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ichor.arrays import MaskArray, Volume
from ichor.pipeline import Classification, ClassificationEngine, Engine
from ichor.types import Measurement, ParametricMap
from pipelines.terms import EXPANSION, GRAD_CAM, NO_UNITS, UNSPECIFIED_CALCULATION

WITHIN_HOURS = 72.0

log = logging.getLogger(__name__)

MODEL = "haematoma-expansion-phantom"
MEASUREMENT = "expansion_probability"
MAP_LABEL = "Attention for expansion"

NO_MODEL = "no model"
TOO_FEW_SLICES = "not classifiable, fewer than 3 contiguous slices"
NOT_A_CLASSIFIER = "the installed model does not classify"
BROKEN = "the network's answer is not usable"
GAP_BETWEEN = "not classifiable, a slice is missing between its slices"
GAP = 1.5  # times the usual distance of slices


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """What is said of expansion: ``classification`` by ``engine``, or the ``reason`` why there is none."""

    classification: Classification | None = None
    engine: Engine | None = None
    reason: str | None = None

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The probability, or nothing."""
        if self.classification is None:
            return ()
        return (
            Measurement(
                name=MEASUREMENT, value=self.classification.probability, unit="1", code=EXPANSION,
                method="Mean of three slices", report_scale=100.0, report_unit="%",
            ),
        )  # fmt: skip

    @property
    def maps(self) -> tuple[ParametricMap, ...]:
        """Where the network looked; nothing where it saw nothing that speaks for expansion."""
        if self.classification is None or not self.classification.attention_zyx.any():
            return ()
        return (
            ParametricMap(
                label=MAP_LABEL, values_zyx=self.classification.attention_zyx, quantity=GRAD_CAM, unit=NO_UNITS,
                derivation=UNSPECIFIED_CALCULATION,
            ),
        )  # fmt: skip

    @property
    def parameters(self) -> Mapping[str, str]:
        """Who judged; a part of what results are named by."""
        if self.classification is None or self.engine is None:
            return {}
        return {"expansion_model": self.engine.name, "expansion_weights_sha256": self.engine.sha256}

    def sentences(self, *, which: str) -> tuple[str, ...]:
        """For the summary; ``which`` names the haematoma."""
        if self.classification is None or self.engine is None:
            return (f"Probability of expansion not assessed: {self.reason}",)
        each = ", ".join(f"{100 * p:.0f}" for p in self.classification.each)
        slices = ", ".join(str(k + 1) for k in self.classification.slices)
        told = (
            f"Probability of expansion within 72 h {100 * self.classification.probability:.0f} % for {which} "
            f"(slices {slices}: {each} %; {self.engine.name})",
        )
        return told if self.maps else (*told, "Nothing on these slices spoke for expansion: there is no attention map")


def judge(mask_zyx: MaskArray, volume: Volume, engines: Mapping[str, Engine]) -> Expansion:
    """Ask the classifier, where one is installed, about the haematoma of ``mask_zyx``."""
    engine = engines.get(MODEL)
    if engine is None:
        return Expansion(reason=NO_MODEL)
    if not isinstance(engine, ClassificationEngine):
        return Expansion(reason=NOT_A_CLASSIFIER)
    try:
        said = engine.classify(volume, mask_zyx)
    except ValueError as error:
        # What was measured stands without it.
        log.error("expansion is not judged: %s", error)
        return Expansion(reason=BROKEN)
    if said is None:
        return Expansion(reason=TOO_FEW_SLICES)
    distances = np.abs(np.diff(volume.slice_positions[list(said.slices)]))
    # Only of a series known to have a gap: elsewhere distances change because the protocol does.
    if volume.notes and distances.max() > GAP * np.median(np.diff(volume.slice_positions)):
        return Expansion(reason=GAP_BETWEEN)
    return Expansion(classification=said, engine=engine)
