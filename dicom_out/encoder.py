"""Findings to DICOM objects: which objects one result set gets. Each kind is encoded in its own module."""

from __future__ import annotations

from collections.abc import Sequence

from dicom_out.context import ResultContext
from dicom_out.header import read_header
from dicom_out.overlay import encode_overlay
from dicom_out.parametric_map import encode_map
from dicom_out.report import encode_report
from dicom_out.segmentation import encode_segmentation, segments_of
from dicom_out.text_report import encode_text_report
from dicom_out.warm import NoFiles, tiny_findings, tiny_job, tiny_overlay, tiny_volume
from ichor.arrays import Volume
from ichor.encoding import EncodedObject, Overlay
from ichor.store.protocol import SpoolReader
from ichor.types import Findings, Instance, Job, ResultSet


class DicomEncoder:
    """The `ichor.encoding.Encoder`.

    Parameters
    ----------
    spool
        Where the first source's stored header is read from.
    software_version
        Of Ichor, shown in every object; no part of a UID.
    """

    def __init__(self, spool: SpoolReader, *, software_version: str) -> None:
        self._spool = spool
        self._software_version = software_version

    def encode(
        self,
        findings: Findings,
        *,
        job: Job,
        sources: Sequence[Instance],
        volume: Volume | None,
        predecessor: ResultSet | None,
        overlays: Sequence[Overlay] = (),
    ) -> list[EncodedObject]:
        """All objects of one result set, byte-identical for equal arguments; see `ichor.encoding.Encoder`.

        ``found`` gives a segmentation, a map per parametric map, the overlays and both reports; ``none`` the reports and
        the overlays, if there are any; ``not_analysed`` the reports.

        Raises
        ------
        ValueError
            When a mask or map does not lie on the grid of ``volume``, or ``sources`` is empty.
        """
        if not sources:
            raise ValueError("a result needs at least one source")
        context = ResultContext(
            findings=findings,
            job=job,
            sources=tuple(sources),
            header=read_header(self._spool, sources[0]),
            software_version=self._software_version,
            predecessor=predecessor,
        )
        segments = segments_of(findings)
        analysed = findings.outcome != "not_analysed"
        images = self._images(context, volume, overlays) if volume is not None and analysed else []
        report = encode_report(context, volume, segments, others=images)
        text = encode_text_report(context, others=[*images, report])
        # In the order of sending: the answer first, the maps, by far the largest, last.
        last = ("overlay", "parametric_map")
        return sorted([*images, report, text], key=lambda one: last.index(one.kind) + 1 if one.kind in last else 0)

    def warm(self) -> None:
        """Encode a tiny result and drop it: the next one takes its time without the imports (call it at start)."""
        volume = tiny_volume()
        DicomEncoder(NoFiles(), software_version=self._software_version).encode(
            tiny_findings(), job=tiny_job(), sources=volume.sources, volume=volume, predecessor=None,
            overlays=[tiny_overlay()],
        )  # fmt: skip

    @staticmethod
    def _images(context: ResultContext, volume: Volume, overlays: Sequence[Overlay]) -> list[EncodedObject]:
        segments = segments_of(context.findings)
        images = [encode_segmentation(context, volume, segments)] if segments else []
        for index, values in enumerate(context.findings.maps):
            encoded = encode_map(context, volume, values, index=index)
            if encoded is not None:
                images.append(encoded)
        images.extend(encode_overlay(context, volume, overlay, index=k) for k, overlay in enumerate(overlays))
        return images
