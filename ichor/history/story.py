"""The events of one study as sentences that a person on night duty understands. No states: those are in `study`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ichor.history.study import images, sentences, short
from ichor.messages import (
    AssociationClosed,
    Data,
    DeliveryChanged,
    InstancesReceived,
    JobDone,
    JobFailed,
    JobStarted,
    JobSuperseded,
    ReceiveRefused,
    StudyAssembled,
)
from ichor.store.receipts import RECOVERED
from ichor.types import Grade, Job, SeriesStatus, Stage, unique

_KINDS = {
    "segmentation": "segmentation",
    "parametric_map": "map",
    "overlay": "overlay",
    "report": "structured report",
    "text_report": "text report",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that happened. ``about`` are the series and objects it concerns; empty: the whole study."""

    time: float
    stage: str
    text: str
    about: frozenset[str] = frozenset()


def story(history: Iterable[Data]) -> list[Line]:
    """Events (and, where the bus still holds them, messages of arrival) in any order -> lines in order of time."""
    seen = sorted(history, key=_time)
    lines = _arrivals(e for e in seen if isinstance(e, InstancesReceived))
    before: StudyAssembled | None = None
    results: dict[str, frozenset[str]] = {}
    deliveries: list[DeliveryChanged] = []
    for event in seen:
        if isinstance(event, StudyAssembled):
            if event == before:
                continue
            lines += _assembled(before, event)
            before = event
        elif isinstance(event, JobDone):
            results[event.job_id] = frozenset((*event.input_series, *(o.sop_instance_uid for o in event.objects)))
            lines += _done(event)
        elif isinstance(event, DeliveryChanged):
            deliveries.append(event)
        else:
            lines += _plain(event)
    lines += _deliveries(deliveries, results)
    return sorted(unique(lines), key=lambda line: line.time)


def _time(event: Data) -> float:
    if isinstance(event, InstancesReceived):
        return max((i.received_at for i in event.instances), default=0.0)
    if isinstance(event, AssociationClosed):
        return event.closed_at
    return float(getattr(event, "at", 0.0))


# --- receive --------------------------------------------------------------------------------------------------------


def _arrivals(messages: Iterable[InstancesReceived]) -> list[Line]:
    """One line per association and series, however many messages carried them; one per defect."""
    groups: dict[tuple[str, str], dict[str, tuple[float, str, str, str | None]]] = {}
    for message in messages:
        for i in message.instances:
            group = groups.setdefault((message.association, i.series_instance_uid), {})
            group[f"{i.sop_instance_uid} {i.file_sha256}"] = (i.received_at, i.modality, i.calling_ae, i.defect)
    lines = []
    for (_, series), group in groups.items():
        times, modalities, senders, _ = zip(*group.values(), strict=True)
        name = f"{modalities[0]} series …{short(series)}"
        seconds = max(times) - min(times)
        text = f"{senders[0]} sent {images(len(group))} of {name} in {seconds:.1f} s; all were answered with Success"
        if senders[0] == RECOVERED:
            text = f"{images(len(group))} of {name} came in from the spool, without a receipt"
        about = frozenset((series,))
        lines.append(Line(time=max(times), stage=Stage.RECEIVE, text=text, about=about))
        defects = [defect for *_, defect in group.values() if defect]
        for defect in unique(defects):
            text = f"{images(defects.count(defect))} of {name} cannot be measured: {defect}"
            lines.append(Line(time=max(times), stage=Stage.RECEIVE, text=text, about=about))
    return lines


# --- assemble -------------------------------------------------------------------------------------------------------


def _assembled(before: StudyAssembled | None, now: StudyAssembled) -> list[Line]:
    """What the assembler's new view says that the one before did not."""
    lines: list[Line] = []

    def say(stage: Stage, text: str, *series: str) -> None:
        lines.append(Line(time=now.at, stage=stage, text=text, about=frozenset(series)))

    old_series = {s.series_instance_uid: s for s in before.series} if before else {}
    if before is None:
        say(Stage.RECEIVE, f"First seen; priority {now.priority}")
    elif now.revision > before.revision:
        say(Stage.ASSEMBLE, f"New images: this is revision {now.revision} of the study")
    if before is not None and now.priority is not before.priority:
        say(Stage.ASSEMBLE, f"Priority is now {now.priority}")
    for item in now.series:
        for text in _series(old_series.get(item.series_instance_uid), item):
            say(Stage.ASSEMBLE, text, item.series_instance_uid)
    known = {j.job_id for j in before.jobs} if before else set()
    for job in now.jobs:
        if job.job_id not in known:
            inputs = {m.series_instance_uid for m in (*job.inputs.values(), *job.sources)}
            say(Stage.QUEUE, _order(job), *inputs)
    if now.reason and now.reason != (before.reason if before else None):
        say(Stage.ASSEMBLE, f"Nothing to analyse: {now.reason}")
    return lines


def _series(old: SeriesStatus | None, new: SeriesStatus) -> list[str]:
    name = f"{new.modality} series …{short(new.series_instance_uid)}"
    proof = "; ".join(e.detail for e in new.evidence if e.what != "rule")
    texts = []
    if old is None or old.grade is not new.grade or (new.grade.complete and old.instances != new.instances):
        if new.grade is Grade.OPEN:
            late = f" again: an image came late, {images(new.instances)} now" if old and old.grade.complete else ""
            waits = new.reason or proof
            texts.append(f"{name} is open{late or f' with {images(new.instances)}'}" + (f": {waits}" if waits else ""))
        elif new.grade is Grade.SHORT:
            texts.append(f"{name} lacks slices, {images(new.instances)} came: {new.reason or proof}")
        else:
            texts.append(
                f"{name} is complete ({new.grade}) with {images(new.instances)}" + (f": {proof}" if proof else "")
            )
    if new.grade.complete and new.roles and (old is None or not old.grade.complete or new.roles != old.roles):
        texts.append(f"{name} can serve as {', '.join(new.roles)}")
    if new.grade.complete and not new.roles and new.reason and (old is None or old.reason != new.reason):
        texts.append(f"{name} is not used: {new.reason}")
    rules = [e.detail for e in new.evidence if e.what == "rule"]
    if rules and (old is None or rules != [e.detail for e in old.evidence if e.what == "rule"]):
        texts.append(f"{name}, by the rules of routing: {'; '.join(rules)}")
    return texts


def _order(job: Job) -> str:
    if job.refusal:
        return f"The pipeline {job.pipeline} will answer ‘not analysed’: {job.refusal}"
    inputs = ", ".join(
        f"series …{short(m.series_instance_uid)} ({images(m.instances)}) as {role}" for role, m in job.inputs.items()
    )
    text = f"The pipeline {job.pipeline} is queued ({job.priority}) with {inputs or 'no series'}"
    if job.earlier is None:
        return text
    if job.earlier.refusal is not None:
        return f"{text}; another scan under its Patient ID is not compared: {job.earlier.refusal}"
    then = f"study …{short(job.earlier.study_instance_uid)}, {job.earlier.hours:.1f} h earlier"
    return f"{text}, to be compared with the same patient's {then}"


# --- work and send --------------------------------------------------------------------------------------------------


def _plain(event: Data) -> list[Line]:
    if isinstance(event, AssociationClosed):
        how = "released" if event.released else "broke off"
        count = sum(event.counts.values())
        text = f"{event.calling_ae} {how} its association after {images(count)}"
        return [Line(time=event.closed_at, stage=Stage.RECEIVE, text=text, about=frozenset(event.counts))]
    if isinstance(event, ReceiveRefused):
        text = f"{event.calling_ae} was refused ({event.status}): {event.reason}"
        return [Line(time=event.at, stage=Stage.RECEIVE, text=text)]
    if isinstance(event, JobStarted):
        again = "" if event.attempt == 1 else f", attempt {event.attempt}"
        return [
            Line(time=event.at, stage=Stage.QUEUE, text=f"A worker took the pipeline {_pipeline(event.job_id)}{again}")
        ]
    if isinstance(event, JobFailed):
        end = "it was given up and waits in the dead letters" if event.final else "it will be tried again"
        text = f"Attempt {event.attempt} at the pipeline {_pipeline(event.job_id)} failed: {event.reason}; {end}"
        return [Line(time=event.at, stage=Stage.INFER, text=text)]
    if isinstance(event, JobSuperseded):
        text = f"The pipeline {_pipeline(event.job_id)} was not finished: a newer revision of the study took its place"
        return [Line(time=event.at, stage=Stage.QUEUE, text=text)]
    return []


def _done(event: JobDone) -> list[Line]:
    about = frozenset(event.input_series)
    if event.outcome == "not_analysed":
        answer = f"not analysed: {event.reason or 'no reason given'}"
    else:
        answer = sentences(event.summary) or event.outcome
    took = sum(event.seconds.get(stage, 0.0) for stage in (Stage.VOLUME, Stage.INFER, Stage.MEASURE))
    lines = [
        Line(
            time=event.at,
            stage=Stage.MEASURE,
            text=f"The pipeline {event.pipeline} answered after {took:.1f} s: {answer}",
            about=about,
        )
    ]
    if event.objects:
        kinds = ", ".join(unique([_KINDS.get(o.kind, o.kind) for o in event.objects]))
        amends = " They amend the earlier result." if event.predecessor else ""
        whither = f"for {', '.join(event.destinations)}" if event.destinations else "(no destination is set)"
        text = f"{images(len(event.objects))} written {whither}: {kinds}.{amends}"
        everything = about | {o.sop_instance_uid for o in event.objects}
        lines.append(Line(time=event.at, stage=Stage.ENCODE, text=text, about=everything))
    return lines


def _deliveries(changes: list[DeliveryChanged], results: dict[str, frozenset[str]]) -> list[Line]:
    """Objects of one job that met the same fate at one destination share a line, at the time of the last."""
    groups: dict[tuple[str, str, str, str | None], list[DeliveryChanged]] = {}
    for change in changes:
        groups.setdefault((change.job_id, change.destination, change.state, change.reason), []).append(change)
    lines = []
    for (job_id, destination, state, reason), group in groups.items():
        uids = {c.sop_instance_uid for c in group}
        what = images(len(uids))
        text = {
            "sent": f"{destination} took {what}",
            "committed": f"{destination} committed {what}",
            "pending": f"{what} {'waits' if len(uids) == 1 else 'wait'} for {destination}",
            "refused": f"{destination} refused {what}",
            "held": f"{what} held back from {destination}",
            "failed": f"{what} for {destination} given up",
        }.get(state, f"{what} for {destination}: {state}")
        attempts = max(c.attempts for c in group)
        text += f" (attempt {attempts})" if attempts > 1 else ""
        text += f": {reason}" if reason else ""
        about = frozenset(uids) | results.get(job_id, frozenset())
        lines.append(Line(time=max(c.at for c in group), stage=Stage.SEND, text=text, about=about))
    return lines


def _pipeline(job_id: str) -> str:
    return job_id.rsplit("-", 2)[0]
