"""Synthetic MR and CT series with known truth in the dialects of the scanners' vendors. Not anatomy, not a reader.

A `Scan` is the truth: an array with named axes, its geometry and its diffusion weighting. `write_series` stores it
as DICOM files in one of `FORMS`. Written from the standard and the vendors' documents, not from the readers in
`ichor.series`: two readings of the same facts.
"""

from phantoms.series.files import Encoding, write_series
from phantoms.series.forms import FORMS, Form
from phantoms.series.truth import Extra, ImagePlane, Scan, Stack

__all__ = ["FORMS", "Encoding", "Extra", "Form", "ImagePlane", "Scan", "Stack", "write_series"]
