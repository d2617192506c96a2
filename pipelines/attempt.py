"""One attempt at a job: manifests to volumes, pipeline, encoding. Reads the stores; touches no bus and stores nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from ichor.arrays import Volume
from ichor.encoding import EncodedObject, Encoder, Overlay
from ichor.errors import UnknownMessage, Unreadable
from ichor.pipeline import Engine, Examined, PipelineSpec
from ichor.reasons import Reason
from ichor.store.findings import findings_key, load_findings
from ichor.store.protocol import Blobs, SpoolReader
from ichor.types import Algorithm, Earlier, Findings, Instance, Job, Manifest, ManifestRef, ResultSet, Stage
from ichor.uids import content_digest, uid_of
from pipelines.picture import Drawn, draw, drawn_of, overlays
from pipelines.results import Made

REPORTS = ("report", "text_report")

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


def attempt(
    bench: Bench, spec: PipelineSpec, job: Job, *, predecessor: ResultSet | None, earlier: ResultSet | None = None
) -> Made:
    """Do a job. What cannot be measured is answered "not analysed" with its reason; other errors are the caller's.

    ``earlier`` is the result of the scan that the job is to be compared with, where there is one yet: it is cited.
    """
    watch = Stopwatch()
    if job.refusal is not None:
        return not_analysed(bench, spec, job, reason=job.refusal, predecessor=predecessor, watch=watch)
    manifests = _manifests(bench, job.inputs)
    try:
        examined = _examine(bench, spec, manifests, refs=job.inputs, watch=watch)
    except Unreadable as error:
        return not_analysed(bench, spec, job, reason=error.reason, predecessor=predecessor, watch=watch)
    findings, main, fresh = examined.scan.findings, examined.scan.volume, examined.fresh
    drawn: tuple[Overlay, ...] = ()
    if job.earlier is not None and spec.compare is not None:
        followed = _follow_up(bench, spec, examined.scan, job.earlier, result=earlier, watch=watch)
        findings, drawn, fresh = followed.findings, followed.drawn, (*fresh, *followed.fresh)
    sources = examined.sources
    with watch(Stage.ENCODE):
        coloured = overlays(findings, main)
        objects = bench.encoder.encode(
            findings, job=job, sources=sources, volume=main, predecessor=predecessor, overlays=[*drawn, *coloured]
        )
        pictures = [*draw(findings, main, coloured), *map(drawn_of, drawn)]
    return Made(
        findings=findings, sources=sources, objects=tuple(objects), pictures=tuple(pictures), seconds=watch.seconds,
        fresh=fresh,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Examined:
    """A scan with its findings; ``fresh`` where these were computed just now."""

    scan: Examined
    sources: tuple[Instance, ...]
    fresh: tuple[tuple[str, Findings], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Followed:
    findings: Findings
    drawn: tuple[Overlay, ...] = ()
    fresh: tuple[tuple[str, Findings], ...] = ()


def _examine(
    bench: Bench, spec: PipelineSpec, manifests: Mapping[str, Manifest], *, refs: Mapping[str, ManifestRef],
    watch: Stopwatch,
) -> _Examined:  # fmt: skip
    """Volumes of a study and what is found on them: kept findings, where the same was asked before."""
    with watch(Stage.VOLUME):
        volumes = {
            role: bench.build_volume(manifest, spool=bench.spool, ref=refs[role])
            for role, manifest in manifests.items()
        }
    main = volumes[spec.requires[0]]
    _check_citable(main)
    key = _recall_key(bench, spec, manifests[spec.requires[0]].study_instance_uid, volumes)
    kept = _recall(bench.blobs, key)
    findings = spec.run(volumes, bench.engines, watch) if kept is None else kept
    sources = tuple(dict.fromkeys(i for v in [main, *volumes.values()] for i in v.sources))
    return _Examined(
        scan=Examined(findings=findings, volume=main), sources=sources,
        fresh=((key, findings),) if kept is None else (),
    )  # fmt: skip


def _manifests(bench: Bench, refs: Mapping[str, ManifestRef]) -> dict[str, Manifest]:
    return {role: bench.load_manifest(ref, bench.blobs) for role, ref in refs.items()}


def _follow_up(
    bench: Bench, spec: PipelineSpec, now: Examined, before: Earlier, *, result: ResultSet | None, watch: Stopwatch
) -> _Followed:
    """The findings of ``now`` with what is to be said of the scan before; what was compared is cited."""
    assert spec.compare is not None
    if before.refusal is not None:
        return _Followed(findings=without_earlier(now.findings, before.refusal))
    try:
        manifests = _manifests(bench, before.inputs)
    except KeyError:
        return _Followed(findings=without_earlier(now.findings, Reason.EARLIER_GONE))
    try:
        examined = _examine(bench, spec, manifests, refs=before.inputs, watch=watch)
    except Unreadable as error:
        return _Followed(findings=without_earlier(now.findings, f"it is not analysed: {error.reason}"))
    with watch(Stage.MEASURE):
        compared = spec.compare(now, examined.scan, hours=before.hours)
    objects = sorted(result.objects if result else (), key=lambda item: item.kind not in REPORTS)
    results = [
        (before.study_instance_uid, item.series_instance_uid, item.sop_class_uid, item.sop_instance_uid)
        for item in objects
    ]
    images = [
        (i.study_instance_uid, i.series_instance_uid, i.sop_class_uid, i.sop_instance_uid) for i in examined.sources
    ]
    # Another earlier scan, or the same under another identity, with another result or time, is another report.
    which = uid_of(content_digest(examined.sources), examined.sources[0].identity_sha256, results, before.hours)
    algorithm = compared.findings.algorithm
    # It may be another person's: nothing rests on what was not comparable.
    pertinent = () if "not_compared" in algorithm.parameters else (*results, *images)
    later = () if results or not pertinent else ("The earlier CT had no report of its own yet that could be cited",)
    findings = replace(
        compared.findings, summary=(*compared.findings.summary, *later), pertinent=pertinent,
        algorithm=replace(algorithm, parameters={**algorithm.parameters, "compared_with": which}),
    )  # fmt: skip
    drawn = () if compared.picture is None else (compared.picture,)
    return _Followed(findings=findings, drawn=drawn, fresh=examined.fresh)


def without_earlier(findings: Findings, reason: str) -> Findings:
    """The findings, and that there is another scan under the Patient ID with which they are not compared."""
    said = f"Another CT under this Patient ID, within days, is not compared: {reason}"
    algorithm = replace(findings.algorithm, parameters={**findings.algorithm.parameters, "not_compared": str(reason)})
    return replace(findings, summary=(*findings.summary, said), algorithm=algorithm)


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
