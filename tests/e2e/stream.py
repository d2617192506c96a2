"""A stream of small studies, and modalities that send one after the other until all is acknowledged. Asserts nothing."""

from __future__ import annotations

import threading
from copy import deepcopy
from pathlib import Path

import pydicom
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid
from pynetdicom import AE, _config
from requestor import associate

from phantoms.ct_study import write_ct_head


def data_set_bytes(path: Path) -> bytes:
    """What follows the file meta information: the part that a C-STORE carries."""
    with path.open("rb") as file:
        meta = pydicom.filereader.read_file_meta_info(path)
        file.seek(132 + 12 + meta.FileMetaInformationGroupLength)
        return file.read()


class Modality(threading.Thread):
    """Sends studies one after the other and sends an object again until it is acknowledged.

    ``pause``: seconds after each object, as a scanner needs.
    """

    def __init__(self, studies: list[list[Path]], port: int, finished: threading.Event, *, pause: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.pause = pause
        self.studies, self.port, self.finished = studies, port, finished
        self.acknowledged: set[Path] = set()

    def run(self) -> None:
        _config.STORE_SEND_CHUNKED_DATASET = True
        for paths in self.studies:
            waiting = list(paths)
            while waiting:
                waiting = self.push(waiting)
        self.finished.set()

    def push(self, paths: list[Path]) -> list[Path]:
        entity = AE(ae_title="CT1")
        entity.connection_timeout, entity.acse_timeout, entity.dimse_timeout, entity.network_timeout = 2, 2, 5, 5
        entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
        association = associate(entity, self.port)
        if not association.is_established:
            self.finished.wait(0.1)
            return paths
        left = list(paths)
        for path in paths:
            try:
                status = association.send_c_store(path)
            except (RuntimeError, ValueError, OSError):
                break
            if status.get("Status", -1) != 0:
                break
            self.acknowledged.add(path)
            left.remove(path)
            self.finished.wait(self.pause)
        if association.is_established:
            association.release()
        return left


def many_studies(folder: Path, count: int) -> list[list[Path]]:
    """``count`` small studies made of two synthetic heads, one with a bleed and one without."""
    bases = []
    for seed, bleed in ((20_510, 30.0), (20_511, "none")):
        write_ct_head(folder / str(seed), seed=seed, bleed=bleed, slices=20, matrix=128, series={"soft"})
        bases.append([pydicom.dcmread(p) for p in sorted((folder / str(seed) / "dicom").rglob("*.dcm"))])
    studies = []
    for number in range(count):
        study, series, frame = generate_uid(), generate_uid(), generate_uid()
        paths = []
        for n, source in enumerate(bases[number % 2]):
            item: FileDataset = deepcopy(source)
            item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, series, frame
            item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            item.PatientID = f"FAULT-{number}"
            path = folder / f"{number:03d}-{n:03d}.dcm"
            item.save_as(path, enforce_file_format=True)
            paths.append(path)
        studies.append(paths)
    return studies
