"""How values are written on the page: ages, times, states, steps. Formatting only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ichor.history import Study
from ichor.types import JobState, Stage, StudyState

# The way of a study on the page, and where each state stands on it.
FLOW = ("receive", "assemble", "queue", "analyse", "send")
_AT = {
    StudyState.RECEIVING: 0,
    StudyState.ASSEMBLING: 1,
    StudyState.QUEUED: 2,
    StudyState.RUNNING: 3,
    StudyState.SENDING: 4,
    StudyState.DONE: 5,
    StudyState.FAILED: 5,
}
_MEASUREMENTS = {
    "haematoma_volume": "Haematoma volume",
    "haematoma_volume_voxel": "Haematoma volume, voxels",
    "haematoma_volume_abc2": "Haematoma volume, ABC/2",
    "haematoma_not_called": "Too small or faint to call",
    "expansion_probability": "Probability of expansion",
    "haematoma_growth": "Growth since the earlier CT",
    "haematoma_growth_percent": "Growth since the earlier CT, relative",
}
_STAGES = {
    Stage.RECEIVE: "Receive",
    Stage.ASSEMBLE: "Assemble",
    Stage.QUEUE: "Queue",
    Stage.VOLUME: "Build volume",
    Stage.INFER: "Infer",
    Stage.MEASURE: "Measure",
    Stage.ENCODE: "Encode",
    Stage.SEND: "Send",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of the newest job: ``start`` and ``width`` are per mille of the whole time; seconds None: not yet."""

    name: str
    seconds: float | None
    start: int
    width: int


def steps(study: Study) -> list[Step]:
    """The stages of the newest job with their share of the time, in order."""
    job = next((j for j in reversed(study.jobs) if j.state is not JobState.SUPERSEDED), None)
    seconds = job.seconds if job else {}
    total = sum(seconds.values()) or 1.0
    found = []
    passed = 0.0
    for stage in Stage:
        took = seconds.get(stage)
        width = 0 if took is None else max(4, round(1000 * took / total))
        start = min(round(1000 * passed / total), 1000 - width)
        found.append(Step(name=_STAGES[stage], seconds=took, start=start, width=width))
        passed += took or 0.0
    return found


def ago(at: float, now: float) -> str:
    """``4 s ago``, ``12 min ago``, ``3 h ago``, then the day."""
    age = max(0.0, now - at)
    if age < 60:
        return f"{age:.0f} s ago"
    if age < 3600:
        return f"{age // 60:.0f} min ago"
    if age < 86400:
        return f"{age // 3600:.0f} h ago"
    return datetime.fromtimestamp(at, UTC).strftime("%-d %b %Y")


def clock(at: float | str) -> str:
    """``12:03:04``, UTC."""
    return _stamp(at).strftime("%H:%M:%S")


def moment(at: float | str) -> str:
    """``2 Jan 2026, 12:03:04 UTC``."""
    return _stamp(at).strftime("%-d %b %Y, %H:%M:%S UTC")


def duration(seconds: float | None) -> str:
    """``0.42 s``, ``3.1 s``, ``2 min 05 s``."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"


def number(value: float, unit: str) -> str:
    """A measurement to one decimal; a probability as percent."""
    if unit == "1":
        return f"{100 * value:.0f} %"
    return f"{value:.1f} {unit}"


def headline(study: Study) -> str:
    """The one line about a study: its answer as soon as there is one, what is wrong, or what it waits for."""
    if study.state is StudyState.FAILED:
        return sentence(study.reason or "failed")
    if study.answers and study.state in (StudyState.SENDING, StudyState.DONE):
        return sentence(study.answers[0])
    if study.waits_for:
        return sentence(study.waits_for)
    return sentence(study.reason or "done")


def more(study: Study) -> list[str]:
    """What else there is to say below the headline."""
    if study.state is StudyState.SENDING:
        return [sentence(t) for t in (*study.answers[1:], study.waits_for or "") if t]
    if study.state is StudyState.DONE:
        return [sentence(t) for t in study.answers[1:]]
    before = "Answered" if study.state is StudyState.FAILED else "Earlier answer"
    return [f"{before}: {t}" for t in study.answers]


def tone(study: Study) -> str:
    """``busy``, ``failed``, ``found``, ``none`` or ``unanalysed``: how the page colours a study."""
    if not study.final:
        return "busy"
    if study.state is StudyState.FAILED:
        return "failed"
    outcomes = {j.done.outcome for j in study.jobs if j.done is not None and j.current}
    for outcome in ("found", "none"):
        if outcome in outcomes:
            return outcome
    return "unanalysed"


def sentence(text: str) -> str:
    """With a capital at the beginning."""
    return text[:1].upper() + text[1:]


def _stamp(at: float | str) -> datetime:
    return datetime.fromisoformat(at) if isinstance(at, str) else datetime.fromtimestamp(at, UTC)


FILTERS: dict[str, Callable[..., Any]] = {
    "ago": ago,
    "clock": clock,
    "moment": moment,
    "duration": duration,
    "number": number,
    "headline": headline,
    "more": more,
    "tone": tone,
    "sentence": sentence,
    "position": lambda study: _AT[study.state],
    "measurement": lambda name: _MEASUREMENTS.get(name, sentence(name.replace("_", " "))),
    "kind": lambda name: sentence(name.replace("_", " ")),
}
