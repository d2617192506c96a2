"""One attempt at a job: manifests to volumes, pipeline, encoding. Reads the stores; touches no bus and stores nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from ichor.encoding import EncodedObject, Encoder
from ichor.errors import UnknownMessage, Unreadable
from ichor.pipeline import Engine, PipelineSpec
from ichor.reasons import Reason
from ichor.store.findings import findings_key, load_findings
from ichor.store.protocol import Blobs, SpoolReader
from ichor.types import Algorithm, Findings, Job, Manifest, ManifestRef, ResultSet, Stage, Volume
from ichor.uids import content_digest
from pipelines.picture import Drawn, draw, overlays
from pipelines.results import Made

log = logging.getLogger(__name__)


class BuildVolume(Protocol):
    """`ichor.series.volume.build_volume`."""

    def __call__(self, manifest: Manifest, *, spool: SpoolReader, ref: ManifestRef | None = None) -> Volume: ...


LoadManifest = Callable[[ManifestRef, Blobs], Manifest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What an attempt works with."""

    blobs: Blobs
    spool: SpoolReader
    engines: Mapping[str, Engine]
    encoder: Encoder
    build_volume: BuildVolume
    load_manifest: LoadManifest
    not_analysed_report: bool


class Stopwatch:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage.value] = self.seconds.get(stage.value, 0.0) + time.perf_counter() - begun


def attempt(bench: Bench, spec: PipelineSpec, job: Job, *, predecessor: ResultSet | None) -> Made:
    """Do a job. What cannot be measured is answered "not analysed" with its reason; other errors are the caller's."""
    watch = Stopwatch()
    if job.refusal is not None:
        return not_analysed(bench, spec, job, reason=job.refusal, predecessor=predecessor, watch=watch)
    manifests = {role: bench.load_manifest(ref, bench.blobs) for role, ref in job.inputs.items()}
    recall_key: str | None = None
    try:
        with watch(Stage.VOLUME):
            volumes = {
                role: bench.build_volume(manifest, spool=bench.spool, ref=job.inputs[role])
                for role, manifest in manifests.items()
            }
        main = volumes[spec.requires[0]]
        _check_citable(main)
        key = _recall_key(bench, spec, job.study_instance_uid, volumes)
        recalled = _recall(bench.blobs, key)
        if recalled is None:
            findings, recall_key = spec.run(volumes, bench.engines, watch), key
        else:
            findings = recalled
    except Unreadable as error:
        return not_analysed(bench, spec, job, reason=error.reason, predecessor=predecessor, watch=watch)
    sources = tuple(dict.fromkeys(i for v in [main, *volumes.values()] for i in v.sources))
    with watch(Stage.ENCODE):
        objects = bench.encoder.encode(
            findings, job=job, sources=sources, volume=main, predecessor=predecessor, overlays=overlays(findings, main)
        )
        pictures = draw(findings, main)
    return Made(
        findings=findings, sources=sources, objects=tuple(objects), pictures=tuple(pictures), seconds=watch.seconds,
        recall_key=recall_key,
    )  # fmt: skip


def not_analysed(
    bench: Bench, spec: PipelineSpec, job: Job, *, reason: str, predecessor: ResultSet | None,
    watch: Stopwatch | None = None,
) -> Made:  # fmt: skip
    """The answer "not analysed": with its report when the setting is on and a stored image is there to cite."""
    watch = watch or Stopwatch()
    findings = Findings(
        outcome="not_analysed",
        summary=(f"Not analysed: {reason}",),
        algorithm=Algorithm(pipeline=spec.name, version=spec.version, parameters=dict(spec.parameters)),
        reason=reason,
    )
    refs = [*job.inputs.values(), *job.sources]
    sources = tuple(dict.fromkeys(i for ref in refs for i in bench.load_manifest(ref, bench.blobs).instances))
    objects: list[EncodedObject] = []
    pictures: list[Drawn] = []
    if bench.not_analysed_report and sources:
        with watch(Stage.ENCODE):
            try:
                objects = bench.encoder.encode(findings, job=job, sources=sources, volume=None, predecessor=predecessor)
            except Unreadable as error:
                # The answer stands without a report: there is no header to copy an identity from.
                log.warning("job %s: no report can be written: %s", job.job_id, error.reason)
    return Made(
        findings=findings, sources=sources, objects=tuple(objects), pictures=tuple(pictures), seconds=watch.seconds
    )  # fmt: skip


def _check_citable(volume: Volume) -> None:
    """Results lie on a plain volume and cite one source object per slice: say so before a network runs, not after."""
    if volume.axes:
        raise Unreadable(Reason.OTHER_AXES)
    if len(volume.sources) != len(volume.origins_lps):
        raise Unreadable(Reason.MULTIFRAME)


def _recall_key(bench: Bench, spec: PipelineSpec, study_instance_uid: str, volumes: Mapping[str, Volume]) -> str:
    content = "-".join(f"{role}:{content_digest(volume.sources)}" for role, volume in sorted(volumes.items()))
    used = (*spec.models, *(model for model in spec.optional_models if model in bench.engines))
    weights = tuple(f"{model} {bench.engines[model].sha256}" for model in used)
    return findings_key(
        study_instance_uid,
        content=content,
        pipeline=spec.name,
        version=spec.version,
        parameters=spec.parameters,
        weights=weights,
    )


def _recall(blobs: Blobs, key: str) -> Findings | None:
    try:
        return load_findings(blobs.get(key))
    except KeyError:
        return None
    except UnknownMessage as error:
        log.warning("%s; computing anew", error)
        return None


def with_queue(made: Made, seconds: float) -> Made:
    """The same with the time that the job waited for a worker."""
    return replace(made, seconds={Stage.QUEUE.value: max(0.0, seconds), **made.seconds})
