"""Why a study, series or object is where it is: state, reason, and what happened, as a table and as text."""

from __future__ import annotations

from typing import Any, Protocol

from ichor.bus.protocol import Bus
from ichor.clock import rfc3339
from ichor.history.projection import events, log, study_from
from ichor.history.story import Line, story
from ichor.history.study import Study, images, sentences, short
from ichor.messages import EVENTS, Data, InstancesReceived, ReceiveRefused
from ichor.reasons import Reason
from ichor.shards import shard_of
from ichor.types import SeriesStatus
from ichor.uids import is_valid_uid


class Lookup(Protocol):
    """Where a UID lies. The journal is one; the console's projection helps out for results."""

    def locate(self, uid: str) -> tuple[str, str, str | None] | None:
        """``(level, Study Instance UID, Series Instance UID)`` of a UID, or None; the series is None for a study.

        ``level`` is ``study``, ``series`` or ``instance``.
        """


def why(uid: str, *, bus: Bus, journal: Lookup | None, search: bool = True, shards: int = 1) -> dict[str, Any] | None:
    """``{uid, level, state, reason, events: [{time, stage, text}]}`` of docs/contract.md, or None for an unknown UID.

    ``state`` of a study is its state, of a series its grade, of an instance ``stored`` (or its delivery states, when
    Ichor made it). ``reason`` says why it is so or what it waits for.

    Parameters
    ----------
    uid
        Study, Series or SOP Instance UID.
    bus
        Read only.
    journal
        Knows series and objects that were received; None: only what events name is found.
    search
        Look through the whole log for a UID that neither knows (a result's).
    shards
        Into how many studies are divided (`assemble.shards`).
    """
    if not is_valid_uid(uid):
        return None
    history = list(events(bus, uid))
    place = ("study", uid, None) if history else journal.locate(uid) if journal else None
    if place is None and search:
        place = _named(bus, uid)
    if place is None:
        return None
    level, study_uid, series_uid = place
    history = history or list(events(bus, study_uid))
    arrivals = list(events(bus, study_uid, topic=shard_of(study_uid, shards).topic))
    lines = story([*history, *arrivals])
    study = study_from(history)
    if level == "study":
        told = any(isinstance(message, InstancesReceived) for message in arrivals)
        is_stored = told or (journal is not None and journal.locate(study_uid) is not None)
        state, reason = _of_study(study, history, arrivals, is_stored=is_stored)
    elif level == "series":
        state, reason = _of_series(study, series_uid or uid, arrivals)
    else:
        state, reason = _of_instance(study, uid, series_uid, arrivals)
    if level != "study":
        lines = [line for line in lines if not line.about or line.about & {uid, series_uid}]
    return {"uid": uid, "level": level, "state": state, "reason": reason, "events": [_json(line) for line in lines]}


def why_text(answer: dict[str, Any]) -> str:
    """The answer of `why` for a terminal."""
    head = [
        f"{answer['level']} {answer['uid']}",
        f"{answer['state']}" + (f": {answer['reason']}" if answer["reason"] else ""),
    ]
    rows = []
    day = ""
    for event in answer["events"]:
        date, _, time = event["time"].partition("T")
        if date != day:
            rows.append(f"\n{date} (UTC)")
            day = date
        rows.append(f"  {time.rstrip('Z'):<13} {event['stage']:<9} {event['text']}")
    return "\n".join([*head, *rows, "", "RESEARCH: not for diagnosis or treatment."])


def _json(line: Line) -> dict[str, str]:
    return {"time": rfc3339(line.time), "stage": str(line.stage), "text": line.text}


def _of_study(
    study: Study | None, history: list[Data], arrivals: list[Data], *, is_stored: bool
) -> tuple[str, str | None]:
    if study is not None:
        return study.state.value, study.reason or study.waits_for or sentences(study.answers) or None
    refused = next((e.reason for e in reversed(history) if isinstance(e, ReceiveRefused)), None)
    only_ours = _only_ours(arrivals)
    if refused is not None and (only_ours or not is_stored):
        return "refused", refused
    if only_ours:
        # No event tells of such a study: our own objects must not start or list anything.
        return "done", f"{Reason.MADE_BY_ICHOR}; starts nothing"
    some = f"; some were refused: {refused}" if refused is not None else ""
    return "receiving", f"its objects were received; no assembler has looked at them yet{some}"


def _only_ours(arrivals: list[Data], *, series_uid: str | None = None) -> bool:
    """There are objects (of a series), and Ichor made all of them, by what their headers say."""
    told = [i for message in arrivals if isinstance(message, InstancesReceived) for i in message.instances]
    about = [i.made_by_ichor for i in told if series_uid in (None, i.series_instance_uid)]
    return bool(about) and all(about)


def _of_series(study: Study | None, uid: str, arrivals: list[Data]) -> tuple[str, str | None]:
    item = next((s for s in study.series if s.series_instance_uid == uid), None) if study else None
    if item is None:
        made = next((r for r in study.results if r.object.series_instance_uid == uid), None) if study else None
        if made is not None:
            return "made by Ichor", f"holds a {made.object.kind.replace('_', ' ')} of revision {made.revision}"
        if _only_ours(arrivals, series_uid=uid):
            return "made by Ichor", "its objects start nothing"
        return "open", "its objects were received; the series has not been assembled yet"
    return item.grade.value, _sentence(item)


def _of_instance(study: Study | None, uid: str, series_uid: str | None, arrivals: list[Data]) -> tuple[str, str | None]:
    made = next((r for r in study.results if r.object.sop_instance_uid == uid), None) if study else None
    if made is not None:
        kind = f"a {made.object.kind.replace('_', ' ')} that Ichor made (revision {made.revision})"
        states = ", ".join(
            f"{d.destination}: {d.state}" + (f", {d.reason}" if d.reason else "") for d in made.deliveries
        )
        return (
            "sent" if made.deliveries and all(d.state in ("sent", "committed") for d in made.deliveries) else "made"
        ), (f"{kind}; {states or 'no destination is set'}")
    facts = [i for m in arrivals if isinstance(m, InstancesReceived) for i in m.instances if i.sop_instance_uid == uid]
    defect = next((i.defect for i in facts if i.defect), None)
    if defect:
        return "stored", defect
    item = next((s for s in study.series if s.series_instance_uid == series_uid), None) if study else None
    if item is None and any(i.made_by_ichor for i in facts):
        return "stored", f"{Reason.MADE_BY_ICHOR}; starts nothing"
    if item is None:
        return "stored", "it was received; its series has not been assembled yet"
    return (
        "stored",
        f"one of {images(item.instances)} of {item.modality} series …{short(item.series_instance_uid)}: {_sentence(item)}",
    )


def _sentence(item: SeriesStatus) -> str:
    """Evidence and use of a series in one line."""
    use = f"can serve as {', '.join(item.roles)}" if item.roles else f"not used: {item.reason}" if item.reason else None
    if not item.grade.complete:
        use = item.reason
    return "; ".join(part for part in (*(e.detail for e in item.evidence), use) if part) or item.grade.value


def _named(bus: Bus, uid: str) -> tuple[str, str, str | None] | None:
    """Look for a series or a result through the whole log: slow, and the last resort."""
    for envelope in log(bus, EVENTS):
        for item in (*envelope.data.get("series", ()), *envelope.data.get("objects", ())):
            if item.get("sop_instance_uid") == uid:
                return "instance", envelope.subject, item["series_instance_uid"]
            if item.get("series_instance_uid") == uid:
                return "series", envelope.subject, uid
    return None
