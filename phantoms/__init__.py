"""Synthetic studies with known truth, written as DICOM. Not patients, not a physics simulation."""
