"""Writes data sets of a synthetic series as files: order, numbers, transfer syntax, lengths. Makes no content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from phantoms.series.forms import FORMS
from phantoms.series.truth import Scan


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Transfer syntax, and whether sequences and items get undefined lengths (PS3.5 section 7.5)."""

    transfer_syntax: str = ExplicitVRLittleEndian
    undefined_lengths: bool = False


def write_series(
    scan: Scan, folder: Path, *, form: str, encoding: Encoding | None = None, shuffle: int | None = None,
    lying_numbers: bool = False,
) -> list[Path]:  # fmt: skip
    """Write ``scan`` in a form of `FORMS`.

    Parameters
    ----------
    shuffle
        Seed of an order of files that has nothing to do with space or time; None keeps the true order.
    lying_numbers
        Instance Numbers follow the order of files, not the truth.

    Returns
    -------
    list of Path
        In order of file names.
    """
    encoding = encoding or Encoding()
    objects = FORMS[form].data_sets(scan, name=form)
    if shuffle is not None:
        objects = [objects[k] for k in np.random.default_rng(shuffle).permutation(len(objects))]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(objects, start=1):
        if lying_numbers:
            ds.InstanceNumber = number
        path = folder / f"{number:05d}.dcm"
        write_object(ds, path, encoding=encoding)
        paths.append(path)
    return paths


def write_object(ds: Dataset, path: Path, *, encoding: Encoding) -> None:
    """Encode one data set of Explicit VR Little Endian content."""
    syntax = UID(encoding.transfer_syntax)
    if encoding.undefined_lengths:
        _undefine(ds)
    if syntax.is_compressed and not syntax.is_deflated:
        ds.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, dtype="<u2").astype(">u2").tobytes()
        ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(
        path, enforce_file_format=True, implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )  # fmt: skip


def _undefine(ds: Dataset) -> None:
    for element in ds:
        if element.VR != "SQ":
            continue
        element.is_undefined_length = True
        for item in element.value:
            item.is_undefined_length_sequence_item = True
            _undefine(item)
