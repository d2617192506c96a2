"""Coded terms that pipelines speak in. Standard codes where one is known to fit, else of our own scheme. No wording."""

from __future__ import annotations

from ichor.types import Code

HAEMORRHAGE = Code(value="50960005", scheme="SCT", meaning="Hemorrhage")
INTRACRANIAL_HAEMORRHAGE = Code(value="1386000", scheme="SCT", meaning="Intracranial hemorrhage")
ABNORMAL = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
BRAIN = Code(value="12738006", scheme="SCT", meaning="Brain")
VOLUME = Code(value="118565006", scheme="SCT", meaning="Volume")
FINDING = Code(value="121071", scheme="DCM", meaning="Finding")
PROBABILITY_MAP = Code(value="110854", scheme="DCM", meaning="Fractional Probabilistic Segmentation")
BY_SEGMENTATION = Code(value="113076", scheme="DCM", meaning="Segmentation")
GRAD_CAM = Code(value="130403", scheme="DCM", meaning="Gradient-weighted class activation")
UNSPECIFIED_CALCULATION = Code(value="112187", scheme="DCM", meaning="Unspecified method of calculation")
NO_UNITS = Code(value="1", scheme="UCUM", meaning="no units")
EXPANSION = Code(value="EXPANSION_72H", scheme="99ICHOR", meaning="Probability of haematoma expansion within 72 h")
SIDES = {
    "left": Code(value="7771000", scheme="SCT", meaning="Left"),
    "right": Code(value="24028007", scheme="SCT", meaning="Right"),
    "across the midline": Code(value="51440002", scheme="SCT", meaning="Bilateral"),
}
NOT_CALLED = Code(value="NOT_CALLED", scheme="99ICHOR", meaning="Volume of what is too small or faint to call")
GROWTH = Code(value="GROWTH", scheme="99ICHOR", meaning="Growth of haematoma since the earlier CT")
GROWTH_PERCENT = Code(
    value="GROWTH_PERCENT", scheme="99ICHOR", meaning="Growth of haematoma since the earlier CT, relative"
)
